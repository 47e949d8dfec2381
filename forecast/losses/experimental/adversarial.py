"""Comp-sum loss of a network with a bound on how its margins change near each input."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from forecast.losses.classification import power_of_odds
from forecast.losses.common import Loss, from_memory, reduce, require
from forecast.losses.registry import register
from forecast.losses.targets import TINY, Classes, classes

Network = Callable[[Tensor], Tensor]


@from_memory
def smooth_adversarial_comp_sum(
    network: Network,
    inputs: Tensor,
    labels: Tensor,
    *,
    tau: float = 1.0,
    margin: float = 1.0,
    strength: float = 1.0,
    radius: float = 0.1,
    steps: int = 3,
    class_dim: int = 1,
    ignore_index: int = -100,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Comp-sum of f / margin + strength * max over |x' - x| <= radius of |D(x') - D(x)|, D the f_y - f_k of all k.

    The maximum, in each component of x, is sought by `steps` signed gradient steps from a random point. It takes
    1 + steps forward passes of the network more. With strength = 0 it is `comp_sum` of f / margin.
    The constants are ours.

    Args:
        network: from inputs (B, *) to logits (B, K, *). labels: (B, *) integers. tau: as in `comp_sum`.
        margin, radius: positive. steps: at least 1. generator: of the random point; None takes torch's own.

    Raises:
        ForecastError: shapes that do not match, labels or settings out of range.
    """
    require(tau >= 0, "tau", tau, "must not be negative")
    for name, size in (("margin", margin), ("radius", radius)):
        require(size > 0, name, size, "must be positive")
    require(strength >= 0, "strength", strength, "must not be negative")
    require(steps >= 1, "steps", steps, "must be at least 1")

    def seen(x: Tensor) -> Classes:
        logits = network(x)
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return classes(wide, labels, class_dim=class_dim, ignore_index=ignore_index, mask=mask)

    given = seen(inputs)
    value = power_of_odds(-given.pick((given.logits / margin).log_softmax(-1)), tau)
    if strength:

        def change(near: Tensor) -> Tensor:
            return (_margins(seen(near)) - _margins(given)).square().sum(-1).clamp_min(TINY).sqrt()

        value = value + strength * change(_worst(change, inputs, radius, steps, generator))
    return reduce(value, reduction, weight, given.mask)


def _margins(given: Classes) -> Tensor:
    """(B, *, K) f_y - f_k."""
    return given.pick(given.logits)[..., None] - given.logits


def _worst(
    change: Callable[[Tensor], Tensor], inputs: Tensor, radius: float, steps: int, generator: torch.Generator | None
) -> Tensor:
    """The point within `radius` of the inputs where the change is largest, as far as signed steps find it."""
    x = inputs.detach()
    near = x + torch.empty_like(x).uniform_(-radius, radius, generator=generator)
    for _ in range(steps):
        with torch.enable_grad():
            near = near.requires_grad_()
            (slope,) = torch.autograd.grad(change(near).sum(), near, retain_graph=True)
        near = (near.detach() + 2 * radius / steps * slope.sign()).clamp(x - radius, x + radius)
    return near.detach()


@register(
    "smooth_adversarial_comp_sum",
    formula="comp_sum(f / margin) + strength max_{|x' - x| <= r} |D(x') - D(x)|, D = (f_y - f_k)_k",
    source="Mao, Mohri and Zhong 2023, Cross-Entropy Loss Functions: Theoretical Analysis and Applications",
    use="regime or event heads that small errors of the analysis should not tip over",
    status="from memory",
    takes="other",
)
class SmoothAdversarialCompSumLoss(Loss, of=smooth_adversarial_comp_sum):
    """`smooth_adversarial_comp_sum` with its settings fixed."""
