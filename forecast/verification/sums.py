"""(sum, weight) of every statistic: what verification keeps, merges and saves."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from forecast.core.errors import ForecastError
from forecast.verification.metric import WIDE, Metric, Statistic

DIMS = ("variable", "init_time", "lead_time", "region")
MONTH = "init_month"


class Sums:
    """Sums and weights of statistics by variable, start, lead and region; they add.

    The weight of a complete case (variable, start, lead, region) is 1 and its sum is the area mean, so a mean over
    starts gives each start the same say. A case that was not scored weighs nothing.

    Attributes:
        sum: one array a statistic, dims (variable, init_time, lead_time, region[, axes]), float64; after `compact`
            those with a long axis have `init_month` in place of `init_time`.
        weight: the same without the axes.
        attrs: label, members, anything plain.
    """

    def __init__(self, sum: xr.Dataset, weight: xr.Dataset, attrs: Mapping[str, Any]) -> None:
        self.sum, self.weight, self.attrs = sum, weight, dict(attrs)

    @classmethod
    def zeros(
        cls,
        statistics: Iterable[Statistic],
        axes: Mapping[str, int | Sequence[Any]],
        variables: Sequence[str],
        starts: np.ndarray,
        leads: np.ndarray,
        regions: Sequence[str],
        **attrs: Any,
    ) -> Sums:
        """Empty sums. `axes` gives the length of each statistic's axes (rank: M + 1), or their labels."""
        statistics = tuple(statistics)
        coords: dict[Hashable, Any] = {
            "variable": list(variables),
            "init_time": starts.astype("datetime64[s]"),
            "lead_time": leads.astype("timedelta64[s]"),
            "region": list(regions),
        }
        shape = tuple(len(coords[d]) for d in DIMS)
        weight = xr.Dataset({s.name: (DIMS, np.zeros(shape)) for s in statistics}, coords)
        for axis in dict.fromkeys(axis for s in statistics for axis in s.axes):
            labels = axes[axis]
            coords[axis] = np.arange(labels) if isinstance(labels, int) else list(labels)
        arrays = {}
        for s in statistics:
            lengths = tuple(len(coords[axis]) for axis in s.axes)
            arrays[s.name] = ((*DIMS, *s.axes), np.zeros(shape + lengths))
        return cls(xr.Dataset(arrays, coords), weight, attrs)

    def __add__(self, other: Sums) -> Sums:
        """The sums over both; slots that only one has stay as they are.

        Raises:
            ForecastError: different members or labels.
        """
        if self.attrs != other.attrs:
            raise ForecastError(f"sums of different things do not add: {self.attrs} and {other.attrs}")
        both = [xr.align(a, b, join="outer", fill_value=0.0) for a, b in
                ((self.sum, other.sum), (self.weight, other.weight))]  # fmt: skip
        order = {name: _union(self.sum[name].values, other.sum[name].values)
                 for name in ("variable", "region", "event") if name in self.sum.dims}  # fmt: skip
        (sum_a, sum_b), (weight_a, weight_b) = both
        kept = {name: labels for name, labels in order.items() if name in weight_a.dims}
        return Sums((sum_a + sum_b).sel(order), (weight_a + weight_b).sel(kept), self.attrs)

    def compact(self) -> Sums:
        """The same, with statistics of a long axis (ranks, wavenumbers) added up by the month of their starts.

        A year of daily starts would take gigabytes otherwise; months are enough for seasons and add like starts.
        """
        wide = [name for name, array in self.sum.items() if set(array.dims) & set(WIDE)]
        if not wide or MONTH in self.sum.dims:
            return self
        months = self.sum["init_time"].values.astype("datetime64[M]")
        parts = []
        for dataset in (self.sum, self.weight):
            pieces = [
                dataset[wide].isel(init_time=months == month).sum("init_time", skipna=False)
                for month in np.unique(months)
            ]
            label = xr.DataArray(np.unique(months).astype("datetime64[s]"), dims=MONTH, name=MONTH)
            by_month = xr.concat(pieces, label).transpose("variable", MONTH, ...)
            parts.append(dataset.drop_vars(wide).merge(by_month)[list(dataset)])
        return Sums(parts[0], parts[1], self.attrs)

    def select(self, starts: np.ndarray) -> Sums:
        """Only some starts, as a mask (S,) or positions, of the sums that are kept by start."""
        return Sums(self.sum.isel(init_time=starts), self.weight.isel(init_time=starts), self.attrs)

    @cached_property
    def arrays(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Statistic -> its sums and weights, to be filled in place."""
        return {str(name): (array.values, self.weight[name].values) for name, array in self.sum.items()}

    @cached_property
    def _places(self) -> list[dict[Any, int]]:
        """Label -> position, of variables, starts (seconds since 1970) and leads (seconds)."""
        variables, starts, leads = (self.sum[dim].values for dim in DIMS[:3])
        times = [_seconds(starts, "datetime64[s]"), _seconds(leads, "timedelta64[s]")]
        return [{label: k for k, label in enumerate(labels)} for labels in (variables.tolist(), *times)]

    def slot(self, variable: str, start: np.datetime64, lead: np.timedelta64) -> tuple[int, int, int]:
        """Position of a field in the sums by start.

        Raises:
            KeyError: they have none for it.
        """
        v, s, k = self._places
        when = _seconds(np.array([start]), "datetime64[s]")[0]
        return v[variable], s[when], k[_seconds(np.array([lead]), "timedelta64[s]")[0]]

    @property
    def members(self) -> int:
        """Ensemble size M."""
        return int(self.attrs["members"])

    def holds(self, metric: Metric) -> bool:
        """Whether all statistics of a metric are here."""
        return all(s.name in self.sum for s in metric.statistics)

    def metric(self, metric: Metric, over: Sequence[str] = ("init_time",)) -> xr.DataArray:
        """A score from means over the dims `over`; NaN where nothing was scored."""
        over = (*over, MONTH) if "init_time" in over else tuple(over)
        means = []
        for statistic in metric.statistics:
            total, weight = self.sum.variables[statistic.name], self.weight.variables[statistic.name]
            along = [dim for dim in over if dim in total.dims]
            total, weight = total.sum(along, skipna=False), weight.sum(along)
            means.append(xr.DataArray(total / weight.where(weight > 0)))  # without labels: xarray is slow to align them
        value = metric.value(*means).transpose(*DIMS, ..., missing_dims="ignore")
        labels = {dim: self.sum.variables[dim] for dim in value.dims
                  if self.sum.sizes.get(dim) == value.sizes[dim] and dim not in value.coords}  # fmt: skip
        return value.assign_coords(labels).rename(metric.name)

    def save(self, path: Path) -> None:
        """Write a NetCDF file with the groups `sum` and `weight`; statistics that weigh the same share an array."""
        squeeze: dict[Hashable, Any] = {"zlib": True, "complevel": 1}
        clock: dict[Hashable, Any] = {
            name: {"units": "seconds since 1970-01-01"} for name in ("init_time", MONTH) if name in self.sum.coords
        }
        self.sum.assign_attrs(self.attrs).to_netcdf(
            path, group="sum", mode="w", engine="netcdf4", encoding=clock | {name: squeeze for name in self.sum}
        )
        distinct: dict[bytes, tuple[str, list[str]]] = {}
        for name, weight in self.weight.items():
            key = repr(weight.dims).encode() + weight.values.tobytes()
            distinct.setdefault(key, (str(name), []))[1].append(str(name))
        weights = self.weight[[first for first, _ in distinct.values()]]
        for first, names in distinct.values():
            weights[first].attrs["statistics"] = " ".join(names)
        weights.to_netcdf(
            path, group="weight", mode="a", engine="netcdf4", encoding=clock | {name: squeeze for name in weights}
        )

    @classmethod
    def open(cls, path: Path) -> Sums:
        """Read what `save` wrote, whole.

        Raises:
            ForecastError: not there.
        """
        seconds = xr.coders.CFDatetimeCoder(time_unit="s")
        try:
            sum, weight = (
                xr.load_dataset(path, group=group, engine="netcdf4", decode_times=seconds, decode_timedelta=True)
                for group in ("sum", "weight")
            )
        except (OSError, KeyError):
            raise ForecastError(f"{path} holds no sums: give a folder that `forecast verify` wrote") from None
        shared = {
            name: weight.drop_attrs() for weight in weight.values() for name in weight.attrs["statistics"].split()
        }
        weight = weight.drop_vars(list(weight)).assign({name: shared[name] for name in sum})
        attrs = {name: value.item() if isinstance(value, np.generic) else value for name, value in sum.attrs.items()}
        return cls(sum.drop_attrs(deep=False), weight, attrs)


def _seconds(times: np.ndarray, kind: str) -> list[int]:
    seconds: list[int] = times.astype(kind).astype(np.int64).tolist()
    return seconds


def _union(a: np.ndarray, b: np.ndarray) -> list[Any]:
    return list(dict.fromkeys([*a.tolist(), *b.tolist()]))
