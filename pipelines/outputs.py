"""Step 3b: forecast stores in the formats that people use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from forecast.core.config import Config
from forecast.core.errors import ForecastError
from forecast.core.forecasts import Forecasts, Layout
from forecast.core.progress import console
from forecast.core.sections import OutputSection
from forecast.outputs import export, products
from forecast.outputs.selection import Selection, select


def write(store: Path, to: Path, section: OutputSection, starts: Sequence[str] | None = None) -> Path:
    """Export what `section` asks for of the forecast store to the file `to`, and say how exact it is.

    Raises:
        ForecastError: something that the store or the format does not hold; see `forecast.outputs.export`.
    """
    chosen, made, notes = _selected(Forecasts.open(store), to.name, section, starts)
    for note in notes + export.export(chosen, to, made, section.packing, section.bits, section.grib):
        console.print(f"{to.name}: {note}", highlight=False)
    return to


def check(config: Config, layout: Layout, keeps_fields: bool) -> None:
    """Raises ForecastError where a run is asked for outputs that its store will not hold, or whose fields it drops."""
    if config.forecast.outputs and not keeps_fields:
        raise ForecastError("forecast.outputs are made of the fields, which --no-store drops: leave one of them out")
    for name, section in config.forecast.outputs.items():
        _selected(Forecasts.planned(Path(config.forecast.out), layout), name, section)


def write_all(config: Config, store: Path) -> list[Path]:
    """The files of `forecast.outputs`, beside the store; none before all parts of a shared run have finished."""
    if not config.forecast.outputs:
        return []
    if not np.all(Forecasts.open(store).units):
        console.print(f"{store} is not finished: its outputs are left to the part that finishes it")
        return []
    return [write(store, store.parent / name, section) for name, section in config.forecast.outputs.items()]


def _selected(
    forecasts: Forecasts, name: str, section: OutputSection, starts: Sequence[str] | None = None
) -> tuple[Selection, tuple[products.Product, ...], list[str]]:
    """What goes into a file, the products made of it, and what is left out because nobody asked for it by name."""
    members = None if section.members is None else [str(member) for member in section.members]
    wanted, notes = section.variables, []
    events = [v for v in forecasts.variables if v in forecasts.settings.get("events", {})]
    if wanted is None and events and Path(name).suffix in export.GRIB:
        wanted = tuple(v for v in forecasts.variables if v not in events)
        notes = [f"left out, since GRIB has no code for what an event head gives: {', '.join(events)}"]
    chosen = select(forecasts, wanted, starts, members, section.leads, section.area)
    return chosen, products.parse(section.products, chosen.variables, len(chosen.members)), notes
