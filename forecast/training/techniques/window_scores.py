"""What forecasters score on every training window: what dates are chosen by."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from forecast.data.loader import collate
from forecast.models.base import load_teacher
from forecast.models.offers import Step
from forecast.training.techniques.base import Run


@torch.no_grad()
def window_scores(run: Run, folder: str, key: Callable[[int], int]) -> Tensor:
    """(W, V + 1) of the forecaster in `folder` on every window of one step: its weighted score by variable, and what
    further terms add, so that rows sum to the loss. Processes share the work; `key` gives each window's noise.

    Raises:
        ForecastError: no checkpoint there, or of other fields.
    """
    model, data, mesh = load_teacher(folder, run.model.fields).to(run.device), run.data, run.mesh
    windows, members = data.windows(1), run.config.training.members
    rows = torch.zeros(len(windows), len(model.fields.variables) + 1, dtype=torch.float64)

    def note(scores: Tensor, steps: Sequence[Step]) -> Tensor:
        rows[w, :-1] = torch.einsum("sbgv,gv->v", scores, model.weights).double().cpu()
        return scores

    model.rescored = note
    for w in range(len(windows) * mesh.rank // mesh.size, len(windows) * (mesh.rank + 1) // mesh.size):
        sample = data.read(int(windows[w]), 1, key(w))
        batch = collate([sample], data.data.input_steps).to(run.device)
        loss = model.training_loss(batch, members, batch.keys)["loss"]
        rows[w, -1] = float(loss) - float(rows[w, :-1].sum())
    return mesh.sum(rows.to(run.device, torch.float32))
