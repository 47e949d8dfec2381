"""Likelihood of models that are not normalised: by a running estimate of their constant, and against noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from forecast.losses.common import Loss, reduce, require, wide
from forecast.losses.pairs import positive
from forecast.losses.registry import register


@wide
def unnormalized_nll(
    data_log_model: Tensor,
    noise_log_model: Tensor,
    noise_log_prob: Tensor,
    log_partition: Tensor | None = None,
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """-mean log p(x) + log mean[p(z) / q(z)], x data and z draws of q, p a model that is not normalised.

    With a running estimate `log_partition` u of the second mean, the value has log u and the gradient
    (1 / u) mean[grad p(z) / q(z)]; without, the batch's own. A constant factor of p drops out.

    Args:
        data_log_model: (N,) log p(x). noise_log_model, noise_log_prob: (M,) log p(z), log q(z).
        weight, mask: (N,) of the data.

    Returns:
        A scalar.

    Raises:
        ForecastError: shapes that do not match, no draws.
    """
    batch = log_partition_of(noise_log_model, noise_log_prob)
    if log_partition is not None:
        ratio = (batch - log_partition.detach()).exp()
        batch = log_partition.detach() + ratio - ratio.detach()
    return batch - reduce(data_log_model, "mean", weight, mask)


def log_partition_of(noise_log_model: Tensor, noise_log_prob: Tensor) -> Tensor:
    """log mean[p(z) / q(z)] over (M,) draws."""
    require(
        noise_log_model.ndim == 1 and len(noise_log_model) > 0, "noise_log_model", tuple(noise_log_model.shape), "(M,)"
    )
    require(
        noise_log_prob.shape == noise_log_model.shape, "noise_log_prob", tuple(noise_log_prob.shape), "must be (M,)"
    )
    return (noise_log_model - noise_log_prob).logsumexp(0) - math.log(len(noise_log_model))


@register(
    "unnormalized_nll",
    formula="-mean log p(x) + log u, u <- (1 - g) u + g mean[p(z) / q(z)]",
    source="Jiang et al. 2023, Learning Unnormalized Statistical Models via Compositional Optimization (MECO), "
    "arXiv:2306.07485; from its abstract",
    use="an energy of states, to reweight or correct members after the forecast",
    status="derived",
    takes="other",
)
class UnnormalizedNLLLoss(nn.Module):
    """`unnormalized_nll` with a running estimate of log u, a buffer in the state, which changes in training mode only.

    Args:
        rate: g in (0, 1], what a batch adds. The first batch sets the estimate.
    """

    stateful = True

    def __init__(self, rate: float = 0.1) -> None:
        super().__init__()
        require(0 < rate <= 1, "rate", rate, "must lie in (0, 1]")
        self.rate = rate
        self.log_partition: Tensor
        self.register_buffer("log_partition", torch.tensor(torch.nan))

    def reset_state(self) -> None:
        """Forget the estimate."""
        self.log_partition.fill_(torch.nan)

    def forward(
        self, data_log_model: Tensor, noise_log_model: Tensor, noise_log_prob: Tensor, **at_call: Tensor | None
    ) -> Tensor:
        """The loss, after the batch has joined the estimate."""
        with torch.no_grad():
            batch = log_partition_of(noise_log_model, noise_log_prob).to(self.log_partition.dtype)
            old = torch.where(self.log_partition.isnan(), batch, self.log_partition)
            new = torch.logaddexp(old + math.log1p(-self.rate), batch + math.log(self.rate)) if self.rate < 1 else batch
            if self.training:
                self.log_partition.copy_(new)
        estimate = new if self.training else old
        return unnormalized_nll(data_log_model, noise_log_model, noise_log_prob, estimate, **at_call)


@wide
def noise_contrastive(
    data_log_model: Tensor,
    data_log_noise: Tensor,
    noise_log_model: Tensor,
    noise_log_prob: Tensor,
    *,
    ratio: float = 1.0,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """NCE: -mean log s(G(x)) - v mean log s(-G(z)), G = log p - log(v q), s the logistic function.

    Smallest where p is the data's density, its constant too.

    Args:
        data_log_model, data_log_noise: (N,) log p(x), log q(x) of the data.
        noise_log_model, noise_log_prob: (M,) log p(z), log q(z) of draws of q. ratio: v, noise to data.
        weight, mask: (N,) of the data.

    Returns:
        A scalar.

    Raises:
        ForecastError: shapes that do not match, a ratio that is not positive.
    """
    positive(ratio=ratio)
    for name, log_p, log_q in (
        ("data_log_noise", data_log_model, data_log_noise),
        ("noise_log_prob", noise_log_model, noise_log_prob),
    ):
        require(log_p.ndim == 1 and log_p.shape == log_q.shape, name, tuple(log_q.shape), f"{tuple(log_p.shape)}")
    data = F.softplus(math.log(ratio) + data_log_noise - data_log_model)
    noise = F.softplus(noise_log_model - noise_log_prob - math.log(ratio))
    return reduce(data, "mean", weight, mask) + ratio * reduce(noise)


@register(
    "noise_contrastive",
    formula="-mean log s(G(x)) - v mean log s(-G(z)), G = log p - log(v q)",
    source="Gutmann and Hyvarinen 2010, Noise-contrastive estimation",
    use="an energy of states learnt by telling analyses from perturbed ones",
    status="derived",
    takes="other",
)
class NoiseContrastiveLoss(Loss, of=noise_contrastive):
    """`noise_contrastive` with its settings fixed."""
