"""Scores of decisions taken where enough members pass a limit: ROC, economic value, contingency scores."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import xarray as xr

from forecast.verification.events import TABLE
from forecast.verification.metric import Better, Metric

COSTS = np.geomspace(0.005, 1.0, 51)[:-1]


class _Decisions(Metric):
    units: ClassVar[str] = "1"
    better: ClassVar[Better] = "high"
    statistics = (TABLE,)


def contingency(table: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray, xr.DataArray, xr.DataArray]:
    """Hits, misses, false alarms, correct rejections (shares) of warning when at least k members pass the limit.

    (..., exceeding) with k = 0..M+1 of M members: from always to never.
    """
    padded = table.drop_vars("exceeding", errors="ignore").pad(exceeding=(0, 1), constant_values=0.0)
    warned = padded.isel(exceeding=slice(None, None, -1)).cumsum("exceeding", skipna=False)
    warned = warned.isel(exceeding=slice(None, None, -1))
    silent = table.sum("exceeding", skipna=False) - warned
    return (warned.isel(occurred=1, drop=True), silent.isel(occurred=1, drop=True),
            warned.isel(occurred=0, drop=True), silent.isel(occurred=0, drop=True))  # fmt: skip


def roc(table: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    """Hit rate and false alarm rate (..., exceeding) for k = 0..M+1."""
    hits, misses, false, correct = contingency(table)
    event, none = hits + misses, false + correct
    return hits / event.where(event > 0), false / none.where(none > 0)


class HitRate(_Decisions):
    """(..., decision) share of events warned of when at least k members pass the limit: the ROC's ordinate."""

    name, title = "hit_rate", "ROC: hit rate"
    reference = "Mason 1982; Wilks 2019, 9.4.6"

    def value(self, *means: xr.DataArray) -> xr.DataArray:
        """hits / (hits + misses)."""
        return roc(means[0])[0].rename(exceeding="decision")


class FalseAlarmRate(_Decisions):
    """(..., decision) share of non-events that were warned of: the ROC's abscissa."""

    name, title, better = "false_alarm_rate", "ROC: false alarm rate", "low"
    reference = HitRate.reference

    def value(self, *means: xr.DataArray) -> xr.DataArray:
        """false alarms / (false alarms + correct rejections)."""
        return roc(means[0])[1].rename(exceeding="decision")


class ROCArea(_Decisions):
    """Area under the ROC by trapezoids: the probability that an event had more members than a non-event, ties half."""

    name, title = "roc_area", "Area under the ROC"
    reference = "Mason and Graham 2002, doi:10.1256/003590002320603584"

    def value(self, *means: xr.DataArray) -> xr.DataArray:
        """Trapezoids over k = 0..M+1."""
        hit, false = roc(means[0])
        width = false.isel(exceeding=slice(None, -1)) - false.isel(exceeding=slice(1, None))
        height = (hit.isel(exceeding=slice(None, -1)) + hit.isel(exceeding=slice(1, None))) / 2
        return (width * height).sum("exceeding", skipna=False)


class EconomicValue(_Decisions):
    """(..., cost) relative economic value for users of each cost-loss ratio who act on the best k.

    (C_climate - C) / (C_climate - C_perfect), C = a (hits + false alarms) + misses: 1 for a perfect forecast, 0 for
    always or never acting, whichever is better.
    """

    name, title = "economic_value", "Relative economic value"
    reference = "Richardson 2000, doi:10.1002/qj.49712656313; WeatherBench-X RelativeEconomicValue"

    def value(self, *means: xr.DataArray) -> xr.DataArray:
        """Best over k = 0..M+1, which includes always and never."""
        hits, misses, false, _ = contingency(means[0])
        rate = (hits + misses).isel(exceeding=0, drop=True)
        cost = xr.DataArray(COSTS, dims="cost")
        best = (cost * (hits + false) + misses).min("exceeding", skipna=False)
        climate = xr.where(cost < rate, cost, rate).where(rate.notnull())
        saved = climate - cost * rate
        return ((climate - best) / saved.where(saved > 0)).transpose(..., "cost").assign_coords(cost=COSTS)


class _Halves(_Decisions):
    """Scores of warning where at least half of the members pass the limit."""

    @staticmethod
    def half(table: xr.DataArray) -> tuple[xr.DataArray, ...]:
        """Hits, misses, false alarms, correct rejections (shares)."""
        size = table.sizes["exceeding"] - 1
        return tuple(part.isel(exceeding=-(-size // 2)) for part in contingency(table))


class CSI(_Halves):
    """Critical success index (threat score) where half of the members warn: hits / (hits + misses + false alarms)."""

    name, title = "csi", "CSI (at least half of the members)"
    reference = "Wilks 2019, 9.2.2"

    def value(self, *means: xr.DataArray) -> xr.DataArray:
        """a / (a + b + c)."""
        hits, misses, false, _ = self.half(means[0])
        union = hits + misses + false
        return hits / union.where(union > 0)


class ETS(_Halves):
    """Equitable threat score where half of the members warn: CSI without the hits of chance."""

    name, title = "ets", "ETS (at least half of the members)"
    reference = "Wilks 2019, 9.2.3 (Gilbert skill score)"

    def value(self, *means: xr.DataArray) -> xr.DataArray:
        """(a - r) / (a + b + c - r), r = (a + b)(a + c) / n."""
        hits, misses, false, correct = self.half(means[0])
        chance = (hits + false) * (hits + misses) / (hits + misses + false + correct)
        union = hits + misses + false - chance
        return (hits - chance) / union.where(union > 0)


class HSS(_Halves):
    """Heidke skill score where half of the members warn: share of right answers beyond chance."""

    name, title = "hss", "HSS (at least half of the members)"
    reference = "Wilks 2019, 9.2.3"

    def value(self, *means: xr.DataArray) -> xr.DataArray:
        """2 (a d - b c) / ((a + c)(c + d) + (a + b)(b + d))."""
        hits, misses, false, correct = self.half(means[0])
        divisor = (hits + misses) * (misses + correct) + (hits + false) * (false + correct)
        return 2 * (hits * correct - false * misses) / divisor.where(divisor > 0)


class FrequencyBias(_Halves):
    """How often half of the members warn, over how often the event came."""

    name, title, better = "frequency_bias", "Frequency bias (at least half of the members)", "one"
    reference = "Wilks 2019, 9.2.2"

    def value(self, *means: xr.DataArray) -> xr.DataArray:
        """(a + b) / (a + c)."""
        hits, misses, false, _ = self.half(means[0])
        event = hits + misses
        return (hits + false) / event.where(event > 0)
