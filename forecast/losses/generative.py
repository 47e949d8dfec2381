"""Generative models: marginals that obey the chain rule, and a diffusion generator that forgets a class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from forecast.losses.common import Loss, leave_out, reduce, require, same_shape, wide, without_masked
from forecast.losses.registry import register


@wide
def marginal_consistency(
    joint: Tensor,
    marginal: Tensor,
    conditional: Tensor,
    nothing: Tensor | None = None,
    everything: Tensor | None = None,
    *,
    length: float = 1.0,
    boundary: float = 1.0,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """length * (log p(x_S, x_i) - log p(x_S) - log p(x_i | x_S))^2, S of a random ordering; 0 if consistent.

    Args:
        joint, marginal, conditional: (B, *) the three logarithms that a network gives.
        nothing: log p of the empty set, any shape, or None; boundary * its mean square is added (it must be 0).
        everything: (B, *) log p(x) of the whole sample, or None; its negative (maximum likelihood) is added.
        length: number of variables, since one random place of the ordering stands for all of them.

    Raises:
        ForecastError: shapes that do not match, or a length not above 0.
    """
    require(length > 0, "length", length, "must be above 0")
    same_shape(joint=joint, marginal=marginal, conditional=conditional)
    value = length * without_masked(joint - marginal - conditional, mask).square()
    if everything is not None:
        same_shape(joint=joint, everything=everything)
        value = value - everything
    if nothing is not None:
        value = value + boundary * nothing.square().mean()
    return reduce(value, reduction, weight, mask)


@wide
def score_forgetting(
    generated: Tensor,
    teacher: Tensor,
    fake: Tensor,
    *,
    alpha: float = 1.2,
    floor: float = 1e-5,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Generator's side of score distillation: sum (x_p - x_f) ((x_p - x_g) - alpha (x_p - x_f)) / omega.

    omega = mean |x_p - x_g| of each sample, no gradient, not below `floor`. Freeze both networks' weights, yet let the
    gradient pass through their inputs. To forget a class, ask the teacher for another one's denoised sample
    (`overridden`) where the generator was asked for it; the fake network learns x_g back from its noised version by
    `mse`. Not a distance: the value may be negative. x_p = x_f gives 0.

    Args:
        generated: (B, *) x_g. teacher: (B, *) x_p, the frozen network's denoised version of noised x_g.
        fake: (B, *) x_f, the same of the network trained on generated samples. alpha: of the official configs.

    Returns:
        The loss, by sample (B,) before the reduction.

    Raises:
        ForecastError: shapes that do not match, a floor not above 0.
    """
    require(floor > 0, "floor", floor, "must be above 0")
    same_shape(generated=generated, teacher=teacher, fake=fake)
    given = leave_out(mask, generated.shape[:1], generated, teacher, fake)
    x_g, x_p, x_f = (x.flatten(1) for x in given)
    omega = (x_p - x_g).abs().mean(1).clamp_min(floor).detach()
    apart = x_p - x_f
    return reduce((apart * ((x_p - x_g) - alpha * apart)).sum(1) / omega, reduction, weight, mask)


def overridden(labels: Tensor, forgotten: Sequence[int], instead: int) -> Tensor:
    """Labels with each class of `forgotten` replaced by `instead`."""
    gone = torch.isin(labels, torch.as_tensor(list(forgotten), dtype=labels.dtype, device=labels.device))
    return labels.masked_fill(gone, instead)


@register(
    "marginal_consistency",
    formula="L (log p(x_S, x_i) - log p(x_S) - log p(x_i | x_S))^2",
    source="Liu et al. 2024, Generative marginalization models; mam.py",
    use="densities of any subset of stations or variables from one network",
    status="verified",
    takes="other",
)
class MarginalConsistencyLoss(Loss, of=marginal_consistency):
    """`marginal_consistency` with its settings fixed."""


@register(
    "score_forgetting",
    formula="sum (x_p - x_f) ((x_p - x_g) - alpha (x_p - x_f)) / mean |x_p - x_g|",
    source="Chen et al. 2024, Score forgetting distillation; DDPM/functions/losses.py",
    use="take a class (a faulty model version, a region) out of a diffusion generator, and make it one-step",
    status="verified",
    takes="other",
)
class ScoreForgettingLoss(Loss, of=score_forgetting):
    """`score_forgetting` with its settings fixed."""
