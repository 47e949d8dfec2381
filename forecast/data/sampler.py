"""Training order: which windows make up an update is a function of (seed, epoch, step), with no state to lose."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from forecast.core import seeding


@dataclass(frozen=True)
class Draw:
    """The windows of one update.

    Attributes:
        update: global number of the update, from 0.
        epoch: passes over the windows completed since the set of windows last changed.
        rollout: forecast steps of each window.
        windows: (B,) indices into the windows valid for this rollout.
        keys: one per sample, unique to (seed, update, slot); noise and the choice of analysis hang on them.
    """

    update: int
    epoch: int
    rollout: int
    windows: np.ndarray
    keys: tuple[int, ...]

    def part(self, rank: int, ranks: int) -> Draw:
        """The samples of the `rank`-th of `ranks` groups of processes; those of one ensemble or grid share a rank.

        Groups may get different numbers of samples (sizes differ by one at most), none where there are more groups.
        """
        size = len(self.keys)
        mine = slice(size * rank // ranks, size * (rank + 1) // ranks)
        return replace(self, windows=self.windows[mine], keys=self.keys[mine])


def draw(seed: int, update: int, *, batch_size: int, windows: int, rollout: int, since: int = 0) -> Draw:
    """The samples of one update.

    The windows are gone through in a new random order in every epoch, each exactly once; a batch may reach into the
    next epoch. Samples are numbered over the whole batch, so any split of it among processes sees the same samples.

    Args:
        seed: the run's seed.
        update: global number of the update.
        batch_size: samples per update, over all processes.
        windows: number of windows valid for this rollout.
        rollout: forecast steps of each window.
        since: the update at which the rollout last changed; epoch 0 begins there.
    """
    places = (update - since) * batch_size + np.arange(batch_size)
    epochs, steps = np.divmod(places, windows)
    indices = [_order(seed, since, int(epoch), windows)[step] for epoch, step in zip(epochs, steps, strict=True)]
    keys = tuple(seeding.key(seed, "sample", update, slot) for slot in range(batch_size))
    return Draw(update, int(epochs[0]), rollout, np.array(indices, dtype=np.int64), keys)


@lru_cache(maxsize=4)
def _order(seed: int, since: int, epoch: int, windows: int) -> np.ndarray:
    return seeding.permutation(seeding.key(seed, "order", since, epoch), windows)
