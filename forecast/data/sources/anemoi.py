"""Whatever `anemoi.datasets.open_dataset` opens: stores in Zarr v2 and v3, joins, subsets, ensembles, other grids."""

from __future__ import annotations

import json
import warnings
from typing import Any

import numpy as np

from forecast.core import variables
from forecast.core.archive_sections import AnemoiSource
from forecast.core.errors import ForecastError
from forecast.core.units import conversion
from forecast.data.sources.catalogue import Contents


class AnemoiDataset:
    """The states of an anemoi dataset; see `catalogue.Source`."""

    def __init__(self, section: AnemoiSource) -> None:
        """Open the dataset.

        Raises:
            ForecastError: anemoi-datasets is not installed, refuses the dataset, or it lacks a variable wanted.
        """
        self._section = section
        data = self._open()
        self._positions = {_seconds(date): k for k, date in enumerate(data.dates) if k not in data.missing}
        wanted = section.names() or tuple(data.variables)
        for name in wanted:
            if name not in data.name_to_index:
                raise ForecastError(f"no {name} in {section.dataset}: found {', '.join(data.variables)}")
        self._columns = [data.name_to_index[name] for name in wanted]
        described = getattr(data, "variables_metadata", None) or {}
        self._conversions, metadata = [], {}
        for name in wanted:
            units = (described.get(name) or {}).get("units") or variables.metadata(name)["units"]
            self._conversions.append(conversion(name, units))
            metadata[name] = variables.metadata(name, units) | _period(described.get(name) or {})
        shape = getattr(data, "field_shape", None) or (data.shape[3],)
        self.contents = Contents(
            dates=np.array(sorted(self._positions), "datetime64[s]"),
            variables=wanted,
            metadata=metadata,
            constant=tuple(name for name in wanted if name in getattr(data, "constant_fields", ())),
            members=tuple(range(data.shape[2])),
            latitudes=np.asarray(data.latitudes, np.float64),
            longitudes=np.asarray(data.longitudes, np.float64) % 360.0,
            field_shape=tuple(int(n) for n in shape),
            files=({"name": json.dumps(section.dataset, sort_keys=True, default=str)},),
        )

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_data"}

    def read(self, dates: np.ndarray) -> np.ndarray:
        """See `catalogue.Source`."""
        data = self._data if "_data" in self.__dict__ else self._open()
        states = np.stack([data[self._positions[_seconds(date)]] for date in dates])[:, self._columns]
        states = np.ascontiguousarray(states, np.float32)
        for v, (factor, offset) in enumerate(self._conversions):
            if (factor, offset) != (1.0, 0.0):
                states[:, v] = states[:, v].astype(np.float64) * factor + offset
        return states

    def stamp(self, dates: np.ndarray) -> str:
        """See `catalogue.Source`."""
        return str(self.contents.files[0]["name"])

    def _open(self) -> Any:
        try:
            from anemoi.datasets import open_dataset
        except ImportError:
            raise ForecastError("source.kind anemoi needs anemoi-datasets: docs/dependencies.md says how") from None
        given = self._section.dataset
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._data = open_dataset(given) if isinstance(given, str) else open_dataset(_plain(given))
        except Exception as error:  # it raises whatever comes
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ForecastError(f"anemoi-datasets refuses {given} ({type(error).__name__}: {reason})") from None
        return self._data


def _plain(value: Any) -> Any:
    """Dates as text, as open_dataset takes them."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _seconds(date: Any) -> np.datetime64:
    return np.datetime64(date, "s")


def _period(described: dict[str, Any]) -> dict[str, Any]:
    return {"period": described["period"]} if "period" in described else {}
