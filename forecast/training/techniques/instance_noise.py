"""Instance noise (Chae et al. 2023, A likelihood approach to nonparametric estimation of a singular distribution)."""

from __future__ import annotations

from dataclasses import replace

import torch

from forecast.core import seeding
from forecast.core import technique_sections as sections
from forecast.data.batch import Batch
from forecast.models import noise
from forecast.training.curriculum import Curriculum
from forecast.training.techniques.base import Now, Run, Technique
from forecast.training.techniques.weights import lowest_states


class InstanceNoise(Technique[sections.InstanceNoise]):
    """States x + sigma_t stdev n, n normal: data that lie on a thin set get a density, which then is sharpened.

    sigma_t falls linearly from `sigma` to 0 over the first `until` of the updates (schedule and default are ours).
    Where it is 0 the batch is left as it is, so sigma = 0 is plain training. Variables with a physical minimum stay
    above it. Noise is keyed by sample.
    """

    def __init__(self, section: sections.InstanceNoise, run: Run) -> None:
        super().__init__(section, run)
        fields = run.model.fields
        self._updates = section.until * Curriculum(run.config.training.stages).updates
        self._stdev = torch.tensor(fields.column("stdev", fields.variables), dtype=torch.float32, device=run.device)
        self._lowest = lowest_states(fields.variables).to(run.device)

    def batch(self, now: Now, batch: Batch) -> Batch:
        """With noise."""
        sigma = self.section.sigma * max(0.0, 1 - now.update / self._updates)
        if not sigma:
            return batch
        keys = [seeding.key(key, "instance-noise") for key in batch.keys]
        drawn = noise.draw(keys, batch.states.shape[1:], batch.states.device)
        return replace(batch, states=torch.maximum(batch.states + sigma * self._stdev * drawn, self._lowest))
