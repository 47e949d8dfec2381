"""The same update has the same bits, wherever its arrays happen to lie in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from forecast.core import seeding
from forecast.data.dataset import Dataset
from forecast.data.loader import load
from forecast.data.sampler import draw
from pipelines.train import forecaster
from tests import tiny


def test_loss_and_gradients_do_not_depend_on_addresses(tmp_path: Path) -> None:
    config, (truth, analysis) = tiny.config(tmp_path), tiny.stores(tmp_path)
    data = Dataset(config.data, config.data.train, truth, analysis, 0.5)
    model = forecaster(config, truth)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    place = draw(1, 3, batch_size=2, windows=len(data.windows(1)), rollout=1)

    def update() -> dict[str, torch.Tensor]:
        batch = load(data, place)
        model.zero_grad()
        terms = model.training_loss(batch, 2, batch.keys)
        terms["loss"].backward()
        return {name: t.detach().clone() for name, t in terms.items()} | {
            name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None
        }

    first, litter = update(), list[Any]()
    for i, size in enumerate(seeding.integers(3, 3000, 40)):
        litter += [np.empty(size + 1, np.float32), torch.empty(int(size) + 7)]
        del litter[: -(5 + i % 7)]
        differing = [name for name, tensor in update().items() if not tensor.equal(first[name])]
        assert not differing, f"repetition {i}: {', '.join(differing[:3])}"
