"""Masked hard-region mining (Tang et al. 2023, masked hard instance mining; Wang et al. 2023, hard patches mining)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from forecast.core import technique_sections as sections
from forecast.core.grids import from_points
from forecast.models.offers import Step, coarse_cells
from forecast.training.curriculum import Curriculum
from forecast.training.techniques.base import Advance, Now, Run, Technique


class HardRegions(Technique[sections.HardRegions]):
    """Regions whose score, averaged over past updates, is lowest are left out; the others weigh as much more.

    The share of the area left out grows linearly from 0 to `ratio` over the run (0.5 in hard patches mining's official
    code; there a predictor ranks patches, in instance mining an averaged teacher, here the moving average itself). At
    least one region stays. ratio = 0 is plain training. A pair-ranking predictor is the term `pair_ranking`, masked
    instances in bags `masked_instances`. Costs nothing to speak of.
    """

    def __init__(self, section: sections.HardRegions, run: Run) -> None:
        super().__init__(section, run)
        fields = run.model.fields
        cells = coarse_cells(from_points(fields.latitudes, fields.longitudes), section.across)
        self._cells = torch.from_numpy(cells).to(run.device)
        self._area = self._sums(run.model.weights.sum(dim=1))
        self._updates = Curriculum(run.config.training.stages).updates
        self._found: list[Tensor] = []

    def scores(self, now: Now, scores: Tensor, steps: Sequence[Step]) -> Tensor:
        """Zero where it is easy."""
        values = torch.einsum("sbgv,gv->g", scores.detach(), self.run.model.weights) / len(scores)
        self._found.append(torch.cat([self._sums(values), values.new_tensor([float(scores.shape[1])])]))
        kept = self.mask(self.section.ratio * now.update / self._updates)
        return scores if kept is None else scores * kept[self._cells][:, None]

    def step(self, now: Now, lr: float, advance: Advance) -> None:
        """The averages take in this update, over all processes."""
        advance(lr)
        total = self.run.mesh.sum(torch.stack(self._found).sum(dim=0))
        self._found = []
        new = total[:-1] / (total[-1] * self._area)
        self.kept["score"] = new if "score" not in self.kept else self.kept["score"].lerp(new, 1 - self.section.decay)

    def mask(self, ratio: float) -> Tensor | None:
        """(cells,) 0 for the easiest, as much area as does not exceed `ratio`, one weight for the rest; mean 1."""
        if not ratio or "score" not in self.kept:
            return None
        order = self.kept["score"].argsort(stable=True)
        out = self._area[order].cumsum(0) <= ratio * self._area.sum()
        out[-1] = False
        kept = torch.ones_like(self._area)
        kept[order[out]] = 0.0
        return kept * (self._area.sum() / (kept * self._area).sum())

    def _sums(self, values: Tensor) -> Tensor:
        return values.new_zeros(int(self._cells.max()) + 1).index_add_(0, self._cells, values)
