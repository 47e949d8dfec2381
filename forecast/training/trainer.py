"""The training loop: one update after another, validation, checkpoints.

Everything that an update does follows from the config, the data, the weights and the update's number, so a run that
was killed goes on from its last checkpoint to the same bits.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from forecast.core import memory
from forecast.core.config import Config
from forecast.core.errors import Stopped
from forecast.data.batch import Batch
from forecast.data.dataset import Dataset
from forecast.data.loader import batches
from forecast.data.sampler import Draw, draw
from forecast.models.forecaster import Forecaster
from forecast.models.serialise import SIDE_CAR, side_car
from forecast.training import parallelize, state
from forecast.training.checkpoint import Checkpoints, read_counters, write_counters
from forecast.training.curriculum import Curriculum
from forecast.training.ema import Average
from forecast.training.finite import check_finite
from forecast.training.mesh import Mesh
from forecast.training.monitor import Monitor, Unwatched
from forecast.training.optimizers import Optimizers
from forecast.training.preempt import REASONS, Stop, WallTime, stop_signals
from forecast.training.resume import check_fields, check_unchanged, flat, plain
from forecast.training.techniques.base import Now, Run, Terms
from forecast.training.techniques.compose import Techniques
from forecast.training.validate import Validation
from forecast.training.watch import Watch


class Trainer:
    """Trains a forecaster.

    Args:
        config: the run.
        model: the forecaster, built and seeded.
        data: training windows.
        validation: scores the averaged weights.
        checkpoints: their folder gets metrics and curves as well.
        mesh: the processes that share the work; this one alone if absent.

    Raises:
        ForecastError: a device that is not there, or a rollout longer than any gapless stretch of data.
    """

    def __init__(
        self,
        config: Config,
        model: Forecaster,
        data: Dataset,
        validation: Validation,
        checkpoints: Checkpoints,
        mesh: Mesh | None = None,
    ) -> None:
        self.config, self.section, self.mesh = config, config.training, mesh or Mesh()
        self.data, self.validation, self.checkpoints = data, validation, checkpoints
        self.curriculum = Curriculum(self.section.stages)
        model.check_members(self.curriculum.members(self.section.members))
        for rollout in self.curriculum.rollouts():
            data.windows(rollout)
        self.device = parallelize.device(self.section.device, self.mesh)
        if self.device.type == "cpu":
            memory.keep_freed()
        self.model = model.to(self.device)
        self.objective = parallelize.Objective(self.model, self.section, self.mesh)
        self.optimizer = Optimizers(self.model, self.section)
        self.average = Average(self.model, self.section.ema)
        self.watch = Watch(self.mesh, self.device, self.section.batch_size)
        self.objective.clock = self.watch.own
        run = Run(config, self.model, self.average, data, self.device, self.mesh)
        self.techniques = Techniques(self.section.techniques, run, self.mesh.shared)
        self.counters: dict[str, Any] = {"update": 0, "metrics": 0, "seconds": 0.0, "best": None, "best_update": None}

    def resume(self, folder: Path) -> None:
        """Go on from a checkpoint of the same run.

        Raises:
            ForecastError: the config or the store has changed since.
        """
        self.counters = read_counters(folder)
        check_unchanged(self.config, self.counters.pop("config"), self.counters["update"])
        check_fields(self.model, folder)
        moments = state.restore(folder, self.model, self.average)
        self.optimizer.load(self.model, moments)
        self.techniques.load(moments, self.counters.pop("techniques", {}))
        if self.mesh.first:
            self.checkpoints.restore_links(folder, self.counters["best_update"])

    def run(self, until: int | None = None) -> None:
        """Make the updates that are left, or those before update `until`, and save.

        Raises:
            ForecastError: a loss or gradient that is not finite, a checkpoint that can't be written.
            Stopped: after a checkpoint, because of a signal or the end of the job's time.
        """
        done, total = self.counters["update"], min(until or self.curriculum.updates, self.curriculum.updates)
        kind = Monitor if self.mesh.first else Unwatched
        about = {"name": self.config.name, **flat(plain(self.config))}
        kept, seconds = self.counters["metrics"], self.counters["seconds"]
        monitor = kind(self.checkpoints.folder, done, kept, seconds, self.section.monitors, about)
        epoch = self._draw(done - 1).epoch if done else 0
        limit = WallTime(self.section.wall_time)
        if self.mesh.first:
            self.checkpoints.note("")
        with (
            monitor.running(total),
            stop_signals() as stop,
            closing(self.checkpoints),
            closing(
                batches(self.data, self._pieces(done), self.device, self.config.data.prefetch, self.config.data.workers)
            ) as loaded,
        ):
            for update in range(done, total):
                if (now := self._draw(update).epoch) != epoch:
                    self.model.terms.begin_epoch(epoch := now)
                done = update + 1
                with self.watch.own:
                    pieces = [batch for _, batch in itertools.islice(loaded, self.section.accumulate)]
                values = self._update(update, pieces)
                reason, measured = self._exchange(stop, limit)
                monitor.update(done, values | measured)
                best = self._due(done, self.section.validate_every) and self._validate(done, monitor)
                if best or reason or done == total or self._due(done, self.section.checkpoint_every):
                    self._save(done, monitor, best)
                if reason and done < total:
                    self.checkpoints.wait()
                    raise self._stopped(f"{reason} after update {done}: saved, go on with --resume")
            self.checkpoints.wait()

    def _stopped(self, why: str) -> Stopped:
        if self.mesh.first:
            self.checkpoints.note(why)
        return Stopped(why)

    def _exchange(self, stop: Stop, limit: WallTime) -> tuple[str, dict[str, float]]:
        """Why all processes are to stop, if any is asked to, and what was measured; a failed write is raised by all."""
        mine = stop.signal or limit.reached(self.checkpoints.seconds)
        reason, failed, measured = self.watch.exchange(REASONS.index(mine), self.checkpoints.failed)
        if failed:
            self.checkpoints.wait()
        return REASONS[reason], measured

    def _draw(self, update: int) -> Draw:
        plan, size = self.curriculum.at(update), self.section.batch_size

        def make(among: np.ndarray) -> Draw:
            place = draw(
                self.config.seed, update, batch_size=size, windows=len(among), rollout=plan.rollout, since=plan.since
            )
            return replace(place, windows=among[place.windows])

        return self.techniques.draw(plan, len(self.data.windows(plan.rollout)), make)

    def _pieces(self, done: int) -> Iterator[Draw]:
        """What this process reads from update `done` on: its part of each batch, in as many pieces as accumulate."""
        for update in range(done, self.curriculum.updates):
            mine = self._draw(update).part(self.mesh.data.rank, self.mesh.data.size)
            yield from (mine.part(piece, self.section.accumulate) for piece in range(self.section.accumulate))

    def _due(self, done: int, every: int) -> bool:
        return done % every == 0 or done == self.curriculum.updates

    def _update(self, update: int, pieces: Sequence[Batch]) -> dict[str, float]:
        """Loss, gradient, clipped step, average; what was measured on the way."""
        plan = self.curriculum.at(update)
        self.optimizer.zero_grad()
        self.model.begin_update(plan.ensembles)
        now = Now(update, plan, plan.members or self.section.members)
        batches = [self.techniques.batch(now, piece) for piece in pieces]
        terms = self.techniques.gradients(now, partial(self._evaluate, now, batches))
        norm = self.objective.clip(self.section.clip_norm)
        values = {name: term.item() for name, term in {**terms, "gradient_norm": norm}.items()}
        starts = [date for batch in batches for date in batch.dates[:, 0]]
        sound = partial(self.objective.sound, batches, now.members)
        check_finite(update + 1, values, self.mesh, self.device, starts, self.section.batch_size, sound)
        self.techniques.step(now, self.optimizer.step)
        self.average.update(update + 1)
        return {**values, "lr": plan.lr, "rollout": plan.rollout}

    def _evaluate(self, now: Now, batches: Sequence[Batch], backward: bool = True, alone: bool = False) -> Terms:
        """The terms of the loss over all processes; its gradient is added to `.grad`."""
        self.objective.changed = partial(self.techniques.terms, now)
        return self.objective(batches, now.members, self.section.batch_size, backward, alone)

    def _validate(self, done: int, monitor: Monitor) -> bool:
        """Score the averaged weights; whether they are the best so far."""
        with self.average.applied():
            scores = self.validation(self.model, self.device, self.mesh)
        self.watch.skip()
        monitor.validation(done, scores)
        score, best = scores["score"], self.counters["best"]
        self.techniques.validated(done, score)
        if score is None or (best is not None and score >= best):
            return False
        self.counters |= {"best": score, "best_update": done}
        return True

    def _save(self, done: int, monitor: Monitor, best: bool) -> None:
        self.counters |= {"update": done, "metrics": monitor.sync(), "seconds": monitor.seconds}
        notes = {"config": plain(self.config), "techniques": self.techniques.notes()}
        counters, about = copy.deepcopy({**self.counters, **notes}), side_car(self.model, averaged=True)

        def describe(folder: Path) -> None:
            (folder / SIDE_CAR).write_text(about)
            write_counters(folder, counters)

        moments = self.optimizer.moments(self.model) | self.techniques.tensors()
        self.checkpoints.save(done, state.gather(self.model, self.average, moments), describe, best)
