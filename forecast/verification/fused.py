"""One pass over an ensemble: the sums that every score needs, from the errors sorted once.

Two paths with the same bits: loops that numba compiles (`fused_kernels`), and numpy alone, taken where numba is not
installed or FORECAST_NUMPY=1 is set. Both subtract the truth in the fields' own precision first, sort, and add in
float64, member by member. Points go in blocks that stay in the cache, so that no pass needs more than its results
and a few hundred kilobytes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from forecast.core import threads

BLOCK = 1024


@dataclass(frozen=True, eq=False)
class Pass:
    """What one pass over M members on G points gives; K limits, e.g. of events.

    Sums are NaN, and counts 0, at points where a member or the truth is missing.

    Attributes:
        mean: (G,) mean of member minus truth. absolute: (G,) mean of its absolute value.
        half_distance: (G,) half the mean distance of two different members; 0 for one member.
        variance: (G,) divisor M - 1; 0 for one member.
        below, equal: (G,) int32, members below the truth and equal to it.
        beyond: (K, G) int32, members beyond each limit (above it, or below it where `down`), strictly.
        tail_absolute, tail_half: (T, G) as `absolute` and `half_distance`, of values clipped to the tails
            beyond the first T limits.
        sorted: (M, G) errors in rising order, if they were kept.
    """

    mean: np.ndarray
    absolute: np.ndarray
    half_distance: np.ndarray
    variance: np.ndarray
    below: np.ndarray
    equal: np.ndarray
    beyond: np.ndarray
    tail_absolute: np.ndarray
    tail_half: np.ndarray
    sorted: np.ndarray | None


def has_numba() -> bool:
    """Whether the compiled path can be taken, and is not switched off by FORECAST_NUMPY=1."""
    if os.environ.get("FORECAST_NUMPY", "") not in ("", "0"):
        return False
    try:
        import numba  # noqa: F401
    except ImportError:
        return False
    return True


def ensemble_pass(
    members: np.ndarray,
    truth: np.ndarray,
    limits: np.ndarray | None = None,
    down: np.ndarray | None = None,
    *,
    tails: int | None = None,
    keep: bool = False,
    workers: int = 1,
    compiled: bool | None = None,
) -> Pass:
    """All sums of `Pass`.

    Args:
        members: (M, G) float32 or float64. truth: (G,) the same.
        limits: (K, G) in the variable's units; none if absent. down: (K,) bool, limits whose event lies below.
        tails: for how many of the first limits `tail_absolute` and `tail_half` are made; all if absent.
        keep: also give the sorted errors. workers: threads.
        compiled: take the compiled path; if absent, where numba is there.
    """
    precise = np.result_type(members, truth) == np.float64
    kind = np.float64 if precise else np.float32
    x, y = (np.ascontiguousarray(a, kind) for a in (members, truth))
    m, size = x.shape
    count = 0 if limits is None else len(limits)
    t = np.empty((0, size), kind) if limits is None else np.ascontiguousarray(limits, kind)
    tails = count if tails is None else tails
    signs = np.where(np.zeros(count, bool) if down is None else down, -1, 1).astype(kind)
    floats = np.zeros((4 + 2 * tails, size))
    counts = np.zeros((2 + count, size), np.int32)
    kept = np.empty(x.shape if keep else (0, 0), kind)
    if has_numba() if compiled is None else compiled:
        from forecast.verification import fused_kernels

        work = fused_kernels.work(x, y, t, signs, floats, counts, kept)
    else:
        work = _numpy(x, y, t, signs, floats, counts, kept)
    threads.share(work, size, workers)
    mean, absolute, half, variance = floats[:4]
    tail = floats[4 : 4 + tails], floats[4 + tails :]
    return Pass(mean, absolute, half, variance, counts[0], counts[1], counts[2:], *tail, kept if keep else None)


def pair_weights(members: int) -> np.ndarray:
    """(M,) weights w with sum_i w_i x_(i) = half the mean distance of two members; sum_ij |x_i - x_j| = 2 sum_i
    (2 i - M - 1) x_(i) over sorted members."""
    return (2.0 * np.arange(1, members + 1) - members - 1) / max(members * (members - 1), 1)


def _numpy(x, y, t, signs, floats, counts, kept):  # type: ignore[no-untyped-def]
    weights, tails = pair_weights(len(x))[:, None], (len(floats) - 4) // 2

    def block(at: slice, spare: np.ndarray) -> None:
        errors = np.subtract(x[:, at].T, y[at, None], order="C")  # numpy sorts rows fastest
        errors.sort(axis=1)
        wide = errors.T.astype(np.float64, order="C")
        if kept.size:
            kept[:, at] = wide
        out, numbers = floats[:, at], counts[:, at]
        _moments(wide, weights, out, spare)
        lost = np.isnan(out[0])
        numbers[0], numbers[1] = _count(wide < 0), _count(wide == 0)
        for k in range(len(t)):
            limit = t[k, at]
            numbers[2 + k] = _count(x[:, at] > limit if signs[k] > 0 else x[:, at] < limit)
            if k < tails:
                gap = (limit - y[at]).astype(np.float64)
                _tail(wide, gap, signs[k], weights, out[4 + k], out[4 + tails + k], spare)
        out[:, lost], numbers[:, lost] = np.nan, 0
        if kept.size:
            kept[:, at][:, lost] = np.nan

    def work(begin: int, end: int) -> None:
        spare = np.empty((len(x), BLOCK))
        with np.errstate(invalid="ignore"):  # infinite members
            for first in range(begin, end, BLOCK):
                last = min(first + BLOCK, end)
                block(slice(first, last), spare[:, : last - first])

    return work


def _count(flags: np.ndarray) -> np.ndarray:
    """How many of (M, n) flags are set at each point; in bytes where these hold M, which is fast."""
    kind = np.uint8 if len(flags) < 256 else np.int32
    return np.add.reduce(flags.view(np.uint8), axis=0, dtype=kind)


def _moments(errors: np.ndarray, weights: np.ndarray, out: np.ndarray, spare: np.ndarray) -> None:
    m = len(errors)
    out[0] = np.add.reduce(errors, axis=0) / m
    out[1] = np.add.reduce(np.abs(errors, out=spare), axis=0) / m
    out[2] = np.add.reduce(np.multiply(weights, errors, out=spare), axis=0)
    deviations = np.subtract(errors, out[0], out=spare)
    out[3] = np.add.reduce(np.square(deviations, out=spare), axis=0) / max(m - 1, 1)


def _tail(errors: np.ndarray, gap: np.ndarray, sign: float, weights: np.ndarray, absolute: np.ndarray,
          half: np.ndarray, spare: np.ndarray) -> None:  # fmt: skip
    """Errors of values clipped at a limit that lies `gap` above the truth, relative to the clipped truth."""
    clip, truth = (np.maximum, np.maximum(gap, 0.0)) if sign > 0 else (np.minimum, np.minimum(gap, 0.0))
    clipped = clip(errors, gap, out=spare)
    clipped -= truth
    half[:] = np.add.reduce(weights * clipped, axis=0)
    absolute[:] = np.add.reduce(np.abs(clipped, out=clipped), axis=0) / len(errors)
