"""Batches on the device, read ahead: threads read, decode and turn the states, and copy to the device meanwhile."""

from __future__ import annotations

import itertools
import sys
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import cast

import numpy as np
import torch

from forecast.core.store import Store
from forecast.data.batch import Batch
from forecast.data.dataset import Dataset, Sample, Window
from forecast.data.sampler import Draw

_WORTH = 3 << 20
"""Bytes of a batch that make a further thread worth its while: below, threads wait for the interpreter's lock."""
_TASK = 1 << 20
"""Bytes of states, of one batch, that a thread takes on at a time."""

Loaded = tuple[Draw, Batch]
_Arriving = tuple[Batch, torch.cuda.Event | None]


def collate(samples: list[Sample], input_steps: int) -> Batch:
    """Stack windows into a batch, the variable last."""
    states = np.stack([sample.states for sample in samples])
    return Batch(
        states=torch.from_numpy(np.ascontiguousarray(states.swapaxes(-1, -2))),
        forcings=torch.from_numpy(np.stack([sample.forcings for sample in samples])),
        dates=np.stack([sample.dates for sample in samples]),
        starts_from_analysis=torch.tensor([sample.from_analysis for sample in samples]),
        keys=tuple(sample.key for sample in samples),
        input_steps=input_steps,
        places=torch.tensor([sample.place for sample in samples]),
    )


def load(dataset: Dataset, draw: Draw, device: torch.device | str = "cpu") -> Batch:
    """Read the windows of one update."""
    return next(batches(dataset, [draw], device, prefetch=0))[1]


def batches(
    dataset: Dataset, draws: Iterable[Draw], device: torch.device | str = "cpu", prefetch: int = 2, workers: int = 2
) -> Generator[Loaded, None, None]:
    """Each draw with its batch, in order; threads keep up to `prefetch` batches ready or in the making.

    Memory holds `prefetch` batches and the one that was handed out. An error in a thread is raised here, in the place
    of its batch. Closing the generator ends the threads.

    Args:
        dataset: where windows are read; with `points`, only that part of the grid.
        draws: what to read; those of a rank of several (`Draw.part`).
        device: where the batches are wanted.
        prefetch: 0 reads a batch when it is asked for.
        workers: threads at most; small batches take fewer.
    """
    reader = _Reader(dataset, torch.device(device), workers)
    pending: deque[tuple[Draw, Future[_Arriving]]] = deque()
    rest = iter(draws)
    try:
        while True:
            while len(pending) < max(prefetch, 1) and (draw := next(rest, None)) is not None:
                pending.append((draw, reader.begin(draw)))
            if not pending:
                return
            draw, batch = pending.popleft()
            if prefetch and (after := next(rest, None)) is not None:
                pending.append((after, reader.begin(after)))
            yield draw, reader.arrived(*batch.result())
    finally:
        for _, batch in pending:
            batch.cancel()
        reader.close()


class _Memory:
    """Arrays that are used again once nobody holds them: new memory costs a page fault for each 4 KB."""

    def __init__(self) -> None:
        self._arrays: list[np.ndarray] = []

    def take(self, *shape: int) -> torch.Tensor:
        """A float32 tensor with values of before in it."""
        self._arrays = [array for array in self._arrays if array.shape == shape or sys.getrefcount(array) > _FREE]
        for array in self._arrays:
            if array.shape == shape and sys.getrefcount(array) == _FREE:
                return torch.from_numpy(array)
        self._arrays.append(np.empty(shape, np.float32))
        return torch.from_numpy(self._arrays[-1])


_FREE = 3
"""References to an array that only `_Memory` holds: its list, the loop over it, and the count's own."""


class _Reader:
    """Fills batches with the states of their windows, several at a time."""

    def __init__(self, dataset: Dataset, device: torch.device, workers: int) -> None:
        self._dataset, self._device, self._memory = dataset, device, _Memory()
        self._workers, self._threads = workers, cast(ThreadPoolExecutor | None, None)
        self._cuda = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if self._cuda else None

    def begin(self, draw: Draw) -> Future[_Arriving]:
        """Start to read the windows of one update."""
        firsts = self._dataset.windows(draw.rollout)[draw.windows]
        windows = [
            self._dataset.window(int(first), draw.rollout, key) for first, key in zip(firsts, draw.keys, strict=True)
        ]
        points, times = self._dataset.points, self._dataset.data.input_steps + draw.rollout
        shape = (len(windows), times, points.stop - points.start)
        states = self._new(*shape, len(self._dataset.variables))
        forcings = self._new(*shape, self._dataset.forcings.size)
        wanted = [state for window in windows for state in window.states]
        if self._threads is None:
            most = max(1, min(self._workers, states.nbytes // _WORTH))
            self._threads = ThreadPoolExecutor(most, thread_name_prefix="loader")
        places = states.numpy().reshape(-1, *states.shape[2:])
        tasks = max(1, min(len(wanted), states.nbytes // _TASK))
        cuts = [len(wanted) * k // tasks for k in range(tasks + 1)]
        *parts, last = ((wanted[a:b], places[a:b]) for a, b in itertools.pairwise(cuts))
        begun = [self._threads.submit(self._states, *part) for part in parts]
        # behind the others in the queue, so that it never waits for what no thread is free to do
        return self._threads.submit(self._finish, windows, states, forcings, last, begun)

    def _new(self, *shape: int) -> torch.Tensor:
        return torch.empty(shape, pin_memory=True) if self._cuda else self._memory.take(*shape)

    def _states(self, wanted: list[tuple[Store, int]], out: np.ndarray) -> None:
        for (store, time), state in zip(wanted, out, strict=True):
            self._dataset.fill(store, time, state.T)

    def _finish(
        self,
        windows: list[Window],
        states: torch.Tensor,
        forcings: torch.Tensor,
        last: tuple[list[tuple[Store, int]], np.ndarray],
        begun: list[Future[None]],
    ) -> _Arriving:
        """The last states and the forcings, then the batch."""
        self._states(*last)
        if forcings.numel():
            for window, out in zip(windows, forcings.numpy(), strict=True):
                out[:] = self._dataset.forcings(window.dates)
        for part in begun:
            part.result()
        batch = Batch(
            states=states,
            forcings=forcings,
            dates=np.stack([window.dates for window in windows]),
            starts_from_analysis=torch.tensor([window.from_analysis for window in windows]),
            keys=tuple(window.key for window in windows),
            input_steps=self._dataset.data.input_steps,
            places=torch.tensor([window.place for window in windows]),
        )
        if self._stream is None:
            return batch.to(self._device), None
        with torch.cuda.stream(self._stream):  # from pinned memory, beside what the device computes
            return batch.to(self._device), self._stream.record_event()

    def arrived(self, batch: Batch, copied: torch.cuda.Event | None) -> Batch:
        """The batch, whose copy to the device the current stream waits for before it uses it."""
        if copied is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_event(copied)
            for tensor in (batch.states, batch.forcings, batch.starts_from_analysis):
                tensor.record_stream(current)
        return batch

    def close(self) -> None:
        """End the threads; what they have not begun is dropped."""
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=True)
