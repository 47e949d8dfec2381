"""Who computes what: every process takes the next work item that nobody has, its own share first."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from forecast.core.forecasts import Layout
from forecast.core.ledger import Ledgers

Part = tuple[int, int]
Item = tuple[int, int]
"""positions of a start and a member batch"""
_TRIAL = 2**62


class Claims:
    """Locks on the bytes of one file, a byte an item; the system frees those of a process that dies.

    They hold between all machines that share the file system. Where it knows no locks (`possible` is False) everybody
    has to keep to the own share.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.lockf(self._file, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, _TRIAL)
            self.possible = True
        except OSError:
            self.possible = False

    def take(self, item: int) -> bool:
        """Whether the item is this process's now, until `close`."""
        if not self.possible:
            return True
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, item)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Free all."""
        os.close(self._file)


def items(layout: Layout, part: Part, ledgers: Ledgers, claims: Claims) -> Iterator[Item]:
    """The work items that are left to this process: its share (each n-th), then what nobody is at work on.

    So shares even out, whatever the machines' speeds, and who comes late, or instead of one that died, finds work.
    """
    every = list(np.ndindex(len(layout.starts), layout.batches))
    own, others = every[part[0] :: part[1]], []
    if claims.possible:
        others = [item for k in range(1, part[1]) for item in every[(part[0] + k) % part[1] :: part[1]]]
    for item in [*own, *others]:
        if ledgers.finished[item].all() or not claims.take(item[0] * layout.batches + item[1]):
            continue
        ledgers.update()
        if not ledgers.finished[item].all():
            yield item


def part_of_environment(environment: Mapping[str, str]) -> Part:
    """(i, n) of this process among those that torchrun, srun or a SLURM job array started; (0, 1) if none did.

    In an array whose tasks have several processes each, i runs over all of them.
    """

    def number(name: str, otherwise: int) -> int:
        return int(environment.get(name, otherwise))

    if "RANK" in environment and "WORLD_SIZE" in environment:
        return number("RANK", 0), number("WORLD_SIZE", 1)
    rank, ranks = number("SLURM_PROCID", 0), number("SLURM_STEP_NUM_TASKS", 1)
    if "SLURM_ARRAY_TASK_ID" not in environment:
        return rank, max(ranks, rank + 1)
    first, step = number("SLURM_ARRAY_TASK_MIN", 0), number("SLURM_ARRAY_TASK_STEP", 1)
    task = (number("SLURM_ARRAY_TASK_ID", 0) - first) // step
    tasks = max(number("SLURM_ARRAY_TASK_COUNT", 1), task + 1)
    return task * ranks + rank, tasks * ranks
