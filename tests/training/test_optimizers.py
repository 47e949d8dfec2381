"""Parameter groups of AdamW and Muon, their steps in closed form, and their state through a file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from forecast.core.sections import Stage, TrainingSection
from forecast.training.muon import Muon
from forecast.training.optimizers import Optimizers

STAGES = (Stage(updates=1, lr=1.0),)
BOTH = pytest.mark.parametrize("name", ["adamw", "muon"])


def section(name: str, weight_decay: float = 0.2) -> TrainingSection:
    return TrainingSection.model_validate({"stages": STAGES, "optimizer": name, "weight_decay": weight_decay})


def model(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 2))


def steps(net: nn.Module, optimizer: Optimizers, first: int, last: int) -> None:
    for i in range(first, last):
        optimizer.zero_grad()
        x = torch.sin(torch.arange(20.0).reshape(5, 4) * (i + 1))
        (net(x) ** 2).mean().backward()
        optimizer.step(0.01 * (i + 1))


@BOTH
def test_matrices_are_decayed_and_vectors_are_not(name: str) -> None:
    """Without a gradient a step is the decay alone: w (1 - lr * decay)."""
    net = model()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    optimizer = Optimizers(net, section(name))
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step(0.5)
    for name, p in net.named_parameters():
        torch.testing.assert_close(p.detach(), before[name] * (1 - 0.5 * 0.2 if p.ndim > 1 else 1.0))


def test_muon_makes_orthogonal_steps_of_the_size_of_adamws() -> None:
    """Newton and Schulz bring all singular values near 1; then every step has RMS 0.2 lr, whatever the gradient."""
    net = nn.Linear(6, 6)
    before = net.weight.detach().clone()
    optimizer = Optimizers(net, section("muon", weight_decay=0.0))
    net.weight.grad = torch.randn(6, 6, generator=torch.Generator().manual_seed(1)) * 1e-3
    optimizer.step(1.0)
    step = (net.weight - before).detach()
    singular = torch.linalg.svdvals(step) / (0.2 * 6**0.5)
    assert singular.min() > 0.5 and singular.max() < 1.3  # the published iteration lands in 0.7..1.2, in bfloat16
    assert len(optimizer.each) == 2 and not optimizer.each[0].state


@BOTH
def test_state_is_restored_to_the_bit(name: str, tmp_path: Path) -> None:
    net = model()
    optimizer = Optimizers(net, section(name))
    steps(net, optimizer, 0, 5)
    save_file({name: moment.contiguous() for name, moment in optimizer.moments(net).items()}, tmp_path / "moments")

    again = model(seed=1)
    again.load_state_dict(net.state_dict())
    restored = Optimizers(again, section(name))
    restored.load(again, load_file(tmp_path / "moments"))
    kept, back = optimizer.moments(net), restored.moments(again)
    assert kept.keys() == back.keys() and len(kept) == {"adamw": 18, "muon": 14}[name]
    assert all(kept[key].equal(back[key]) and kept[key].abs().sum() > 0 for key in kept)
    steps(net, optimizer, 5, 9)
    steps(again, restored, 5, 9)
    assert all(p.equal(q) for p, q in zip(net.parameters(), again.parameters(), strict=True))


def test_parameters_that_were_never_updated_have_no_state() -> None:
    net = model()
    assert Optimizers(net, section("muon")).moments(net) == {}


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch.optim.Muon came with torch 2.9")
def test_muon_is_torchs() -> None:
    """Matrices of one shape are multiplied as a batch; the updates stay the same but for bfloat16's rounding."""
    generator = torch.Generator().manual_seed(3)
    shapes = [(8, 4), (4, 8), (8, 4), (6, 6), (3, 5)]
    ours, theirs = ([nn.Parameter(torch.ones(shape)) for shape in shapes] for _ in range(2))
    theirs_optimizer = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    optimizer = Muon(ours, lr=0.02, weight_decay=0.1)
    for _ in range(4):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn(p.shape, generator=generator)
            q.grad = p.grad.clone()
        optimizer.step()
        theirs_optimizer.step()
        for p, q in zip(ours, theirs, strict=True):
            torch.testing.assert_close(p, q, atol=1e-4, rtol=0)  # an update is 0.02 * 0.2 * sqrt(8); bfloat16 of it
    assert not torch.equal(ours[0], torch.ones(8, 4))
