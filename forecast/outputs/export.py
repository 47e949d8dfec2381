"""Export of a forecast store: one block of one field in memory at a time, to a file that appears when it is whole."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Protocol

import numpy as np

from forecast.core.errors import ForecastError
from forecast.core.progress import bar
from forecast.outputs.draft import draft
from forecast.outputs.grib import GribFile
from forecast.outputs.netcdf import NetcdfFile
from forecast.outputs.products import Product
from forecast.outputs.selection import Selection

GRIB, NETCDF = (".grib", ".grib2", ".grb", ".grb2"), (".nc", ".nc4")


class OutputFile(Protocol):
    """A file that takes fields; `start` and `lead` are positions in the selection, `rows` (m,) in its members."""

    def members(self, variable: str, start: int, lead: int, rows: np.ndarray, values: np.ndarray) -> None: ...
    def product(self, variable: str, start: int, lead: int, product: Product, values: np.ndarray) -> None: ...
    def close(self) -> None: ...
    def notes(self) -> list[str]: ...


def export(
    selection: Selection,
    path: str | Path,
    products: tuple[Product, ...] = (),
    packing: str = "ccsds",
    bits: int = 16,
    keys: Mapping[str, int | str] | None = None,
) -> list[str]:
    """Write what is selected to `path`: all members, or `products` of the selected members.

    Members pass through memory a batch of the store at a time, products a field (all members of it) at a time.

    Args:
        path: its suffix says the format: .nc, .grib2.
        packing, bits, keys: of GRIB; see `GribFile`.

    Returns:
        What the user should know of the file: packing errors, fields that it cannot hold.

    Raises:
        ForecastError: an unknown suffix, something that the format cannot hold, a disk that is full.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in GRIB + NETCDF:
        raise ForecastError(f"{path}: the suffix says the format; choose one of {', '.join(NETCDF + GRIB)}")
    with draft(path) as hidden:
        file: OutputFile = (
            GribFile(hidden, selection, products, packing, bits, keys)
            if kind in GRIB
            else NetcdfFile(hidden, selection, products)
        )
        with closing(file):
            _fill(file, selection, products, path)
    return file.notes()


def _fill(file: OutputFile, selection: Selection, products: tuple[Product, ...], path: Path) -> None:
    total = len(selection.starts) * len(selection.leads) * len(selection.variables)
    with bar(f"write {path.name}", total) as progress:
        for i, start in enumerate(selection.starts):
            for k, lead in enumerate(selection.leads):
                for name in selection.variables:
                    if products:
                        _products(file, selection, products, name, (i, int(start)), (k, int(lead)))
                    else:
                        for rows, values in selection.blocks(name, int(start), int(lead)):
                            file.members(name, i, k, rows, values)
                    progress.advance()


def _products(
    file: OutputFile,
    selection: Selection,
    products: tuple[Product, ...],
    name: str,
    start: tuple[int, int],
    lead: tuple[int, int],
) -> None:
    wanted = [product for product in products if product.of(name)]
    if wanted:
        values = selection.read(name, start[1], lead[1])
        for product in wanted:
            file.product(name, start[0], lead[0], product, product.compute(values))
