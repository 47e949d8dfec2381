"""Variational training: divergence of diagonal Gaussians with free bits and balancing, and CRPS + beta KL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from forecast.losses.common import Loss, empty, reduce, require, same_shape, wide
from forecast.losses.registry import register


@wide
def gaussian_kl(
    mean: Tensor,
    logvar: Tensor,
    prior_mean: Tensor | None = None,
    prior_logvar: Tensor | None = None,
    *,
    free_bits: float = 0.0,
    balance: float | None = None,
    clamp: tuple[float, float] = (-10.0, 10.0),
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """KL(q || p) of Gaussians with diagonal covariance, summed over all dimensions but the first.

    1/2 sum [log s_p^2 - log s_q^2 + (s_q^2 + (m_q - m_p)^2) / s_p^2 - 1]. Standard settings, none on by default:

    free_bits: the mean over the batch of each latent dimension (1) counts as this much where it is smaller, and has no
    gradient there. balance: share b of the gradient that moves the prior towards q, 1 - b moves q (0.8 in DreamerV2,
    1/2 is none); the value stays.

    Args:
        mean, logvar: (B, D, *) of q. prior_mean, prior_logvar: the same of p; a standard normal if absent.
        free_bits: nats for each entry of D. clamp: bounds of log variances.
        weight, mask: broadcastable to (B,).

    Raises:
        ForecastError: shapes that differ, one of the prior's two, negative free bits, balance outside [0, 1].
    """
    require((prior_mean is None) == (prior_logvar is None), "prior_logvar", None, "give mean and logvar, or neither")
    if prior_mean is None or prior_logvar is None:
        prior_mean, prior_logvar = torch.zeros_like(mean), torch.zeros_like(logvar)
    same_shape(mean=mean, logvar=logvar, prior_mean=prior_mean, prior_logvar=prior_logvar)
    require(mean.ndim >= 2, "mean", tuple(mean.shape), "must be (B, D, *)")
    require(free_bits >= 0, "free_bits", free_bits, "must not be negative")
    require(balance is None or 0 <= balance <= 1, "balance", balance, "must lie in [0, 1]")
    if not len(mean):
        return reduce(empty(mean, logvar, prior_mean, prior_logvar).expand(0), reduction)
    q, p = (mean, logvar.clamp(*clamp)), (prior_mean, prior_logvar.clamp(*clamp))
    if balance is None:
        return reduce(_floored(_kl(*q, *p), free_bits, weight, mask), reduction, weight, mask)
    fixed_q, fixed_p = ([x.detach() for x in pair] for pair in (q, p))
    moves_p, moves_q = (_floored(_kl(*a, *b), free_bits, weight, mask) for a, b in ((fixed_q, p), (q, fixed_p)))
    return reduce(balance * moves_p + (1 - balance) * moves_q, reduction, weight, mask)


def _kl(mean: Tensor, logvar: Tensor, prior_mean: Tensor, prior_logvar: Tensor) -> Tensor:
    """(B, D)."""
    ratio = torch.exp(logvar - prior_logvar) + (mean - prior_mean).square() * torch.exp(-prior_logvar)
    return 0.5 * (prior_logvar - logvar + ratio - 1).unsqueeze(-1).flatten(2).sum(2)


def _floored(kl: Tensor, free_bits: float, weight: Tensor | None, mask: Tensor | None) -> Tensor:
    """(B,) sums over D; their mean is that of max(mean over the batch, free bits)."""
    if not free_bits:
        return kl.sum(1)
    share = reduce(torch.ones_like(kl[:, 0]), "none", weight, mask)[:, None]
    mean = (share * torch.where(share > 0, kl, 0.0)).sum(0) / torch.where(share.sum() > 0, share.sum(), 1.0)
    return torch.where(mean > free_bits, kl, free_bits).sum(1)


@register(
    "gaussian_kl",
    formula="1/2 sum [log s_p^2 - log s_q^2 + (s_q^2 + (m_q - m_p)^2)/s_p^2 - 1], with free bits and balancing",
    source="Kingma and Welling 2014; free bits: Kingma et al. 2016, openai/iaf; balance: Hafner et al. 2021, dreamerv2",
    use="latent noise of a variational ensemble: the prior learns what the posterior saw of the truth",
    status="verified",
    takes="latent",
)
class GaussianKLLoss(Loss, of=gaussian_kl):
    """`gaussian_kl` with its settings fixed."""


def annealed(
    step: int, *, top: float = 1.0, warmup: int = 0, schedule: str = "linear", cycle: int = 0, rise: float = 0.5
) -> float:
    """The factor of a KL term at a training step.

    Args:
        top: its final value. schedule: constant; linear: from 0 to top in `warmup` steps; cyclic: every `cycle` steps
            anew from 0 to top within the share `rise`, then constant (Fu et al. 2019, arXiv 1903.10145).

    Raises:
        ForecastError: an unknown schedule, a negative warmup, a cycle of no steps, rise outside (0, 1].
    """
    require(schedule in ("constant", "linear", "cyclic"), "schedule", schedule, "must be constant, linear or cyclic")
    require(warmup >= 0, "warmup", warmup, "must not be negative")
    if schedule == "constant" or (schedule == "linear" and warmup == 0):
        return top
    if schedule == "linear":
        return top * min(1.0, step / warmup)
    require(cycle > 0, "cycle", cycle, "must be positive")
    require(0 < rise <= 1, "rise", rise, "must lie in (0, 1]")
    return top * min(1.0, (step % cycle) / (rise * cycle))


@register(
    "ensemble_vae",
    formula="score(members, truth) + beta(step) KL(posterior || prior), summed over levels",
    source="after FuXi-ENS, Zhong et al. 2024: CRPS + KL; its weights are not published, the reading is our own",
    use="trains a variational ensemble: the posterior sees the truth, forecasts draw from the prior",
    status="derived",
    takes="other",
)
class EnsembleVAELoss(nn.Module):
    """A score of decoded members plus beta times the divergence of posterior and prior at every level.

    Args:
        base: a score of (members, truth), e.g. the almost fair CRPS. beta, warmup, schedule, cycle: as `annealed`.
        free_bits, balance: as `gaussian_kl`.

    Raises:
        ForecastError: at call: another number of posteriors than of priors; settings out of range.
    """

    def __init__(
        self,
        base: nn.Module,
        beta: float = 1.0,
        warmup: int = 0,
        schedule: str = "linear",
        cycle: int = 0,
        free_bits: float = 0.0,
        balance: float | None = None,
    ) -> None:
        super().__init__()
        self.base = base
        self.annealing: dict[str, Any] = {"top": beta, "warmup": warmup, "schedule": schedule, "cycle": cycle}
        self.divergence = GaussianKLLoss(free_bits=free_bits, balance=balance)
        annealed(0, **self.annealing)

    def forward(
        self,
        members: Tensor,
        truth: Tensor,
        posterior: Sequence[tuple[Tensor, Tensor]],
        prior: Sequence[tuple[Tensor, Tensor]] | None = None,
        *,
        step: int | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The total, and its detached parts `score` and `kl`.

        Args:
            posterior, prior: a pair (mean, logvar), each (B, D, *), for every level; standard normal priors if absent.
            step: of training; None: annealing is over. kwargs: for the base.
        """
        prior = [()] * len(posterior) if prior is None else prior  # type: ignore[list-item]
        require(len(prior) == len(posterior) > 0, "prior", len(prior), f"must have {len(posterior)} levels, at least 1")
        score = self.base(members, truth, **kwargs)
        kl = torch.stack([self.divergence(*q, *p) for q, p in zip(posterior, prior, strict=True)]).sum()
        beta = self.annealing["top"] if step is None else annealed(step, **self.annealing)
        return score + beta * kl, {"score": score.detach(), "kl": kl.detach()}
