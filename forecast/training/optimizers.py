"""AdamW or Muon, weight decay on matrices only, and their state as plain tensors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from forecast.core.sections import TrainingSection
from forecast.training.muon import Muon

_MOMENTS = ("exp_avg", "exp_avg_sq", "step", "momentum_buffer")


class Optimizers:
    """The optimisers of a model as one: a step, a learning rate, a state.

    AdamW (Loshchilov and Hutter 2019) updates all parameters; vectors (biases, norms) are not decayed. With
    `optimizer: muon` the matrices inside the network are updated by Muon (muon.py), scaled so that a learning rate
    means what it means for AdamW; embeddings and heads stay with AdamW.
    """

    def __init__(self, model: nn.Module, section: TrainingSection) -> None:
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        hidden = {name for name, p in trained.items() if section.optimizer == "muon" and _is_hidden(name, p)}
        rest = [p for name, p in trained.items() if name not in hidden]
        groups = [
            {"params": [p for p in rest if p.ndim > 1], "weight_decay": section.weight_decay},
            {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.each: list[torch.optim.Optimizer] = [
            torch.optim.AdamW([g for g in groups if g["params"]], lr=0.0, betas=section.betas, fused=True)
        ]
        if hidden:
            self.each.append(Muon([trained[name] for name in sorted(hidden)], weight_decay=section.weight_decay))

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for optimizer in self.each:
            optimizer.zero_grad()

    def step(self, lr: float) -> None:
        """Update all parameters with learning rate `lr`."""
        for optimizer in self.each:
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()

    def moments(self, model: nn.Module) -> dict[str, Tensor]:
        """The state as `<kind>.<parameter>`, kind being exp_avg, exp_avg_sq, step or momentum_buffer."""
        return {
            f"{kind}.{name}": optimizer.state[parameter][kind]
            for optimizer in self.each
            for name, parameter in model.named_parameters()
            if parameter in optimizer.state
            for kind in _MOMENTS
            if kind in optimizer.state[parameter]
        }

    def load(self, model: nn.Module, state: dict[str, Tensor]) -> None:
        """Put back what `moments` gave; parameters that were never updated have none."""
        for optimizer in self.each:
            mine = {id(p) for group in optimizer.param_groups for p in group["params"]}
            for name, parameter in model.named_parameters():
                held = {kind: state[f"{kind}.{name}"] for kind in _MOMENTS if f"{kind}.{name}" in state}
                if held and id(parameter) in mine:
                    optimizer.state[parameter] = {kind: x.to(parameter.device) for kind, x in held.items()}


def _is_hidden(name: str, parameter: Tensor) -> bool:
    """Matrices between layers of the network, which are what Muon is made for."""
    return parameter.ndim == 2 and not any(part in name for part in ("embed", "points", "nodes", "head"))
