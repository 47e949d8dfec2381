"""Step 3b: forecast stores in the formats that people use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from forecast.core.config import Config
from forecast.core.errors import ForecastError
from forecast.core.forecasts import Forecasts
from forecast.core.progress import console
from forecast.core.sections import OutputSection
from forecast.outputs import export, products
from forecast.outputs.selection import select


def write(store: Path, to: Path, section: OutputSection, starts: Sequence[str] | None = None) -> Path:
    """Export what `section` asks for of the forecast store to the file `to`, and say how exact it is.

    Raises:
        ForecastError: something that the store or the format does not hold; see `forecast.outputs.export`.
    """
    forecasts = Forecasts.open(store)
    members = None if section.members is None else [str(member) for member in section.members]
    chosen = select(forecasts, section.variables, starts, members, section.leads, section.area)
    made = products.parse(section.products, chosen.variables, len(chosen.members))
    for note in export.export(chosen, to, made, section.packing, section.bits, section.grib):
        console.print(f"{to.name}: {note}", highlight=False)
    return to


def check(config: Config, keeps_fields: bool) -> None:
    """Raises ForecastError where a run is asked for outputs, but drops the fields that they are made of."""
    if config.forecast.outputs and not keeps_fields:
        raise ForecastError("forecast.outputs are made of the fields, which --no-store drops: leave one of them out")


def write_all(config: Config, store: Path) -> list[Path]:
    """The files of `forecast.outputs`, beside the store; none before all parts of a shared run have finished."""
    if not config.forecast.outputs:
        return []
    if not np.all(Forecasts.open(store).units):
        console.print(f"{store} is not finished: its outputs are left to the part that finishes it")
        return []
    return [write(store, store.parent / name, section) for name, section in config.forecast.outputs.items()]
