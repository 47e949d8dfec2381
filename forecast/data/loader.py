"""Batches on the device, read ahead by a thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable
from contextlib import suppress

import numpy as np
import torch

from forecast.data.batch import Batch
from forecast.data.dataset import Dataset, Sample
from forecast.data.sampler import Draw

Loaded = tuple[Draw, Batch]


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
    )


def load(dataset: Dataset, draw: Draw, device: torch.device | str = "cpu") -> Batch:
    """Read the windows of one update."""
    firsts = dataset.windows(draw.rollout)[draw.windows]
    samples = [dataset.read(int(first), draw.rollout, key) for first, key in zip(firsts, draw.keys, strict=True)]
    return collate(samples, dataset.data.input_steps).to(device)


def batches(
    dataset: Dataset, draws: Iterable[Draw], device: torch.device | str = "cpu", prefetch: int = 2
) -> Generator[Loaded, None, None]:
    """Each draw with its batch, in order; a thread keeps up to `prefetch` batches ready (0 reads in line).

    An error in the thread is raised here, in the place of its batch. Closing the generator ends the thread.
    """
    loaded = ((draw, load(dataset, draw, device)) for draw in draws)
    return _ahead(loaded, prefetch) if prefetch else loaded


def _ahead(items: Iterable[Loaded], depth: int) -> Generator[Loaded, None, None]:
    """`items` in order, made by a thread that keeps at most `depth` ready."""
    ready: queue.Queue[Loaded | BaseException | None] = queue.Queue(depth)
    stop = threading.Event()

    def put(item: Loaded | BaseException | None) -> None:
        while not stop.is_set():
            with suppress(queue.Full):
                return ready.put(item, timeout=0.1)

    def work() -> None:
        try:
            for item in items:
                put(item)
                if stop.is_set():
                    return
            put(None)
        except BaseException as error:  # raised where the batch is taken
            put(error)

    thread = threading.Thread(target=work, name="loader", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()
