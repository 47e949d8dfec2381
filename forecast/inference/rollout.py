"""The rollout of members: a generator over steps that holds one window of states, in model calls of one shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from forecast.core import seeding
from forecast.models import noise
from forecast.models.attention import NeighbourAttention
from forecast.models.base import Forecaster, clock

Item = TypeVar("Item")
CALL_POINTS = 2**16
"""grid points that keep a GPU busy"""
MOST = 16


class Calls:
    """Calls of a forecaster whose shape never changes, so that a member's bits do not depend on its company.

    A matrix product may round a row differently when it has other numbers of rows, or when more threads share it. So
    each call holds `size` members, a function of the device and the grid alone; member k always is row k % size, and
    rows that nobody asked for repeat another. On the CPU that is one member a call, which costs no more than many at
    once, and torch computes it on one thread: as many members as torch has threads are computed side by side.

    Args:
        model: on its device; its weights must stay as they are from now on.
        forcings: dates (1,) -> (1, G, F), computed forcings and static fields.
    """

    def __init__(self, model: Forecaster, forcings: Callable[[np.ndarray], np.ndarray]) -> None:
        self.model, self.device, self._forcings = model, model.lower.device, forcings
        on_cpu = self.device.type == "cpu"
        self.size = 1 if on_cpu else max(1, min(MOST, CALL_POINTS // model.fields.grid_size))
        for module in model.modules():
            if isinstance(module, NeighbourAttention):
                module.freeze()
        threads = torch.get_num_threads() if on_cpu else 1
        pool = ThreadPoolExecutor(threads, "members", initializer=torch.set_num_threads, initargs=(1,))
        self._map: Callable[..., Iterator[Tensor]] = pool.map if threads > 1 else map

    def step(
        self, window: Tensor, date: np.datetime64, number: int, members: Sequence[int], keys: Sequence[int]
    ) -> Tensor:
        """(M, G, V + K) of `members` one step after window (M, T, G, V) up to `date`, with noise of `keys` (M,).

        Steps are numbered from 0, for the one that leaves the analysis. The last K columns are the probabilities of
        events that the forecaster has heads for (`terms.probabilities`).
        """
        dates = np.array([date])
        known, times = torch.from_numpy(self._forcings(dates)).to(self.device), clock(dates, number, self.device)
        calls: dict[int, list[int]] = {}
        for row, member in enumerate(members):
            calls.setdefault(member // self.size, []).append(row)

        def call(rows: list[int]) -> Tensor:
            slots = [rows[0]] * self.size
            for row in rows:
                slots[members[row] % self.size] = row
            with torch.inference_mode():
                xi = noise.draw([keys[row] for row in slots], self.model.noise_shape, self.device)
                given = _rows(window, slots)[None]
                states = self.model.step(given, known, number == 0, xi[None], times, events=True)[0]
                return _rows(states, [members[row] % self.size for row in rows])

        done = torch.cat(list(self._map(call, calls.values())))
        rows = [row for group in calls.values() for row in group]
        return done if rows == sorted(rows) else done[torch.tensor(rows).argsort()]


@torch.inference_mode()
def rollout(
    calls: Calls,
    window: Tensor,
    start: np.datetime64,
    members: Sequence[int],
    seed: int,
    steps: int,
) -> Iterator[Tensor]:
    """Yield what `Calls.step` gives of M members at steps 1..`steps`, (M, G, V + K) float32 in physical units.

    Args:
        window: (M, T, G, V) states up to `start`, newest last, on the model's device.
        start: date of the newest state.
        seed: of the noise, which is keyed by (seed, start, member, step).
    """
    step = np.timedelta64(calls.model.fields.step, "s")
    for s in range(steps):
        state = calls.step(window, start + s * step, s, members, noise_keys(seed, start, members, s + 1))
        yield state
        newest = state[:, None, :, : window.shape[-1]]
        window = newest if window.shape[1] == 1 else torch.cat([window[:, 1:], newest], dim=1)


def ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The same items; each is made, in another thread, while the caller is at work on the one before."""
    with ThreadPoolExecutor(1, "ahead") as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item


def _rows(states: Tensor, rows: list[int]) -> Tensor:
    """states[rows], without a copy of a single row."""
    return states.narrow(0, rows[0], 1) if len(rows) == 1 else states[rows]


def noise_keys(seed: int, start: np.datetime64, members: Sequence[int], step: int) -> list[int]:
    """The noise keys of members at the step that leads to lead time `step`."""
    return [seeding.key(seed, "noise", start, member, step) for member in members]
