"""GRIB2 files through eccodes, a message a field."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import eccodes
import numpy as np
from eccodes import CodesInternalError

from forecast.core.errors import ForecastError
from forecast.core.times import parse_duration
from forecast.outputs import cf
from forecast.outputs.grib_grid import grid_keys
from forecast.outputs.grib_keys import (
    PRODUCT_TEMPLATES,
    date_keys,
    ensemble_keys,
    kind_of,
    member_keys,
    parameter,
    time_keys,
)
from forecast.outputs.products import Product
from forecast.outputs.selection import Selection

# Not eccodes' default of 9999, which is a likely geopotential
_MISSING = float(np.finfo(np.float32).max)
PACKINGS = {"simple": "grid_simple", "ccsds": "grid_ccsds", "ieee": "grid_ieee"}


class GribFile:
    """A file that takes the fields of `selection`: members, or `products` of them.

    Args:
        packing: simple, ccsds (smaller files), or ieee (32-bit floats, exact).
        bits: of a packed value. keys: further keys for all messages (`centre`), set before the rest.

    Raises:
        ForecastError: a grid, a variable or a product that GRIB cannot hold, or a key that it does not know.
    """

    def __init__(
        self,
        path: Path,
        selection: Selection,
        products: tuple[Product, ...],
        packing: str = "ccsds",
        bits: int = 16,
        keys: Mapping[str, int | str] | None = None,
    ) -> None:
        if packing not in PACKINGS:
            raise ForecastError(f"packing `{packing}`: choose one of {', '.join(PACKINGS)}")
        self._selection, self._packing, self._bits = selection, PACKINGS[packing], bits
        self._keys = {"centre": "255", "tablesVersion": "33", "productionStatusOfProcessedData": "2"}
        self._keys |= {key: str(value) for key, value in (keys or {}).items()}
        self._factors = {name: self._parameter(name)[1] for name in selection.variables}
        self._handles: dict[tuple[str, Product | None], int] = {}
        self._errors: dict[str, float] = {}
        self._skipped: dict[str, int] = {}
        period = selection.forecasts.settings.get("accumulation")
        self._period = parse_duration(period) if period else None
        perturbation = selection.forecasts.settings.get("perturbation")
        self._control = isinstance(perturbation, dict) and bool(perturbation.get("control"))
        self._grid = self._grid_handle()
        for name in selection.variables:
            for product in products or (None,):
                if product is None or product.of(name):
                    self._handle(name, product)
        self._file = path.open("wb")

    def members(self, variable: str, start: int, lead: int, rows: np.ndarray, values: np.ndarray) -> None:
        """Members `rows` (m,) of one field, (m, G); `start` and `lead` are positions in the selection."""
        chosen = self._selection
        for number, field in zip(chosen.forecasts.members[chosen.members[rows]], values, strict=True):
            self._message(variable, None, start, lead, field, member_keys(int(number), self._control))

    def product(self, variable: str, start: int, lead: int, product: Product, values: np.ndarray) -> None:
        """A product (G,) of one field."""
        self._message(variable, product, start, lead, values, {})

    def close(self) -> None:
        """Write what is left.

        Raises:
            OSError: no room on the disk.
        """
        for handle in (*self._handles.values(), self._grid):
            eccodes.codes_release(handle)
        self._handles = {}
        self._file.close()

    def notes(self) -> list[str]:
        """The largest error of packing a variable, and what could not be written."""
        lines = [f"{name}: packing error at most {error:.2g}" for name, error in self._errors.items()]
        skipped = [f"{name}: {count} fields left out, whose accumulation begins before the forecast"
                   for name, count in self._skipped.items()]  # fmt: skip
        return lines + skipped

    def _parameter(self, name: str) -> tuple[int, float, dict[str, Any]]:
        return parameter(name, self._keys["centre"] in ("98", "ecmf"))

    def _grid_handle(self) -> int:
        sample, keys = grid_keys(self._selection.grid, self._selection.forecasts.grid)
        handle = eccodes.codes_grib_new_from_samples(sample)
        for key, value in keys.items():
            if isinstance(value, np.ndarray):
                eccodes.codes_set_array(handle, key, value.astype(int))
            else:
                eccodes.codes_set(handle, key, value)
        for key, value in self._keys.items():
            self._set_user(handle, key, value)
        eccodes.codes_set(handle, "packingType", self._packing)
        return int(handle)

    def _set_user(self, handle: int, key: str, value: str) -> None:
        try:
            eccodes.codes_set(handle, key, value)
        except CodesInternalError as error:
            raise ForecastError(f"--grib {key}={value}: {error}") from None

    def _handle(self, name: str, product: Product | None) -> int:
        """A message with all keys that its fields share."""
        key = (name, product)
        if key in self._handles:
            return self._handles[key]
        param, factor, level = self._parameter(name)
        handle = int(eccodes.codes_clone(self._grid))
        self._handles[key] = handle
        members = len(self._selection.members if product else self._selection.forecasts.members)
        instant, interval = PRODUCT_TEMPLATES[kind_of(product)]
        settings = {
            "productDefinitionTemplateNumber": instant if cf.over_time(name) == "point" else interval,
            "paramId": param,
            **level,
            **ensemble_keys(product, members, factor),
        }
        for setting, value in settings.items():
            if value is None:
                eccodes.codes_set_missing(handle, setting)
            else:
                eccodes.codes_set(handle, setting, value)
        return handle

    def _message(
        self, name: str, product: Product | None, start: int, lead: int, values: np.ndarray, keys: dict[str, Any]
    ) -> None:
        chosen = self._selection
        begin, ahead = chosen.forecasts.starts[chosen.starts[start]], chosen.forecasts.leads[chosen.leads[lead]]
        step = time_keys(name, begin, ahead, self._period)
        if step is None:
            self._skipped[name] = self._skipped.get(name, 0) + 1
            return
        handle = self._handles[name, product]
        for key, value in (date_keys(begin) | step | keys).items():
            eccodes.codes_set(handle, key, value)
        self._encode(handle, name, values * self._factor(name, product))
        eccodes.codes_write(handle, self._file)

    def _factor(self, name: str, product: Product | None) -> float:
        return 100.0 if product is not None and product.kind == "probability" else self._factors[name]

    def _encode(self, handle: int, name: str, values: np.ndarray) -> None:
        """Pack (G,) values, NaN by a bitmap, and remember the error."""
        missing = np.isnan(values)
        values = np.where(missing, _MISSING, values).astype(np.float64)
        eccodes.codes_set(handle, "missingValue", _MISSING)
        eccodes.codes_set(handle, "bitmapPresent", int(missing.any()))
        if self._packing == "grid_ieee":
            eccodes.codes_set(handle, "precision", 1)
        else:
            eccodes.codes_set(handle, "bitsPerValue", self._bits)
        eccodes.codes_set_values(handle, values)
        if self._packing != "grid_ieee":
            error = eccodes.codes_get(handle, "packingError")
            self._errors[name] = max(self._errors.get(name, 0.0), float(error))
