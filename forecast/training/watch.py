"""What processes tell each other after each update: who is to stop, who is slow, how much memory is taken."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from forecast.core.progress import console
from forecast.training.mesh import Mesh

MEASURED = ("seconds", "samples_per_second", "memory_gb", "slowest_rank", "slowest_ratio")
"""numbers of an update that tell of the machine; all others are the same whenever a run is repeated"""
SLOW = 1.5
"""times the median that make a straggler"""
_EVERY = 60.0  # seconds between lines about stragglers
_MEMORY = 20  # updates that means are taken over


class Clock:
    """Adds up the time of what is done within it; on CUDA the device's own, read once it is synchronised."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._spans: list[tuple[Any, Any]] = []

    def __enter__(self) -> None:
        self._spans.append((self._now(), None))

    def __exit__(self, *error: object) -> None:
        self._spans[-1] = (self._spans[-1][0], self._now())

    def _now(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def take(self) -> float:
        """Seconds since the last call."""
        spans, self._spans = self._spans, []
        return sum(begin.elapsed_time(end) / 1000 if self._cuda else end - begin for begin, end in spans)


class Watch:
    """Gathers a few numbers of all processes after each update, in one message.

    Args:
        samples: of an update, over all processes.
    """

    def __init__(self, mesh: Mesh, device: torch.device, samples: int) -> None:
        self.mesh, self.device, self._samples = mesh, device, samples
        self.own = Clock(device)
        """to be run while this process works on what no other one is waited for"""
        self._busy = np.zeros((0, mesh.size))
        self._told = -np.inf
        self._last = time.perf_counter()

    def exchange(self, stop: int, failed: bool) -> tuple[int, bool, dict[str, float]]:
        """The highest `stop`, whether any has `failed`, and what was measured."""
        mine = [stop, failed, self.own.take(), self._memory()]
        table = self.mesh.gather(mine, self.device)
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        measured = {"samples_per_second": round(self._samples / seconds, 4), "memory_gb": round(table[:, 3].max(), 3)}
        if self.mesh.spread:
            measured |= self._stragglers(table[:, 2])
        return int(table[:, 0].max()), bool(table[:, 1].any()), measured

    def skip(self) -> None:
        """What has passed since the last exchange belongs to no update (a validation)."""
        self._last = time.perf_counter()

    def _stragglers(self, busy: np.ndarray) -> dict[str, float]:
        self._busy = np.vstack([self._busy, busy])[-_MEMORY:]
        means = self._busy.mean(axis=0)
        slowest, median = int(means.argmax()), max(float(np.median(means)), 1e-9)
        ratio, now = float(means[slowest]) / median, time.monotonic()
        if (
            len(self._busy) == _MEMORY
            and ratio > SLOW
            and means[slowest] - median > 0.005
            and now - self._told > _EVERY
        ):
            self._told = now
            console.print(
                f"rank {slowest}{self.mesh.host(slowest)} is slow: it works {means[slowest]:.3f} s on an update, "
                f"{ratio:.1f} times the median of {median:.3f} s"
            )
        return {"slowest_rank": slowest, "slowest_ratio": round(ratio, 3)}

    def _memory(self) -> float:
        """GB: the most that was taken on the GPU, or what the process has now."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 1e9
        try:
            return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e9
        except OSError:  # no Linux
            return 0.0
