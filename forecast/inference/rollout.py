"""The rollout of one micro-batch of members: a generator over steps that holds one window of states."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from forecast.core import seeding
from forecast.models import noise
from forecast.models.base import clock
from forecast.models.forecaster import Forecaster


@torch.inference_mode()
def rollout(
    model: Forecaster,
    window: Tensor,
    start: np.datetime64,
    forcings: Callable[[np.ndarray], np.ndarray],
    keys: Callable[[int], Sequence[int]],
    steps: int,
) -> Iterator[Tensor]:
    """Yield the states of M members at steps 1..`steps`, (M, G, V + K) float32 in physical units.

    The last K columns are the probabilities of events that the forecaster has heads for (`terms.probabilities`).

    Args:
        window: (M, T, G, V) states up to `start`, newest last, on the model's device.
        start: date of the newest state.
        forcings: dates (1,) -> (1, G, F), computed forcings and static fields.
        keys: step -> one noise key per member.
    """
    device, step = window.device, np.timedelta64(model.fields.step, "s")
    for s in range(1, steps + 1):
        date = np.array([start + (s - 1) * step])
        known = torch.from_numpy(forcings(date)).to(device)
        xi = noise.draw(keys(s), model.noise_shape, device)
        state = model.step(window[None], known, s == 1, xi[None], clock(date, s - 1, device), events=True)[0]
        yield state
        window = torch.cat([window[:, 1:], state[:, None, :, : window.shape[-1]]], dim=1)


def noise_keys(seed: int, start: np.datetime64, members: Sequence[int], step: int) -> list[int]:
    """The noise keys of members at the step that leads to lead time `step`."""
    return [seeding.key(seed, "noise", start, member, step) for member in members]
