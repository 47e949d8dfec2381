"""Short training runs of tiny forecasters, alone or on a mesh, and what comes out of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from forecast.core.config import Config
from forecast.core.store import Store
from forecast.data.dataset import Dataset
from forecast.data.loader import batches
from forecast.training.checkpoint import Checkpoints
from forecast.training.mesh import Mesh
from forecast.training.parallelize import divide
from forecast.training.trainer import Trainer
from forecast.training.validate import Validation
from pipelines.train import forecaster
from tests import tiny
from tests.models.fuxi import SMALL as FUXI

GRAPH = {"mesh_refinement": 1, "width": 16, "heads": 2, "layers": 2, "grid_width": 8, "grid_heads": 2,
         "trainable_features": 2}  # fmt: skip
FULL = {**GRAPH, "blocks": "full", "processor": "window", "window": 9, "qk_norm": True, "trainable_edges": 2,
        "residual": {"grid": "O2", "shown": True}, "activation_checkpointing": "layer"}  # fmt: skip
ALL = {"members": 4, "batch_size": 4, "accumulate": 2, "clip_norm": 0.05, "ema": 0.9,
       "stages": [{"updates": 10, "lr": 3e-3, "warmup": 3}, {"updates": 10, "rollout": 3, "lr": 1e-3}]}  # fmt: skip
"""accumulation, clipping in every update, an average, rollouts of 3"""
FEW = {**ALL, "stages": [{"updates": 3, "rollout": 2, "lr": 1e-3}]}

CASES: dict[str, dict[str, Any]] = {
    "graph": {"model": FULL, "training": ALL},
    "fuxi": {"model": {**FUXI, "activation_checkpointing": True}, "training": ALL},
    "compact": {"model": {**GRAPH, "activation_checkpointing": "both"}, "training": FEW},
    "dense": {"model": {**GRAPH, "processor": "dense"}, "training": FEW},
    "harmonic": {
        "model": {**GRAPH, "blocks": "direct", "mesh": "data", "processor": "harmonic", "truncation": 3},
        "training": FEW,
    },  # fmt: skip
    "waves": {
        "model": {**FUXI, "backbone": "harmonic", "patch": [1, 2], "truncation": 3, "filters": 3, "dropout": 0.3},
        "training": FEW,
    },
    "edges": {"model": {**FULL, "processor": "graph", "encoder_cutoff": 1.0, "residual": None}, "training": FEW},
    "dropout": {"model": {**FUXI, "dropout": 0.3, "latent": {"prior": "learnt"}, "prior_share": 0.0}, "training": FEW},
    "fields": {
        "model": GRAPH,
        "training": FEW,
        "loss": {"name": "multiscale", "options": {"radii_km": [3000], "factors": [1, 1]}},
    },  # fmt: skip
}
GRADIENTS = ["gradient_noise", {"name": "sam", "groups": [["z"], ["t"]]}]
SAMPLES = ["instance_noise", {"name": "hard_regions", "ratio": 0.9}, "multi_sample_dropout", "cluster_batches"]
CASES["gradients"] = {"model": GRAPH, "training": {**FEW, "techniques": GRADIENTS}}
CASES["samples"] = {"model": GRAPH, "training": {**FEW, "techniques": SAMPLES}}
CASES["generations"] = {"model": GRAPH, "training": {**FEW, "techniques": [{"name": "generations", "every": 1}]}}
CASES["plain"] = {"model": GRAPH, "training": FEW}
CASES["muon"] = {"model": GRAPH, "training": {**FEW, "optimizer": "muon"}}
TERMS = {
    "energy": {"loss": "energy_score", "of": "members"},
    "waves": {
        "loss": "spectral_crps",
        "of": "members",
        "options": {"transform": {"name": "harmonics", "truncation": 3}},
    },
    "steps": {"loss": "time_aggregate", "of": "rollout", "options": {"base": {"name": "almost_fair_crps"}}},
    "bins": {"loss": "ordered_bin_emd", "of": "event", "event": {"variable": "tp", "edges": [0.0005, 0.001]}},
    "rain": {"loss": "gamma_crps", "of": "distribution", "variable": "tp"},
    "latent": {"loss": "alignment", "of": "latent"},
    "matrices": {"loss": "group_sparse_envelope", "of": "weights", "options": {"k": 8}},
}
CASES["terms"] = {"model": GRAPH, "training": FEW, "loss": {"terms": TERMS}}
CASES["terms-learnt"] = {
    "model": GRAPH,
    "training": FEW,
    "loss": {"terms": {k: TERMS[k] for k in ("steps", "bins", "rain")}},
}
CASES["terms-fuxi"] = {
    "model": FUXI,
    "training": FEW,
    "loss": {"terms": {k: TERMS[k] for k in ("energy", "bins", "latent")}},
}
CASES |= {f"{name}-few": {**CASES[name], "training": FEW} for name in ("graph", "fuxi")}


def config(case: str, root: Path, archive: Path, **mesh: Any) -> Config:
    """The config of a case, for the tiny stores in `archive`."""
    parts = CASES[case]
    raw = tiny.raw(root, archive, **parts["training"], mesh=mesh)
    raw["model"] = parts["model"]
    raw["loss"] = parts.get("loss", {})
    return tiny.configs.parse(raw)


def run(config: Config, mesh: Mesh, nudged: bool = False) -> dict[str, Tensor]:
    """Train; terms of the loss of each update, first gradients, parameters, averages, a validation score.

    Args:
        nudged: first weights are off by about a unit in their last place, up or down.
    """
    truth, analysis = (Store.open(config.path(name)) for name in (config.store.path, config.store.analysis or ""))
    model = forecaster(config, truth)
    with torch.no_grad():  # as after training: what starts at zero would hide faults in what lies behind it
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
        for parameter in model.parameters() if nudged else ():
            parameter.mul_(1 + (torch.rand_like(parameter) - 0.5).sign() * 2**-23)
    points = divide(model, config.training, mesh)
    model.to(torch.get_default_dtype())
    data = Dataset(config.data, config.data.train, truth, analysis, 0.5, points)
    held_out = Dataset(config.data, config.data.validation, truth, analysis, points=points)
    trainer = Trainer(config, model, data, Validation(held_out, config.training, config.seed),
                      Checkpoints(config.path("training")), mesh)  # fmt: skip
    return dict(_steps(trainer))


def _steps(trainer: Trainer) -> Iterator[tuple[str, Tensor]]:
    gradients: dict[str, Tensor] = {}
    step = trainer.optimizer.step

    def noting(lr: float) -> None:
        if not gradients:
            gradients.update(
                {name: _whole(p.grad) for name, p in trainer.model.named_parameters() if p.grad is not None}
            )
        step(lr)

    trainer.optimizer.step = noting  # type: ignore[method-assign]
    with closing(batches(trainer.data, trainer._pieces(0), prefetch=0)) as loaded:
        losses = []
        for update in range(trainer.curriculum.updates):
            pieces = (batch for _, batch in itertools.islice(loaded, trainer.section.accumulate))
            losses.append(trainer._update(update, pieces))
    for name in losses[0]:
        yield f"term/{name}", torch.tensor([terms[name] for terms in losses], dtype=torch.float64)
    yield from ((f"gradient/{name}", gradient) for name, gradient in gradients.items())
    yield from ((f"weight/{name}", _whole(p)) for name, p in trainer.model.named_parameters())
    yield from ((f"average/{name}", _whole(p)) for name, p in trainer.average.weights.items())
    with trainer.average.applied():
        scores = trainer.validation(trainer.model, trainer.device, trainer.mesh)
    yield "score", torch.tensor(scores["score"], dtype=torch.float64)


def _whole(x: Tensor) -> Tensor:
    whole: Tensor = x.full_tensor() if hasattr(x, "full_tensor") else x
    return whole.detach().clone()
