"""A coreset of training dates from losses over queries (Maalouf et al. 2023, AutoCoreset)."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from forecast.core import data_technique_sections as sections
from forecast.core import seeding
from forecast.data.sampler import Draw
from forecast.training.curriculum import Update
from forecast.training.techniques.base import Make, Run, Technique
from forecast.training.techniques.window_scores import window_scores


class Coreset(Technique[sections.Coreset]):
    """Training on few windows whose mean vector of losses is nearly that of all: any of the queries is as good on both.

    A window's vector has its score by variable for each query, a checkpoint. Rules: `median_of_means` is the nearest of
    100 random sets drawn with replacement (official code, whose further rules, Caratheodory's and sensitivities, give
    weights); `herding` adds the window that brings the mean nearest, none twice (ours). A window drawn twice comes
    twice an epoch. The official code makes each query by training on the coreset so far, from 3 random ones, until 5
    bring nothing: here that is a run with this technique, whose checkpoint joins `queries` of the next. keep = 1 is
    plain training. Costs a forward pass of each query over all windows of one step, once; the vectors are saved.
    """

    def __init__(self, section: sections.Coreset, run: Run) -> None:
        super().__init__(section, run)
        self._known: dict[bytes, np.ndarray] = {}

    def draw(self, plan: Update, windows: np.ndarray, make: Make) -> Draw:
        """From the coreset of these windows."""
        if self.section.keep == 1:
            return make(windows)
        if "rows" not in self.kept:
            key = partial(self.key, "window")
            self.kept["rows"] = torch.cat([window_scores(self.run, query, key) for query in self.section.queries], 1)
        firsts = self.run.data.windows(plan.rollout)[windows]
        return make(windows[self._chosen(firsts.tobytes())])

    def _chosen(self, firsts: bytes) -> np.ndarray:
        """Places of the coreset among windows that begin at `firsts`."""
        if firsts not in self._known:
            first_ones = self.run.data.windows(1)  # those of longer rollouts are among them
            at = np.searchsorted(first_ones, np.frombuffer(firsts, dtype=first_ones.dtype))
            rows = self.kept["rows"].cpu().double().numpy()[at]
            count = max(1, round(self.section.keep * len(rows)))
            how = self.section
            self._known[firsts] = herding(rows, count) if how.rule == "herding" else median_of_means(
                rows, count, how.sets, self.key("sets"))  # fmt: skip
        return self._known[firsts]


def median_of_means(rows: np.ndarray, count: int, sets: int, key: int) -> np.ndarray:
    """(count,) places, some perhaps twice: of so many random sets the one whose mean is nearest that of all."""
    drawn = seeding.integers(key, len(rows), sets * count).reshape(sets, count)
    far = [distance(rows, places) for places in drawn]
    return np.sort(drawn[int(np.argmin(far))])


def herding(rows: np.ndarray, count: int) -> np.ndarray:
    """(count,) places, in order: each step takes the row that brings the mean nearest that of all; of equal ones the
    first."""
    away = rows - rows.mean(axis=0)
    size, total, free = (away**2).sum(axis=1), np.zeros(rows.shape[1]), np.ones(len(rows), bool)
    for _ in range(count):
        new = int(np.argmin(np.where(free, size + 2 * away @ total, np.inf)))
        total, free[new] = total + away[new], False
    return np.flatnonzero(~free)


def distance(rows: np.ndarray, places: np.ndarray) -> float:
    """Of the means of some rows and of all, L2."""
    return float(np.linalg.norm(rows[places].mean(axis=0) - rows.mean(axis=0)))
