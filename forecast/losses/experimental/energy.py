"""Energy-based models learnt from pairs of noise levels, with a second network that starts the sampler."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from forecast.losses.common import Loss, from_memory, leave_out, reduce, require, same_shape, wide, without_masked
from forecast.losses.registry import register


@from_memory
@wide
def recovery_likelihood(
    positive: Tensor,
    negative: Tensor,
    initial: Tensor | None = None,
    refined: Tensor | None = None,
    *,
    initializer: float = 1.0,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """f(made) - f(real), + initializer * mean (initial - sg refined)^2: both networks of a cooperative training.

    f is the log density (up to a constant) of a field at one noise level. Its gradient is that of the recovery
    likelihood log p(x_t | x_{t+1}) = f(x_t) - |x_{t+1} - sqrt(1 - s^2) x_t|^2 / (2 s^2), whose second term knows no
    weights. The value says nothing about the fit.

    Args:
        positive: (B,) f of real fields. negative: (B,) f of those that `refine` made from the same noisy ones.
        initial, refined: (B, *) what the initialiser proposed and what the sampler made of it, or None.

    Raises:
        ForecastError: shapes that do not match, or one of initial and refined alone.
    """
    same_shape(positive=positive, negative=negative)
    require((initial is None) == (refined is None), "refined", refined is not None, "goes with `initial`")
    value = without_masked(negative - positive, mask)
    if initial is not None and refined is not None:
        same_shape(initial=initial, refined=refined)
        initial, refined = leave_out(mask, positive.shape, initial, refined)
        gap = (initial - refined.detach()).square()
        value = value + initializer * (gap.flatten(positive.ndim).mean(-1) if gap.ndim > positive.ndim else gap)
    return reduce(value, reduction, weight, mask)


def refine(
    density: Callable[[Tensor], Tensor],
    noisy: Tensor,
    start: Tensor,
    *,
    sigma: float,
    steps: int = 15,
    step_size: float = 0.1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Samples of exp(f(x)) N(noisy; sqrt(1 - sigma^2) x, sigma^2), from `start` by Langevin steps; no gradient is kept.

    Args:
        density: f, (B, *) to (B,). noisy: (B, *) x_{t+1}. start: (B, *) of the initialiser. step_size: in sigmas.

    Raises:
        ForecastError: sigma outside (0, 1), fewer than one step, or shapes that do not match.
    """
    require(0 < sigma < 1, "sigma", sigma, "must lie in (0, 1)")
    require(steps >= 1, "steps", steps, "must be at least 1")
    same_shape(noisy=noisy, start=start)
    shrink, size, x = math.sqrt(1 - sigma**2), step_size * sigma, start.detach()
    for _ in range(steps):
        x = x.requires_grad_()
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(density(x).sum(), x, allow_unused=True)
        pull = shrink * (noisy - shrink * x.detach()) / sigma**2
        drift = pull if slope is None else pull + slope
        noise = torch.empty_like(x).normal_(generator=generator)
        x = x.detach() + size**2 / 2 * drift + size * noise
    return x


@register(
    "recovery_likelihood",
    formula="f(made) - f(real) + c mean (initial - sg refined)^2",
    source="Zhu et al. 2024, Learning energy-based models by cooperative diffusion recovery likelihood",
    use="refine members by an energy that knows what analyses look like",
    status="from memory",
    takes="other",
)
class RecoveryLikelihoodLoss(Loss, of=recovery_likelihood):
    """`recovery_likelihood` with its settings fixed."""
