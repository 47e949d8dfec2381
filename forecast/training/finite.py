"""Numbers that are not finite stop a run before they reach the weights; the rank and the dates are named."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from forecast.core.errors import ForecastError
from forecast.core.times import format_time
from forecast.training.mesh import Mesh


def check_finite(
    update: int,
    values: Mapping[str, float],
    mesh: Mesh,
    device: torch.device,
    starts: Sequence[np.datetime64],
    most: int,
    sound: Callable[[], bool],
) -> None:
    """Make sure that the loss of an update, its terms and its gradient are finite; all ranks hold the same values.

    Args:
        values: name -> number, over all ranks. starts: first dates of this rank's samples, `most` in number.
        sound: whether this rank's own part of loss and gradient is finite; asked on all ranks, where `values` aren't.

    Raises:
        ForecastError: on all ranks; says which ranks it came from, and their dates.
    """
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if not bad:
        return
    dates, where = list(starts), ""
    if mesh.spread:
        seconds = np.zeros(most)
        seconds[: len(starts)] = np.array(starts, dtype="datetime64[s]").astype(np.int64)
        table = mesh.gather([not sound(), *seconds], device)
        guilty = np.flatnonzero(table[:, 0])
        if guilty.size:
            where = f" on rank {', '.join(f'{rank}{mesh.host(int(rank))}' for rank in guilty[:8])}"
        found = table[guilty if guilty.size else slice(None), 1:]
        dates = [np.datetime64(int(at), "s") for at in found[found > 0]]
    raise ForecastError(
        f"update {update}: {', '.join(bad)} not finite{where} (windows from {', '.join(map(format_time, dates))}); the "
        f"weights were left as they were: lower the learning rate, or look for NaN in these dates"
    )
