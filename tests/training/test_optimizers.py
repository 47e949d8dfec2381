"""AdamW's groups, and its state through a file."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from forecast.core.config import Stage, TrainingSection
from forecast.training import optimizers
from forecast.training.checkpoint import read_state, write_state

SECTION = TrainingSection(stages=(Stage(updates=1, lr=1.0),), weight_decay=0.2)


def model(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 2))


def steps(net: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
    for i in range(first, last):
        optimizers.set_lr(optimizer, 0.01 * (i + 1))
        optimizer.zero_grad()
        x = torch.sin(torch.arange(20.0).reshape(5, 4) * (i + 1))
        (net(x) ** 2).mean().backward()
        optimizer.step()


def test_matrices_are_decayed_and_vectors_are_not() -> None:
    """Without a gradient AdamW's step is the decay alone: w (1 - lr * decay)."""
    net = model()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    optimizer = optimizers.adamw(net, SECTION)
    optimizers.set_lr(optimizer, 0.5)
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in net.named_parameters():
        torch.testing.assert_close(p.detach(), before[name] * (1 - 0.5 * 0.2 if p.ndim > 1 else 1.0))


def test_state_is_restored_to_the_bit(tmp_path: Path) -> None:
    net, optimizer = model(), None
    optimizer = optimizers.adamw(net, SECTION)
    steps(net, optimizer, 0, 5)
    write_state(tmp_path, {"update": 5}, optimizers.moments(optimizer, net))

    again = model(seed=1)
    again.load_state_dict(net.state_dict())
    restored = optimizers.adamw(again, SECTION)
    counters, moments = read_state(tmp_path)
    optimizers.load_moments(restored, again, moments)
    assert counters == {"update": 5}
    for p, q in zip(net.parameters(), again.parameters(), strict=True):
        for kind in ("exp_avg", "exp_avg_sq", "step"):
            assert optimizer.state[p][kind].equal(restored.state[q][kind]) and optimizer.state[p][kind].abs().sum() > 0
    steps(net, optimizer, 5, 9)
    steps(again, restored, 5, 9)
    assert all(p.equal(q) for p, q in zip(net.parameters(), again.parameters(), strict=True))


def test_parameters_that_were_never_updated_have_no_state() -> None:
    net = model()
    assert optimizers.moments(optimizers.adamw(net, SECTION), net) == {}
