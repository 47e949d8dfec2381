"""Choosing training dates by conditional loss reduction (Brandfonbrener et al. 2024, CoLoR-Filter)."""

from __future__ import annotations

from functools import partial

import numpy as np
from torch import Tensor

from forecast.core import data_technique_sections as sections
from forecast.data.sampler import Draw
from forecast.training.curriculum import Update
from forecast.training.techniques.base import Make, Technique
from forecast.training.techniques.window_scores import window_scores


class DateSelection(Technique[sections.DateSelection]):
    """Windows with the largest loss of `prior` less loss of `conditional`, the same after some training on the aim.

    What one gains most from aiming at extremes, a region or a season is most useful for it. The rule is that of the
    official code (there with negative log likelihoods and the best 1 / tau). keep = 1 is plain training. Costs a
    forward pass of both forecasters over all windows of one step, once; the choice is saved with the run.
    """

    def draw(self, plan: Update, windows: np.ndarray, make: Make) -> Draw:
        """From those that are useful."""
        if self.section.keep == 1:
            return make(windows)
        if "gain" not in self.kept:
            self.kept["gain"] = self._gain()
        firsts = self.run.data.windows(plan.rollout)[windows]
        first_ones = self.run.data.windows(1)  # those of longer rollouts are among them
        gain = self.kept["gain"].cpu().numpy()[np.searchsorted(first_ones, firsts)]
        return make(windows[best(gain, self.section.keep)])

    def _gain(self) -> Tensor:
        """(W,) of each window of one step."""
        key = partial(self.key, "window")
        prior, conditional = (window_scores(self.run, folder, key).sum(dim=1)
                              for folder in (self.section.prior, self.section.conditional))  # fmt: skip
        return prior - conditional


def best(gain: np.ndarray, keep: float) -> np.ndarray:
    """Places of the largest share `keep`, one at least, in order; of equal ones the first."""
    count = max(1, round(keep * len(gain)))
    return np.sort(np.argsort(-gain, kind="stable")[:count])
