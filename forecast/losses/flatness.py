"""Flat solutions: a penalty on the norm of a network's gradient, by a finite difference or exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from forecast.losses.common import empty, require
from forecast.losses.registry import register


def gradient_norm(
    objective: Callable[[], Tensor], parameters: Iterable[Tensor], *, step: float = 0.05, exact: bool = False
) -> Tensor:
    """|grad G| over the parameters together, with its gradient H g / |g|.

    Args:
        objective: gives G as it stands, e.g. the mean output over a batch; called twice. It must be the same function
            each time (no new random numbers).
        parameters: leaves that G depends on. They are moved by `step` along the gradient for a moment and put back.
        step: of the finite difference (grad G(w + step g / |g|) - grad G(w)) / step; exact for quadratic G.
        exact: differentiate twice instead, no step; needs operators with second derivatives.

    Returns:
        The norm. Where it is 0, a 0 without gradient.

    Raises:
        ForecastError: a step not above 0, or no parameters.
    """
    given = list(parameters)
    require(bool(given), "parameters", given, "there are none")
    require(step > 0, "step", step, "must be above 0")
    slope = _slope(objective, given, exact)
    square = torch.stack([g.square().sum() for g in slope]).sum()
    if not bool(square.detach() > 0):
        return empty(*given)
    norm = square.sqrt()
    if exact:
        return norm
    unit = [g / norm for g in slope]
    there = _slope_at(objective, given, unit, step)
    moved = [(p * ((b - a) / step)).sum() for p, a, b in zip(given, slope, there, strict=True)]
    curved = torch.stack(moved).sum()
    return norm + (curved - curved.detach())


def _slope(objective: Callable[[], Tensor], parameters: list[Tensor], differentiable: bool) -> list[Tensor]:
    with torch.enable_grad():
        found = torch.autograd.grad(objective(), parameters, create_graph=differentiable, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


def _slope_at(
    objective: Callable[[], Tensor], parameters: list[Tensor], direction: list[Tensor], step: float
) -> list[Tensor]:
    """The slope with parameters moved along the direction; they are put back bit by bit whatever happens."""
    originals = [p.detach().clone() for p in parameters]
    try:
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p.add_(d, alpha=step)
        return _slope(objective, parameters, False)
    finally:
        with torch.no_grad():
            for p, original in zip(parameters, originals, strict=True):
                p.copy_(original)


@register(
    "gradient_norm",
    formula="lambda rho |grad G|, lambda <- max(0, lambda + eta (rho |grad G| - epsilon))",
    source="Dao et al. 2024, Incorporating surrogate gradient norm to improve offline optimization (IGNITE)",
    use="post-processing networks whose output does not jump when their weights are rounded or averaged",
    status="verified",
    takes="parameters",
)
class GradientNormRegularizer(nn.Module):
    """multiplier * rho * `gradient_norm`; the multiplier, a buffer, grows while rho |g| exceeds the limit.

    G is the network's mean output over a batch, not its loss. Add the result to the loss before `backward`.

    Args:
        rho, limit: 0.05 and 1e-3 as published. rate: of the multiplier, first: where it starts (ours).
        step, exact: see `gradient_norm`.
    """

    multiplier: Tensor
    stateful = True

    def __init__(
        self,
        rho: float = 0.05,
        limit: float = 1e-3,
        rate: float = 1e-2,
        first: float = 0.0,
        step: float = 0.05,
        exact: bool = False,
    ) -> None:
        super().__init__()
        for name, value in (("rho", rho), ("limit", limit), ("rate", rate), ("first", first)):
            require(value >= 0, name, value, "must not be negative")
        self.rho, self.limit, self.rate, self.first, self.step, self.exact = rho, limit, rate, first, step, exact
        self.register_buffer("multiplier", torch.tensor(float(first)))

    def forward(self, objective: Callable[[], Tensor], parameters: Iterable[Tensor]) -> Tensor:
        """The penalty; in training mode the multiplier then takes its step."""
        norm = gradient_norm(objective, parameters, step=self.step, exact=self.exact)
        penalty = self.multiplier.clone() * self.rho * norm
        if self.training:
            with torch.no_grad():
                self.multiplier.add_(self.rate * (self.rho * norm.detach() - self.limit)).clamp_(min=0.0)
        return penalty

    def reset_state(self) -> None:
        """Put the multiplier back to where it started."""
        self.multiplier.fill_(self.first)
