"""(sum, weight) of every statistic: what verification keeps, merges and saves."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from forecast.core.errors import ForecastError
from forecast.verification.metric import Metric, Statistic

DIMS = ("variable", "init_time", "lead_time", "region")


class Sums:
    """Sums and weights of statistics by variable, start, lead and region; they add.

    The weight of a complete case (variable, start, lead, region) is 1 and its sum is the area mean, so a mean over
    starts gives each start the same say. A case that was not scored weighs nothing.

    Attributes:
        sum: one array a statistic, dims (variable, init_time, lead_time, region[, axis]), float64.
        weight: the same without the axis.
        attrs: label, members, anything plain.
    """

    def __init__(self, sum: xr.Dataset, weight: xr.Dataset, attrs: Mapping[str, Any]) -> None:
        self.sum, self.weight, self.attrs = sum, weight, dict(attrs)

    @classmethod
    def zeros(
        cls,
        statistics: Iterable[Statistic],
        axes: Mapping[str, int],
        variables: Sequence[str],
        starts: np.ndarray,
        leads: np.ndarray,
        regions: Sequence[str],
        **attrs: Any,
    ) -> Sums:
        """Empty sums. `axes` gives the length of each statistic's axis (rank: M + 1)."""
        statistics = tuple(statistics)
        coords: dict[Hashable, Any] = {
            "variable": list(variables),
            "init_time": starts.astype("datetime64[s]"),
            "lead_time": leads.astype("timedelta64[s]"),
            "region": list(regions),
        }
        shape = tuple(len(coords[d]) for d in DIMS)
        weight = xr.Dataset({s.name: (DIMS, np.zeros(shape)) for s in statistics}, coords)
        coords |= {s.axis: np.arange(axes[s.axis]) for s in statistics if s.axis}
        arrays = {
            s.name: ((*DIMS, s.axis), np.zeros((*shape, axes[s.axis]))) if s.axis else (DIMS, np.zeros(shape))
            for s in statistics
        }
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
        order = {"variable": list(dict.fromkeys([*self.sum["variable"].values, *other.sum["variable"].values]))}
        (sum_a, sum_b), (weight_a, weight_b) = both
        return Sums((sum_a + sum_b).sel(order), (weight_a + weight_b).sel(order), self.attrs)

    @property
    def members(self) -> int:
        """Ensemble size M."""
        return int(self.attrs["members"])

    def metric(self, metric: Metric, over: Sequence[str] = ("init_time",)) -> xr.DataArray:
        """A score from means over the dims `over`; NaN where nothing was scored."""
        means = []
        for statistic in metric.statistics:
            total, weight = self.sum[statistic.name].sum(over, skipna=False), self.weight[statistic.name].sum(over)
            means.append(total / weight.where(weight > 0))
        return metric.value(*means).rename(metric.name)

    def save(self, path: Path) -> None:
        """Write a NetCDF file with the groups `sum` and `weight`."""
        squeeze = {name: {"zlib": True, "complevel": 1} for name in self.sum}
        self.sum.assign_attrs(self.attrs).to_netcdf(path, group="sum", mode="w", engine="netcdf4", encoding=squeeze)
        self.weight.to_netcdf(path, group="weight", mode="a", engine="netcdf4", encoding=squeeze)

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
        attrs = {name: value.item() if isinstance(value, np.generic) else value for name, value in sum.attrs.items()}
        return cls(sum.drop_attrs(deep=False), weight, attrs)
