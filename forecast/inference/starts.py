"""What is typed to say what to forecast: starts (2001-03-01T00..2001-05-01T00/24h) and parts of the work (0/4)."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from forecast.core.errors import ForecastError
from forecast.core.times import format_time, parse_duration, parse_time

EVERY = "24h"


def parse_starts(texts: Iterable[str]) -> np.ndarray:
    """(S,) datetime64[s], in order, each once, from times and ranges (both ends included; every 24h if not said).

    Several may stand in one text, separated by commas or blanks.

    Raises:
        ForecastError: something that is neither; a range that ends before it begins; nothing at all.
    """
    times = [time for text in texts for part in text.replace(",", " ").split() for time in _parse(part)]
    if not times:
        raise ForecastError("no start given: write --start 2001-03-01T00 or --start 2001-03-01T00..2001-05-01T00/24h")
    return np.unique(np.array(times, "datetime64[s]"))


def parse_part(text: str) -> tuple[int, int]:
    """(i, n) from `i/n`: the i-th of n processes, from 0.

    Raises:
        ForecastError: not of that form, or no i below n.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    if not match or int(match[1]) >= int(match[2]):
        raise ForecastError(f"part `{text}`: write --part 0/4, 1/4, 2/4 or 3/4 to share the work among 4 processes")
    return int(match[1]), int(match[2])


def _parse(text: str) -> Iterable[np.datetime64]:
    span, _, every = text.partition("/")
    first, dots, last = span.partition("..")
    try:
        if not dots and not every:
            return [parse_time(first)]
        begin, end, step = parse_time(first), parse_time(last), parse_duration(every or EVERY)
    except ValueError as error:
        raise ForecastError(f"start `{text}`: {error}, or a range like 2001-03-01T00..2001-05-01T00/24h") from None
    if end < begin:
        raise ForecastError(f"start `{text}`: the range ends ({format_time(end)}) before it begins")
    return np.arange(begin, end + np.timedelta64(1, "s"), step)
