"""Values that stand out: every flipped bit that matters is seen, and nothing in sound fields is."""

from __future__ import annotations

import numpy as np
import pytest

from forecast.core.errors import ForecastError
from forecast.data import outliers
from tests.data.archives import weather

ROWS, COLUMNS, TIMES = 36, 72, 6
AXES = np.meshgrid(np.linspace(87.5, -87.5, ROWS), np.arange(0.0, 360.0, 5.0), indexing="ij")
DATES = np.datetime64("2020-01-01", "s") + np.arange(TIMES) * np.timedelta64(6, "h")
SOUND = np.stack([weather(*(axis.ravel() for axis in AXES), t, seed=1) for t in range(TIMES)]).astype(np.float32)


def states(dates: int = TIMES) -> np.ndarray:
    """(t, 1, 1, G)."""
    return SOUND[:dates, None, None].copy()


def check(fields: np.ndarray, columns: int = COLUMNS, name: str = "t_850") -> None:
    outliers.check((name,), DATES[: len(fields)], fields, columns)


def refused(fields: np.ndarray, columns: int = COLUMNS) -> bool:
    try:
        check(fields, columns)
    except ForecastError:
        return True
    return False


@pytest.mark.parametrize("dates", range(1, TIMES + 1))
@pytest.mark.parametrize("columns", [COLUMNS, ROWS * COLUMNS, 1])
def test_sound_fields_pass(dates: int, columns: int) -> None:
    check(states(dates), columns)
    masked = states(dates)
    masked[..., ::7] = np.nan
    check(masked, columns)
    check(np.full_like(masked, np.nan), columns)
    check(states(dates)[..., :1], 1)


@pytest.mark.parametrize("columns", [COLUMNS, ROWS * COLUMNS])
def test_a_flipped_bit_is_seen_or_small(columns: int) -> None:
    """Of fields packed into 16 bits: errors above the bound are all refused, and the highest bits are above it."""
    low, step = SOUND.min(), np.ptp(SOUND) / (2**16 - 1)
    packed, seen = np.round((SOUND - low) / step).astype(np.int64), 0
    grid = SOUND.reshape(TIMES, ROWS, COLUMNS)
    along, across = (float(np.sqrt(np.square(np.diff(grid, axis=axis)).mean())) for axis in (2, 1))
    for bit in range(16):
        for t, point in np.random.default_rng(bit).integers((TIMES, ROWS * COLUMNS), size=(8, 2)):
            fields = states()
            fields[t, 0, 0, point] = low + step * (packed[t, point] ^ (1 << bit))
            error = abs(float(fields[t, 0, 0, point] - SOUND[t, point]))
            found = refused(fields, columns)
            assert found or error < outliers.ROUGH * max(along, across)
            assert not found or error > outliers.ROUGH / 2 * along
            seen += found
    assert seen >= 2 * 8


def test_the_place_is_told() -> None:
    fields = states()
    fields[2, 0, 0, 1000] += 60.0
    with pytest.raises(ForecastError, match=r"t_850 at 2020-01-01T12: point 1000 stands out by \d.* K from all around"):
        check(fields)
    fields[2, 0, 0, 1000] = np.nan
    check(fields)
    check(np.where(np.isnan(fields), 400.0, fields), name="tp")  # too rough to tell


@pytest.mark.parametrize("t", range(TIMES))
@pytest.mark.parametrize(("factor", "offset"), [(1.0, 20.0), (1.0, -20.0), (2.0, 0.0), (0.25, 0.0)])
def test_a_wrong_reference_or_scale_is_seen(t: int, factor: float, offset: float) -> None:
    fields = states()
    fields[t] = (fields[t] - 250.0) * factor + 250.0 + offset
    with pytest.raises(ForecastError, match="the field's (mean|spread) is .* before|after"):
        check(fields)


def test_a_date_without_others_is_judged_by_itself() -> None:
    fields = states(1)
    fields[0, 0, 0, 1000] += 30.0
    check(fields)
    fields[0, 0, 0, 1000] += 200.0
    with pytest.raises(ForecastError, match="point 1000 stands out by"):
        check(fields)


def test_the_eye_of_a_cyclone_is_weather() -> None:
    """Deep, small and at another place every date, in half of the dates."""
    fields = states()
    for t in range(3):
        distance = np.hypot(AXES[0] - 17.5, (AXES[1] - 300.0 + 10.0 * t)).ravel()
        fields[t, 0, 0] -= 60.0 * np.exp(-((distance / 12.0) ** 2))
    look = outliers._look(fields, 0, np.arange(TIMES), COLUMNS)
    assert look.prominence.max() > outliers.ROUGH * np.median(look.rough)
    check(fields)
