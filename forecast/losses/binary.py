"""Losses of yes-or-no events, element by element: cross entropy, focal kinds, and a random calibrated loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from forecast.losses.common import Loss, reduce, require, wide
from forecast.losses.registry import register
from forecast.losses.targets import TINY, events, probability

_SLIGHT = 1e-6  # subtracted from each slope of the ensemble loss, so that none is zero


@wide
def binary_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    pos_weight: float = 1.0,
    from_logits: bool = True,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Binary cross entropy -c y log p - (1 - y) log(1 - p), p = sigmoid(logits), with area weights.

    Args:
        logits: (B, *). labels: (B, *) in [0, 1]. pos_weight: c, the cost of a missed event over that of a false alarm.

    Raises:
        ForecastError: shapes that do not match, labels outside [0, 1], a pos_weight that is not positive.
    """
    require(pos_weight > 0, "pos_weight", pos_weight, "must be positive")
    f, y, mask = events(logits, labels, mask)
    log_p, log_q = _log_odds(f, from_logits)
    return reduce(-pos_weight * y * log_p - (1 - y) * log_q, reduction, weight, mask)


def _log_odds(f: Tensor, from_logits: bool) -> tuple[Tensor, Tensor]:
    """log p and log(1 - p)."""
    if from_logits:
        return logsigmoid(f), logsigmoid(-f)
    p = probability(f, False)
    return p.clamp_min(TINY).log(), (1 - p).clamp_min(TINY).log()


@wide
def multi_grained_focal(
    logits: Tensor,
    labels: Tensor,
    *,
    gamma_pos: float = 0.0,
    gamma_neg: float = 4.0,
    clip: float = 0.05,
    frequencies: Sequence[float] | None = None,
    class_dim: int = 1,
    detach_focus: bool = False,
    from_logits: bool = True,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Asymmetric focal loss whose focus on negatives depends on how rare each event is.

    -y (1 - p)^(g+) log p - (1 - y) p_m^(g- + w_c) log(1 - p_m), p_m = max(p - m, 0),
    w_c = (1 - log(n_c / max n))^(1/6): rarer events push easy negatives further down.
    All of g, m and w zero: binary cross entropy. The official code sums over the elements: reduction="sum".

    Args:
        logits: (B, *). labels: (B, *) in [0, 1].
        gamma_pos, gamma_neg: g+ and g-. clip: m; negatives with p below it cost nothing.
        frequencies: n_c for each event along `class_dim`; without them w = 0. Zeros count as one millionth of the sum.
        detach_focus: take no gradient through the powers.

    Raises:
        ForecastError: shapes that do not match, labels outside [0, 1], negative powers, a clip outside [0, 1).
    """
    require(gamma_pos >= 0, "gamma_pos", gamma_pos, "must not be negative")
    require(gamma_neg >= 0, "gamma_neg", gamma_neg, "must not be negative")
    require(0 <= clip < 1, "clip", clip, "must lie in [0, 1)")
    f, y, mask = events(logits, labels, mask)
    p, (log_p, log_q) = probability(f, from_logits), _log_odds(f, from_logits)
    above = p
    if clip:
        above = (p - clip).clamp_min(0.0)
        log_q = torch.log1p(-above)
    modifier = _rarity(frequencies, f, class_dim)
    hard_pos = _power(1 - p, gamma_pos, detach_focus)
    hard_neg = _power(above, gamma_neg if modifier is None else gamma_neg + modifier, detach_focus)
    return reduce(-y * hard_pos * log_p - (1 - y) * hard_neg * log_q, reduction, weight, mask)


def _power(base: Tensor, exponent: float | Tensor, detach: bool) -> Tensor:
    """base^exponent, flat at base = 0; exponent 0 is exactly 1."""
    if isinstance(exponent, float | int) and exponent == 0:
        return torch.ones_like(base)
    power = base.clamp_min(TINY) ** exponent
    return power.detach() if detach else power


def _rarity(frequencies: Sequence[float] | None, like: Tensor, class_dim: int) -> Tensor | None:
    """(1 - log(n_c / max n))^(1/6), shaped to go along `class_dim`."""
    if frequencies is None:
        return None
    require(-like.ndim <= class_dim < like.ndim, "class_dim", class_dim, f"logits have {like.ndim} dimensions")
    shape = [1] * like.ndim
    shape[class_dim] = like.shape[class_dim]
    n = torch.as_tensor(frequencies, dtype=like.dtype, device=like.device)
    good = n.shape == (shape[class_dim],) and bool((n >= 0).all() and n.sum() > 0)
    require(good, "frequencies", list(frequencies), f"{shape[class_dim]} numbers, not negative, not all zero")
    n = n.clamp_min(1e-6 * float(n.sum()))
    return (1 - (n / n.max()).log()).pow(1 / 6).reshape(shape)


@wide
def focal(
    logits: Tensor,
    labels: Tensor,
    *,
    gamma: float = 2.0,
    alpha: float | None = None,
    detach_focus: bool = False,
    from_logits: bool = True,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Focal loss -(1 - p_t)^g log p_t, p_t the probability given to what happened; g = 0: binary cross entropy.

    Args:
        logits: (B, *). labels: (B, *) in [0, 1]. gamma: g.
        alpha: in (0, 1); multiplies what events cost, and 1 - alpha what non-events cost. None: both 1.

    Raises:
        ForecastError: shapes that do not match, labels outside [0, 1], a negative gamma, alpha outside (0, 1).
    """
    require(gamma >= 0, "gamma", gamma, "must not be negative")
    require(alpha is None or 0 < alpha < 1, "alpha", alpha, "must lie in (0, 1)")
    f, y, mask = events(logits, labels, mask)
    p, (log_p, log_q) = probability(f, from_logits), _log_odds(f, from_logits)
    yes, no = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)
    hit = yes * y * _power(1 - p, gamma, detach_focus) * log_p
    return reduce(-hit - no * (1 - y) * _power(p, gamma, detach_focus) * log_q, reduction, weight, mask)


@wide
def asymmetric_focal(
    logits: Tensor,
    labels: Tensor,
    *,
    gamma_pos: float = 0.0,
    gamma_neg: float = 4.0,
    clip: float = 0.05,
    detach_focus: bool = False,
    from_logits: bool = True,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Asymmetric loss for many events: `multi_grained_focal` that knows no frequencies."""
    return multi_grained_focal(
        logits,
        labels,
        gamma_pos=gamma_pos,
        gamma_neg=gamma_neg,
        clip=clip,
        detach_focus=detach_focus,
        from_logits=from_logits,
        reduction=reduction,
        weight=weight,
        mask=mask,
    )


@wide
def ens_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    shape: float | None = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """A loss whose gradient is that of a random convex calibrated loss, drawn anew at each call.

    Slopes g_i = -min(max(1 + l z_i, 0)^(1/l), 1) with z normal (l = 0: -min(e^z, 1)) are sorted so that the smallest
    margin s = (2y - 1) f gets the steepest; above s = 1 they are divided by s. The result is the mean of g s with g
    fixed: its gradient is the point, its value measures nothing (`EnsLoss.value` does).

    Args:
        logits: (B, *). labels: (B, *), 0 or 1. shape: l in [-1, 1]; None draws it uniformly.
        generator: of the draws; None takes torch's own.

    Raises:
        ForecastError: shapes that do not match, labels other than 0 and 1.
    """
    f, y, mask = events(logits, labels, mask, binary=True)
    margin = (2 * y - 1) * f
    kept = margin.detach()[mask] if mask is not None else margin.detach().reshape(-1)
    slopes = _random_slopes(kept, shape, generator)
    every = torch.ones_like(margin, dtype=torch.bool) if mask is None else mask
    return reduce(torch.zeros_like(margin).masked_scatter(every, slopes) * margin, reduction, weight, mask)


def _random_slopes(margin: Tensor, shape: float | None, generator: torch.Generator | None) -> Tensor:
    """(n,) slopes, all negative, that do not fall as the margin (n,) grows."""
    if shape is None:
        shape = float(torch.empty((), device=margin.device).uniform_(-1, 1, generator=generator))
    require(-1 <= shape <= 1, "shape", shape, "must lie in [-1, 1]")
    z = torch.empty_like(margin).normal_(generator=generator)
    steep = z.exp() if abs(shape) < 1e-6 else (1 + shape * z).clamp_min(0.0) ** (1 / shape)
    ordered = -steep.clamp(max=1.0).sort(descending=True).values
    slopes = torch.empty_like(margin).scatter(0, margin.argsort(), ordered)
    return slopes / margin.clamp_min(1.0) - _SLIGHT


@register(
    "binary_cross_entropy",
    formula="-c y log p - (1 - y) log(1 - p)",
    source="Good 1952, Rational decisions",
    use="the plain baseline of an exceedance head, with area weights",
    status="derived",
    takes="event",
)
class BinaryCrossEntropyLoss(Loss, of=binary_cross_entropy):
    """`binary_cross_entropy` with its settings fixed."""


@register(
    "focal",
    formula="-(1 - p_t)^g log p_t",
    source="Lin et al. 2017, Focal Loss for Dense Object Detection",
    use="rare exceedances: points that are plainly dry weigh little",
    status="derived",
    takes="event",
)
class FocalLoss(Loss, of=focal):
    """`focal` with its settings fixed."""


@register(
    "asymmetric_focal",
    formula="-y (1 - p)^(g+) log p - (1 - y) p_m^(g-) log(1 - p_m), p_m = max(p - m, 0)",
    source="Ridnik et al. 2021, Asymmetric Loss For Multi-Label Classification",
    use="several rare hazards at once: easy and mislabelled non-events weigh nothing",
    status="derived",
    takes="event",
)
class AsymmetricFocalLoss(Loss, of=asymmetric_focal):
    """`asymmetric_focal` with its settings fixed."""


@register(
    "multi_grained_focal",
    formula="-y (1 - p)^(g+) log p - (1 - y) p_m^(g- + w_c) log(1 - p_m), w_c = (1 - log(n_c / max n))^(1/6)",
    source="Learning in Imperfect Environment: Multi-Label Classification with Long-Tailed Distribution; official code",
    use="many hazards of very different frequency",
    status="verified",
    takes="event",
)
class MultiGrainedFocalLoss(Loss, of=multi_grained_focal):
    """`multi_grained_focal` with its settings fixed."""


@register(
    "ens",
    formula="mean g s, s = (2y - 1) f, g random slopes sorted against s",
    source="EnsLoss: Stochastic Calibrated Loss Ensembles for Preventing Overfitting in Classification; official code",
    use="small samples of rare events (genesis of cyclones, hail), where one fixed loss overfits",
    status="verified",
    takes="event",
)
class EnsLoss(nn.Module):
    """`ens_loss` whose shape l is kept for `period` epochs, then drawn again; its state is in buffers.

    `set_epoch` tells it of epochs; whoever never calls it trains with one shape.
    """

    shape: Tensor
    epoch: Tensor
    drawn: Tensor

    def __init__(self, period: int = 1, reduction: str = "mean") -> None:
        super().__init__()
        require(period >= 1, "period", period, "must be at least 1")
        self.period, self.reduction = period, reduction
        self.register_buffer("shape", torch.zeros(()))
        self.register_buffer("epoch", torch.zeros((), dtype=torch.int64))
        self.register_buffer("drawn", torch.tensor(-1))  # the period that the shape was drawn in

    def reset_state(self) -> None:
        """Forget the epoch; the next training call draws a new shape."""
        self.epoch.zero_()
        self.drawn.fill_(-1)

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch, counted from 0: the first training call of another period draws a new shape."""
        require(epoch >= 0, "epoch", epoch, "must not be negative")
        self.epoch.fill_(epoch)

    def forward(
        self,
        logits: Tensor,
        labels: Tensor,
        *,
        weight: Tensor | None = None,
        mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The surrogate, for its gradient; `value` measures."""
        period = int(self.epoch) // self.period
        if self.training and period != int(self.drawn):
            self.shape.uniform_(-1, 1, generator=generator)
            self.drawn.fill_(period)
        options = {"shape": float(self.shape), "reduction": self.reduction, "weight": weight, "mask": mask}
        return ens_loss(logits, labels, **options, generator=generator)

    def value(
        self, logits: Tensor, labels: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """The logistic loss of the same logits, to be logged."""
        return binary_cross_entropy(logits, labels, reduction=self.reduction, weight=weight, mask=mask)
