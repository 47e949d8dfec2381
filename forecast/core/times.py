"""UTC times and durations as people write them: 2001-03-01T00, 6h, 15d."""

from __future__ import annotations

import datetime
import re
from typing import Any

import numpy as np

from forecast.core.errors import ForecastError

_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}


def parse_time(value: Any) -> np.datetime64:
    """A UTC time as datetime64[s] from a string, date or datetime.

    Raises:
        ValueError: not a time; says how one is written.
    """
    if isinstance(value, datetime.datetime) and value.tzinfo is not None:
        value = value.astimezone(datetime.UTC).replace(tzinfo=None)
    try:
        text = value.strip().removesuffix("Z") if isinstance(value, str) else value
        time = np.datetime64(text).astype("datetime64[s]")
    except (ValueError, TypeError):
        raise ValueError(f"`{value}` is not a time; write it like 2001-03-01T00") from None
    if np.isnat(time):
        raise ValueError(f"`{value}` is not a time; write it like 2001-03-01T00")
    return time


def parse_duration(value: Any) -> np.timedelta64:
    """A positive duration as timedelta64[s] from `6h`, `15d`, `90m`, `30s`.

    Raises:
        ValueError: not a duration; says how one is written.
    """
    if isinstance(value, np.timedelta64):
        return value.astype("timedelta64[s]")
    match = re.fullmatch(r"\s*(\d+)\s*([dhms])\s*", str(value))
    if not match or int(match[1]) == 0:
        raise ValueError(f"`{value}` is not a duration; write it like 6h or 15d")
    return np.timedelta64(int(match[1]) * _UNITS[match[2]], "s")


def duration(text: str, what: str) -> np.timedelta64:
    """`parse_duration` of what a user gave as `what` (an option).

    Raises:
        ForecastError: not a duration.
    """
    try:
        return parse_duration(text)
    except ValueError as error:
        raise ForecastError(f"{what} {error}") from None


def period(text: str, what: str) -> tuple[np.datetime64, np.datetime64]:
    """First and last time of `FIRST..LAST`, which a user gave as `what`.

    Raises:
        ForecastError: not two times in order.
    """
    first, dots, last = text.partition("..")
    try:
        begin, end = parse_time(first), parse_time(last if dots else first)
    except ValueError as error:
        raise ForecastError(f"{what} {error}") from None
    if end < begin:
        raise ForecastError(f"{what} {text}: the first date lies behind the last")
    return begin, end


def format_duration(duration: np.timedelta64) -> str:
    """`6h`, `15d`: the shortest whole unit, as anemoi writes frequencies.

    >>> format_duration(np.timedelta64(24, "h"))
    '1d'
    """
    seconds = int(duration / np.timedelta64(1, "s"))
    for unit, size in _UNITS.items():
        if seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def format_time(time: np.datetime64) -> str:
    """`2001-03-01T00`, with minutes only where they are not zero."""
    text = str(time.astype("datetime64[m]"))
    return text.removesuffix(":00")
