"""Losses on the margins f_k - f_y between classes: label-distributionally robust, and a bound on confidence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from forecast.core.errors import ForecastError
from forecast.losses.common import Loss, reduce, require, wide
from forecast.losses.registry import register
from forecast.losses.targets import TINY, Classes, classes

Normalize = Literal["softplus_mean", "l1"] | None
_FLOOR = 1e-5  # added to each probability before the divergence from uniform, as in the official code


@wide
def ldr(
    logits: Tensor,
    labels: Tensor,
    *,
    margin: float = 2.0,
    temperature: float = 1.0,
    normalize: Normalize = "softplus_mean",
    class_dim: int = 1,
    ignore_index: int = -100,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """LDR-KL: t log mean_k exp((f_k - f_y + c [k != y]) / t), the worst label mixture within a KL penalty t.

    t -> 0: the largest margin violation (Crammer and Singer); t -> infinity: the mean one; t = 1 and c = 0: cross
    entropy - log K. Without normalisation it falls to -t log K as f_y grows: a negative value is no mistake.
    Defaults are those of the official code.

    Args:
        logits: (B, K, *). labels: (B, *) integers.
        margin: c. temperature: t, positive.
        normalize: of the logits first. softplus_mean: softplus(f) over its mean over the classes; l1: f over mean |f|;
            None: as they are.

    Raises:
        ForecastError: shapes that do not match, a label out of range, a temperature that is not positive.
    """
    require(temperature > 0, "temperature", temperature, "must be positive")
    given = classes(logits, labels, class_dim=class_dim, ignore_index=ignore_index, mask=mask)
    gaps = _gaps(given, _normalized(given.logits, normalize), margin)
    value = temperature * (torch.logsumexp(gaps / temperature, -1) - math.log(gaps.shape[-1]))
    return reduce(value, reduction, weight, given.mask)


def _normalized(f: Tensor, how: Normalize) -> Tensor:
    require(how in ("softplus_mean", "l1", None), "normalize", how, "must be softplus_mean, l1 or None")
    if how is None:
        return f
    f = nn.functional.softplus(f) if how == "softplus_mean" else f
    return f / f.abs().mean(-1, keepdim=True).clamp_min(TINY)


def _gaps(given: Classes, f: Tensor, margin: float) -> Tensor:
    """(B, *, K) f_k - f_y + c [k != y]."""
    own = given.number()[..., None]
    return f - f.gather(-1, own) + margin * torch.ones_like(f).scatter(-1, own, 0.0)


@wide
def margin_control(
    logits: Tensor,
    labels: Tensor,
    *,
    strength: float = 0.05,
    batch_sum: bool = False,
    class_dim: int = 1,
    ignore_index: int = -100,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Cross entropy + strength * log(1 + mean |p|^2): keeps confidence, and with it the margins, small.

    |p|^2 is the sum over the classes of squared probabilities. The official code takes its sum over the batch, so that
    the value depends on the batch's size (between log(1 + B / K) and log(1 + B)): `batch_sum` does so; the default
    is the weighted mean, between log(1 + 1 / K) and log 2. The same term is added to each element.

    Args:
        logits: (B, K, *). labels: (B, *) integers or (B, K, *) probabilities. strength: 0.03 to 0.1 in the paper.

    Raises:
        ForecastError: shapes that do not match, a label out of range, a negative strength.
    """
    require(strength >= 0, "strength", strength, "must not be negative")
    given = classes(logits, labels, class_dim=class_dim, ignore_index=ignore_index, mask=mask)
    log_p = given.logits.log_softmax(-1)
    concentration = reduce(log_p.exp().square().sum(-1), "sum" if batch_sum else "mean", weight, given.mask)
    return reduce(strength * concentration.log1p() - given.pick(log_p), reduction, weight, given.mask)


@register(
    "ldr",
    formula="t log mean_k exp((f_k - f_y + c [k != y]) / t)",
    source="Zhu, Ying and Yang 2023, Label Distributionally Robust Losses for Multi-class Classification; code",
    use="noisy classes, such as rain type from radar or events from stations",
    status="verified",
    takes="classes",
)
class LDRLoss(Loss, of=ldr):
    """`ldr` with its settings fixed."""


@register(
    "margin_control",
    formula="-log p_y + s log(1 + mean |p|^2)",
    source="Tackling Data Heterogeneity in Federated Learning via Loss Decomposition (FedLD); official code",
    use="keeps the confidence of a binned head small when it learns from several archives that differ",
    status="verified",
    takes="classes",
)
class MarginControlLoss(Loss, of=margin_control):
    """`margin_control` with its settings fixed."""


@register(
    "aldr",
    formula="t_i log mean_k exp((f_k - f_y + c [k != y]) / t_i) - (a log K / (2 t_0)) (t_i - t_0)^2",
    source="Zhu, Ying and Yang 2023, Label Distributionally Robust Losses for Multi-class Classification; code",
    use="noisy classes where each sample finds out how far to trust its label",
    status="verified",
    takes="classes",
)
class ALDRLoss(nn.Module):
    """LDR-KL with a temperature of its own for each sample, kept between epochs.

    In training, before the loss is taken, t_i = t_0 - t_0 KL(p || uniform) / (a log K) with p the softmax of f / t_i:
    a confident sample gets a small temperature. Samples not yet seen have t_0. The state belongs to this process:
    with data-parallel training keep each sample on one rank, and do not broadcast buffers.

    Args:
        samples: how many indices there are; the buffer `temperatures` is (samples,).
        margin: c. temperature: t_0. alpha: a > 1, which keeps t_i positive (the official default, 1, lets it reach 0
            for a one-hot p; 2 is ours). normalize: of the logits first, as in `ldr`.

    Raises:
        ForecastError: alpha or temperature out of range; in a call, indices out of range or not of the labels' shape.
    """

    temperatures: Tensor

    def __init__(
        self,
        samples: int,
        *,
        margin: float = 1.0,
        temperature: float = 1.0,
        alpha: float = 2.0,
        normalize: Normalize = "l1",
        class_dim: int = 1,
        ignore_index: int = -100,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        require(alpha > 1, "alpha", alpha, "must be above 1")
        require(temperature > 0, "temperature", temperature, "must be positive")
        require(samples > 0, "samples", samples, "must be positive")
        self.margin, self.temperature, self.alpha, self.normalize = margin, temperature, alpha, normalize
        self.class_dim, self.ignore_index, self.reduction = class_dim, ignore_index, reduction
        self.register_buffer("temperatures", torch.full((samples,), float(temperature)))

    def reset_state(self) -> None:
        """Forget all samples."""
        self.temperatures.fill_(self.temperature)

    def forward(
        self,
        logits: Tensor,
        labels: Tensor,
        *,
        index: Tensor,
        weight: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """The loss of (B, K, *) logits and (B, *) integers; `index`, of the labels' shape, numbers the samples."""
        shape, count = tuple(index.shape), len(self.temperatures)
        if index.shape != labels.shape or index.is_floating_point():
            raise ForecastError(f"index of shape {shape}: must be integers of the labels' shape {tuple(labels.shape)}")
        if index.numel() and not (int(index.min()) >= 0 and int(index.max()) < count):
            raise ForecastError(f"index: {int(index.min())} to {int(index.max())}; must lie in 0 to {count - 1}")
        return self._loss(logits, labels, index, weight, mask)

    @wide
    def _loss(
        self, logits: Tensor, labels: Tensor, index: Tensor, weight: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        given = classes(logits, labels, class_dim=self.class_dim, ignore_index=self.ignore_index, mask=mask)
        f = _normalized(given.logits, self.normalize)
        own = self._updated(f.detach(), index, given.mask).to(f.dtype)
        gaps = _gaps(given, f, self.margin)
        robust = own * (torch.logsumexp(gaps / own[..., None], -1) - math.log(gaps.shape[-1]))
        penalty = self.alpha * math.log(f.shape[-1]) / (2 * self.temperature) * (own - self.temperature).square()
        return reduce(robust - penalty, self.reduction, weight, given.mask)

    @torch.no_grad()
    def _updated(self, f: Tensor, index: Tensor, mask: Tensor | None) -> Tensor:
        """(B, *) temperatures of this call; stored in training."""
        own, count = self.temperatures[index], f.shape[-1]
        if not self.training or count == 1:
            return own
        p = (f / own[..., None]).softmax(-1) + _FLOOR
        p = p / p.sum(-1, keepdim=True)
        divergence = (p * (count * p).log()).sum(-1)
        new = (self.temperature * (1 - divergence / (self.alpha * math.log(count)))).to(own.dtype)
        kept: Sequence[Tensor] = (index, new) if mask is None else (index[mask], new[mask])
        self.temperatures[kept[0]] = kept[1]
        return new
