"""Validation rollouts, scored by the metrics that verification reports."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from forecast.core import seeding
from forecast.core.sections import TrainingSection
from forecast.data.batch import Batch
from forecast.data.dataset import Dataset
from forecast.data.loader import collate
from forecast.models.base import clock
from forecast.models.forecaster import Forecaster
from forecast.training.mesh import Mesh
from forecast.verification.deterministic import RMSE
from forecast.verification.ensemble import FairCRPS, SpreadSkill
from forecast.verification.matchup import Matchup
from forecast.verification.scores import statistics_of
from forecast.verification.sums import Sums

METRICS = (FairCRPS(), RMSE(), SpreadSkill())


class Validation:
    """Ensembles from the same few starts, spread evenly over the validation period, and their scores.

    Starts, members and noise are the same at every validation, so scores of one run compare.

    Args:
        data: windows of the validation period; where it has an analysis, rollouts start from it.
        section: number of starts, steps and members.
        seed: of the noise.
    """

    def __init__(self, data: Dataset, section: TrainingSection, seed: int) -> None:
        self.data, self.section, self.seed = data, section, seed
        windows = data.windows(section.validation_steps)
        self.firsts = np.unique(
            windows[np.linspace(0, len(windows) - 1, section.validation_starts).round().astype(int)]
        )
        areas = data.truth.grid.areas
        self._weights = (areas / areas.sum())[data.points]
        stdev = data.truth.statistics["stdev"][data.truth.position(data.variables)]
        self._stdev = dict(zip(data.variables, stdev, strict=True))

    def __call__(self, model: Forecaster, device: torch.device, mesh: Mesh | None = None) -> dict[str, Any]:
        """Scores of `model`, the starts shared among the processes of a mesh.

        Every process makes as many rollouts, so that all are there where weights are gathered; what is beyond its
        share is not counted.

        Returns:
            `score`, the mean over variables and steps of the fair CRPS, which ranks checkpoints; and per variable,
            for each step, `fair_crps` and `rmse` (both in units of the variable's standard deviation) and
            `spread_skill`; and what the kind of forecaster diagnoses. A number that is not finite is None.
        """
        steps = np.arange(1, self.section.validation_steps + 1) * self.data.data.step
        starts = self.data.truth.dates[self.firsts]
        sums = Sums.zeros(statistics_of(METRICS), {}, self.data.variables, starts, steps, ["globe"],
                          members=self.section.members)  # fmt: skip
        mesh = mesh or Mesh()
        groups = mesh.size // mesh.grid.size
        for turn in range(0, len(self.firsts), groups):
            mine = turn + mesh.rank // mesh.grid.size
            batch = self._window(self.firsts[mine % len(self.firsts)], len(steps))
            for s, members in enumerate(rollout(model, batch.to(device), self.section.members, self.seed)):
                if mine < len(self.firsts):
                    self._add(sums, mine, s, members, batch.targets[0, s].numpy(), once=mesh.grid.rank == 0)
        for values in (array.values for each in (sums.sum, sums.weight) for array in each.values()):
            values[:] = mesh.sum(torch.from_numpy(values).to(device)).cpu().numpy()
        first_steps = (self._window(first, 1).to(device) for first in self.firsts)
        return self._scores(sums) | model.diagnose(first_steps, self.section.members, self.seed)

    def _window(self, first: np.integer, steps: int) -> Batch:
        """A batch of the one window of `steps` steps that begins at position `first`."""
        return collate([self.data.read(int(first), steps, int(first))], self.data.data.input_steps)

    def _add(self, sums: Sums, start: int, step: int, members: np.ndarray, truth: np.ndarray, once: bool) -> None:
        """Take in members (M, G, V) and truth (G, V) of one start and step, or of some points; one part counts.

        Gaps of masked variables are left out.
        """
        for v, name in enumerate(self.data.variables):
            known: Any = slice(None)
            if masked := name in self.data.data.masked:
                known = np.isfinite(truth[..., v]) & np.isfinite(members[..., v]).all(axis=0)
            matchup, weights = Matchup(members[:, known, v], truth[known, v]), self._weights[known]
            for statistic in statistics_of(METRICS):
                sums.sum[statistic.name].values[v, start, step, 0] = statistic.of(matchup) @ weights
                sums.weight[statistic.name].values[v, start, step, 0] = weights.sum() if masked else float(once)

    def _scores(self, sums: Sums) -> dict[str, Any]:
        scores: dict[str, Any] = {}
        for metric in METRICS:
            values = sums.metric(metric).isel(region=0)
            scale = self._stdev if metric.units == "x" else dict.fromkeys(self._stdev, 1.0)
            scores[metric.name] = {
                name: [_plain(x / scale[name]) for x in values.sel(variable=name).values]
                for name in self.data.variables
            }
        leads = [x for by_lead in scores["fair_crps"].values() for x in by_lead]
        return {"score": None if None in leads else sum(leads) / len(leads), **scores}


@torch.no_grad()
def rollout(model: Forecaster, batch: Batch, members: int, seed: int) -> Iterator[np.ndarray]:
    """The members' states (M, G, V) at each step of a batch of one sample, noise keyed by its first date."""
    window: Tensor = batch.states[:, None, : batch.input_steps]
    start = batch.dates[0, batch.input_steps - 1]
    for step in range(batch.rollout):
        keys = [seeding.key(seed, "validation-noise", start, member, step) for member in range(members)]
        drawn = model.draw(keys)[None]
        newest = batch.input_steps - 1 + step
        times = clock(batch.dates[:, newest], step, window.device)
        state = model.step(window, batch.forcings[:, newest], step == 0, drawn, times)
        yield state[0].cpu().numpy()
        window = torch.cat([window[:, :, 1:].expand(-1, members, -1, -1, -1), state[:, :, None]], dim=2)


def _plain(x: float) -> float | None:
    return float(x) if math.isfinite(x) else None
