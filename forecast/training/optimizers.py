"""AdamW with weight decay on matrices only, and its state as plain tensors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from forecast.core.config import TrainingSection

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def adamw(model: nn.Module, section: TrainingSection) -> torch.optim.AdamW:
    """AdamW over all trainable parameters; vectors (biases, norms) are not decayed (Loshchilov and Hutter 2019)."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": section.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=0.0, betas=section.betas, fused=True)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """The learning rate of the next update, in every group."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def moments(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """AdamW's state as `exp_avg.<parameter>`, `exp_avg_sq.<parameter>` and `step.<parameter>`."""
    return {
        f"{kind}.{name}": optimizer.state[parameter][kind]
        for name, parameter in model.named_parameters()
        if parameter in optimizer.state
        for kind in _MOMENTS
    }


def load_moments(optimizer: torch.optim.Optimizer, model: nn.Module, state: dict[str, Tensor]) -> None:
    """Put back what `moments` gave; parameters that were never updated have none."""
    for name, parameter in model.named_parameters():
        if f"step.{name}" in state:
            optimizer.state[parameter] = {kind: state[f"{kind}.{name}"].to(parameter.device) for kind in _MOMENTS}
