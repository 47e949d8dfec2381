"""What libraries raise over damaged files, as one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from forecast.core.errors import ForecastError

MOST_POINTS = 50_000_000
"""Points of a field that are believed: a grid of 0.05 degrees has half as many."""


@contextmanager
def decoding(where: str | Path) -> Iterator[None]:
    """Whatever a library raises over damaged bytes, as one line; they promise nothing about what that is."""
    try:
        yield
    except (ForecastError, OSError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or "no reason given"
        raise ForecastError(f"{where} is damaged, or of a form not known ({type(error).__name__}: {reason})") from error
