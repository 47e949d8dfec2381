"""Days and hours of the calendar, as climatologies count them."""

from __future__ import annotations

import numpy as np

DAYS = 366


def calendar_day(dates: np.ndarray) -> np.ndarray:
    """(T,) day of a leap year: 0 is 1 January, 59 is 29 February, 60 is 1 March in every year.

    >>> calendar_day(np.array(["2001-03-01", "2004-02-29", "2004-12-31"], "datetime64[s]")).tolist()
    [60, 59, 365]
    """
    months = dates.astype("datetime64[M]")
    within = (dates.astype("datetime64[D]") - months.astype("datetime64[D]")).astype(int)
    first = (np.datetime64("2004-01", "M") + months.astype(int) % 12).astype("datetime64[D]")
    return (first - np.datetime64("2004-01-01", "D")).astype(int) + within


def hour_of(dates: np.ndarray) -> np.ndarray:
    """(T,) seconds since midnight UTC."""
    return (dates.astype("datetime64[s]") - dates.astype("datetime64[D]")).astype(int)
