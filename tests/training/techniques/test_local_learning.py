"""Block-wise local learning: one block is plain training; gradients stop between blocks; memory falls."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch

from forecast.core import config as configs
from forecast.core.errors import ForecastError
from forecast.core.store import Store
from forecast.data.dataset import Dataset
from forecast.data.loader import load
from forecast.data.sampler import draw
from forecast.training.checkpoint import Checkpoints
from forecast.training.trainer import Trainer
from forecast.training.validate import Validation
from pipelines.train import forecaster, train
from tests import tiny
from tests.training.techniques import bench

STAGES = [{"updates": 4, "lr": 3e-3}]


def config(root: Any, archive: Any, layers: int = 4, **section: Any) -> configs.Config:
    raw = tiny.raw(root, archive, stages=STAGES, techniques=[{"name": "local_learning", **section}])
    raw["model"]["layers"] = layers
    raw["training"] |= {"validate_every": 4, "checkpoint_every": 2}
    return configs.parse(raw)


def trainer(config: configs.Config) -> Trainer:
    truth, analysis = (Store.open(getattr(config.store, name)) for name in ("path", "analysis"))
    data = Dataset(config.data, config.data.train, truth, analysis, 0.5)
    held_out = Dataset(config.data, config.data.validation, truth, analysis)
    validation = Validation(held_out, config.training, config.seed)
    made = Trainer(config, forecaster(config, truth), data, validation, Checkpoints(config.path("training")))
    with torch.no_grad():
        for head in [m.decoder.head for m in made.model.modules() if hasattr(m, "decoder")]:
            head.weight.normal_(std=0.1, generator=torch.Generator().manual_seed(1))  # else no gradient passes
    return made


def batch(made: Trainer) -> Any:
    return load(made.data, draw(1, 3, batch_size=2, windows=50, rollout=1))


def gradients(made: Trainer, peak: list[int] | None = None) -> dict[str, torch.Tensor]:
    """Of one update; the most bytes that graphs hold at a time go into `peak`."""
    made.model.zero_grad()
    given, held = batch(made), Held()
    with torch.autograd.graph.saved_tensors_hooks(held.pack, held.unpack):
        made.techniques.gradients(bench.now(), functools.partial(made._evaluate, bench.now(), [given]))
    if peak is not None:
        peak.append(held.most)
    return {name: p.grad.clone() for name, p in made.model.named_parameters() if p.grad is not None}


class Held:
    """Bytes of activations that are kept for gradients, weights left out."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def pack(self, tensor: torch.Tensor) -> Any:
        return tensor if isinstance(tensor, torch.nn.Parameter) else Kept(self, tensor)

    def unpack(self, kept: Any) -> torch.Tensor:
        return kept.tensor if isinstance(kept, Kept) else kept


class Kept:
    def __init__(self, held: Held, tensor: torch.Tensor) -> None:
        self.held, self.tensor, self.size = held, tensor, tensor.numel() * tensor.element_size()
        held.now += self.size
        held.most = max(held.most, held.now)

    def __del__(self) -> None:
        self.held.now -= self.size


@pytest.mark.parametrize("auxiliary", ["momentum", "augmented"])
def test_one_block_is_plain_training(archive, tmp_path, auxiliary):
    local = train(config(tmp_path / "local", archive, layers=1, blocks=1, auxiliary=auxiliary))
    raw = tiny.raw(tmp_path / "plain", archive, stages=STAGES, validate_every=4, checkpoint_every=2)
    raw["model"]["layers"] = 1
    assert bench.same(local, train(configs.parse(raw)))


def test_each_block_learns_from_its_own_loss_alone(archive, tmp_path):
    """Without the run's own loss the last block gets no gradient and the others keep theirs, and the reverse."""
    made = trainer(config(tmp_path, archive, blocks=2, auxiliary="augmented"))
    whole = gradients(made)
    model, given = made.model, batch(made)
    local = made.techniques.each[0]
    model.zero_grad()
    with local._cut():
        terms = model.training_loss(given, 2, given.keys)
    first = {name for name, p in model.named_parameters() if p.grad is not None}
    assert all(model.get_parameter(name).grad.allclose(whole[name], rtol=1e-5, atol=1e-7) for name in first)
    assert {"network.layers.1.mlp.0.weight", "network.encoder.embed.weight"} <= first
    assert not any(name.startswith(("network.layers.2", "network.layers.3", "network.decoder")) for name in first)
    model.zero_grad()
    terms["loss"].backward()
    last = {name for name, p in model.named_parameters() if p.grad is not None and bool(p.grad.abs().max() > 0)}
    assert last and all(name.startswith(("network.layers.2", "network.layers.3", "network.decoder")) for name in last)


def test_memory_falls_with_blocks(archive, tmp_path):
    """Activations held at a time; auxiliary decoders cost something, so eight layers in four blocks."""
    peaks: list[int] = []
    for blocks in (1, 4):
        made = trainer(config(tmp_path, archive, 8, blocks=blocks, auxiliary="momentum"))
        gradients(made, peaks)
    assert peaks[1] < 0.65 * peaks[0], peaks


@pytest.mark.parametrize("auxiliary", ["momentum", "augmented"])
def test_it_learns_stops_and_goes_on(archive, tmp_path, auxiliary):
    whole = train(config(tmp_path / "whole", archive, blocks=2, auxiliary=auxiliary))
    train(config(tmp_path / "other", archive, blocks=2, auxiliary=auxiliary), until=2)
    again = train(config(tmp_path / "other", archive, blocks=2, auxiliary=auxiliary), resume=True)
    assert bench.exactly(again, whole)
    held = bench.tensors(whole / "latest")
    aux = [name for name in held if "local_learning.weights.0.layers" in name]
    moments = [name for name in held if "local_learning.exp_avg.0.layers" in name]
    assert aux and bool(moments) == (auxiliary == "augmented")


def test_averages_follow_the_next_block(archive, tmp_path):
    made = trainer(config(tmp_path, archive, blocks=2, decay=0.9))
    local, network = made.techniques.each[0], made.model.network
    before = copy.deepcopy(local._auxiliary[0].layers[0]).state_dict()
    gradients(made)

    def advance(lr):
        with torch.no_grad():
            for p in network.parameters():
                p.add_(1.0)

    local.step(bench.now(), 0.0, advance)
    after, theirs = local._auxiliary[0].layers[0].state_dict(), network.layers[2].state_dict()
    names = [name for name, _ in local._auxiliary[0].layers[0].named_parameters()]
    assert all(torch.allclose(after[n], before[n] + 0.1 * (theirs[n] - before[n]), atol=1e-6) for n in names)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model.activation_checkpointing": "step"}, "drops activations itself"),
        ({"training.stages": [{"updates": 2, "lr": 1e-3, "rollout": 2}]}, "rollouts of one step only"),
        ({"training.techniques.0.blocks": 9}, "has 9 blocks for 4 layers"),
    ],
)
def test_what_it_does_not_do_is_said(archive, tmp_path, changes, says):
    raw = tiny.raw(tmp_path, archive, stages=STAGES, techniques=[{"name": "local_learning"}])
    raw["model"]["layers"] = 4
    settings = tuple(f"{key}={value}" for key, value in changes.items())
    with pytest.raises(ForecastError, match=says):
        train(configs.parse(raw, settings=settings))
