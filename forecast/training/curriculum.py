"""The curriculum: what rollout and learning rate each update has, as a function of its number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from forecast.core.sections import Stage


@dataclass(frozen=True)
class Update:
    """The plan of one update.

    Attributes:
        stage: index of the stage, from 0.
        rollout: forecast steps of each window.
        since: the update at which this rollout began; the sampler's epochs count from there.
        lr: learning rate.
        members: members of each sample, None for the run's usual number.
        ensembles: updates with several members before this one, which schedules of divergences go by.
    """

    stage: int
    rollout: int
    since: int
    lr: float
    members: int | None = None
    ensembles: int = 0


class Curriculum:
    """Stages one after another; `at(update)` is the whole schedule."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self.stages = tuple(stages)
        self.ends = [sum(stage.updates for stage in stages[: i + 1]) for i in range(len(stages))]
        self.updates = self.ends[-1]

    def at(self, update: int) -> Update:
        """The plan of update 0, 1, ..., `updates` - 1."""
        index = next(i for i, end in enumerate(self.ends) if update < end)
        stage, begin = self.stages[index], self.ends[index] - self.stages[index].updates
        rollout, since = _rollout(stage, update - begin)
        ensembles = sum(s.updates for s in self.stages[:index] if s.members != 1)
        ensembles += update - begin if stage.members != 1 else 0
        return Update(index, rollout, begin + since, _lr(stage, update - begin), stage.members, ensembles)

    def members(self, usual: int) -> list[int]:
        """Every number of members that occurs, in order."""
        return sorted({stage.members or usual for stage in self.stages})

    def rollouts(self) -> list[int]:
        """Every rollout length that occurs, in order."""
        firsts_lasts = [_bounds(stage) for stage in self.stages]
        return sorted({r for first, last in firsts_lasts for r in range(first, last + 1)})


def _bounds(stage: Stage) -> tuple[int, int]:
    return (stage.rollout, stage.rollout) if isinstance(stage.rollout, int) else stage.rollout


def _rollout(stage: Stage, step: int) -> tuple[int, int]:
    """Rollout at `step` of a stage, growing from first to last in even legs, and the step at which it began."""
    first, last = _bounds(stage)
    legs = last - first + 1
    leg = step * legs // stage.updates
    return first + leg, -(-leg * stage.updates // legs)


def _lr(stage: Stage, step: int) -> float:
    """Linear warm-up to stage.lr, then constant, or half a cosine down to 0 at the stage's end."""
    if step < stage.warmup:
        return stage.lr * (step + 1) / stage.warmup
    if stage.schedule == "constant":
        return stage.lr
    progress = (step - stage.warmup) / max(stage.updates - stage.warmup, 1)
    return stage.lr * 0.5 * (1.0 + math.cos(math.pi * progress))
