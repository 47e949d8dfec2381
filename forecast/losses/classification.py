"""Losses of one label among K classes: cross entropy and its relatives; classes along `class_dim`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from forecast.core.errors import ForecastError
from forecast.losses.common import Loss, reduce, require, wide, without_masked
from forecast.losses.registry import register
from forecast.losses.targets import TINY, Classes, broadcast, classes

_SERIES = 1e-4  # of 1 - tau; nearer to 1 the quotient loses digits and two terms are exact
_STEEPEST = 60.0  # of (1 - tau) * cross entropy; from there on the exponential goes on as a straight line
_RARE = -60.0  # log p; below, (1 - p)^N is 1 - N p to the last bit


@wide
def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    label_smoothing: float = 0.0,
    class_weights: Sequence[float] | None = None,
    class_dim: int = 1,
    from_logits: bool = True,
    ignore_index: int = -100,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Cross entropy over classes or bins, -log p_y, with area weights.

    Args:
        logits: (B, K, *). labels: (B, *) integers, or (B, K, *) probabilities.
        label_smoothing: part of each label that is spread evenly over the classes.
        class_weights: (K,) factors of -log p_k; the mean still divides by the sum of `weight` alone.
        class_dim, from_logits, ignore_index, mask: see `forecast.losses.targets`.

    Raises:
        ForecastError: shapes that do not match, a label out of range, a smoothing outside [0, 1).
    """
    require(0 <= label_smoothing < 1, "label_smoothing", label_smoothing, "must lie in [0, 1)")
    given = classes(logits, labels, class_dim=class_dim, ignore_index=ignore_index, mask=mask, from_logits=from_logits)
    each = -given.logits.log_softmax(-1)
    if class_weights is not None:
        each = each * _per_class(class_weights, each)
    value = given.pick(each)
    if label_smoothing:
        value = (1 - label_smoothing) * value + label_smoothing * each.mean(-1)
    return reduce(value, reduction, weight, given.mask)


def _per_class(values: Sequence[float], like: Tensor) -> Tensor:
    count = like.shape[-1]
    require(len(values) == count, "class_weights", list(values), f"one for each of {count} classes")
    return torch.as_tensor(values, dtype=like.dtype, device=like.device)


@wide
def z_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    slope: float = 1.0,
    offset: float = 1.0,
    eps: float = 1e-6,
    class_dim: int = 1,
    ignore_index: int = -100,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Z-loss: softplus(a (b - z_y)) / a of the logits standardised over the classes, z = (f - mean f) / std f.

    Does not change when logits are shifted or scaled. Equal logits have z = 0. z_y is at most sqrt(K - 1): an offset
    above that never saturates. The paper tunes a and b for each task; the defaults are ours.

    Args:
        logits: (B, K, *). labels: (B, *) integers.
        slope: a > 0; as it grows the loss becomes the hinge max(b - z_y, 0). offset: b. eps: least standard deviation.

    Raises:
        ForecastError: shapes that do not match, a label out of range, a slope that is not positive.
    """
    require(slope > 0, "slope", slope, "must be positive")
    given = classes(logits, labels, class_dim=class_dim, ignore_index=ignore_index, mask=mask)
    given.number()
    f = given.logits
    centred = f - f.mean(-1, keepdim=True)
    variance = centred.square().mean(-1, keepdim=True)
    z = given.pick(centred / variance.clamp_min(eps**2).sqrt())
    return reduce(nn.functional.softplus(slope * (offset - z)) / slope, reduction, weight, given.mask)


@wide
def comp_sum(
    logits: Tensor,
    labels: Tensor,
    *,
    tau: float = 1.0,
    class_dim: int = 1,
    from_logits: bool = True,
    ignore_index: int = -100,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Comp-sum loss ((1 + u)^(1 - tau) - 1) / (1 - tau), u = sum_{k != y} exp(f_k - f_y) = 1 / p_y - 1.

    tau = 0: sum of exponentials; 1: cross entropy; in (1, 2): generalised cross entropy (1 - p_y^q) / q with
    q = tau - 1; 2: 1 - p_y. For tau > 1 it lies below 1 / (tau - 1), so that wrong labels cost little. For tau < 1 it
    goes on as a straight line once (1 + u)^(1 - tau) exceeds e^60.

    Args:
        logits: (B, K, *). labels: (B, *) integers, or (B, K, *) probabilities.
        tau: not negative.

    Raises:
        ForecastError: shapes that do not match, a label out of range, a negative tau.
    """
    require(tau >= 0, "tau", tau, "must not be negative")
    given = classes(logits, labels, class_dim=class_dim, ignore_index=ignore_index, mask=mask, from_logits=from_logits)
    return reduce(_label_mean(given, lambda entropy: power_of_odds(entropy, tau)), reduction, weight, given.mask)


def power_of_odds(entropy: Tensor, tau: float) -> Tensor:
    """((1 + u)^(1 - tau) - 1) / (1 - tau) of cross entropies log(1 + u)."""
    power = 1 - tau
    if abs(power) < _SERIES:
        return entropy + power * entropy.square() / 2
    if power < 0:
        return torch.expm1(power * entropy) / power
    limit = _STEEPEST / power
    beyond = (entropy - limit).clamp_min(0.0)
    return torch.expm1(power * entropy.clamp(max=limit)) / power + math.exp(_STEEPEST) * beyond


def _label_mean(given: Classes, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Function of -log p_k at the label, or its mean under soft labels; hard labels pay for one class only."""
    entropy = -given.logits.log_softmax(-1)
    return given.pick(function(entropy)) if given.hard is None else function(given.pick(entropy))


@wide
def direct_coverage(
    logits: Tensor,
    labels: Tensor,
    *,
    draws: float = 1.0,
    class_dim: int = 1,
    from_logits: bool = True,
    ignore_index: int = -100,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Direct coverage: -log(1 - (1 - p_y)^N), that one of N independent draws hits the class. One draw: cross entropy.

    Its gradient is that of the cross entropy times a factor that falls from 1 (p = 0) to 0 (p = 1): confident right
    answers are left alone. Exact for p down to float32's smallest number.

    Args:
        logits: (B, K, *). labels: (B, *) integers. draws: N >= 1.

    Raises:
        ForecastError: shapes that do not match, a label out of range, fewer draws than one.
    """
    require(draws >= 1, "draws", draws, "must be at least 1")
    given = classes(logits, labels, class_dim=class_dim, ignore_index=ignore_index, mask=mask, from_logits=from_logits)
    log_p = given.logits.log_softmax(-1)
    log_hit = given.pick(log_p)
    own = nn.functional.one_hot(given.number(), log_p.shape[-1]).bool()
    log_miss = log_p.masked_fill(own, -torch.inf).logsumexp(-1) if log_p.shape[-1] > 1 else -torch.inf + 0 * log_hit
    return reduce(_coverage(log_hit, log_miss, draws), reduction, weight, given.mask)


def _coverage(log_hit: Tensor, log_miss: Tensor, draws: float) -> Tensor:
    """-log(1 - (1 - p)^N) from log p and log(1 - p), of which the smaller one is exact."""
    rare, likely = log_hit < _RARE, log_hit > -math.log(2)
    from_hit = torch.log1p(-log_hit.masked_fill(likely, -1.0).clamp_min(_RARE).exp())
    all_miss = draws * torch.where(likely, log_miss.clamp_min(-80.0), from_hit)
    some_hit = _log_one_minus_exp(all_miss.masked_fill(rare, -1.0))
    return -torch.where(rare, math.log(draws) + log_hit, some_hit)


def _log_one_minus_exp(x: Tensor) -> Tensor:
    """log(1 - exp(x)) for x < 0."""
    near = x > -math.log(2)
    return torch.where(
        near,
        (-torch.expm1(x.masked_fill(~near, -1.0))).log(),
        torch.log1p(-x.masked_fill(near, -1.0).exp()),
    )


@wide
def normalized_softmax(
    features: Tensor,
    labels: Tensor,
    prototypes: Tensor,
    *,
    temperature: float = 0.05,
    ignore_index: int = -100,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Cross entropy of cosines: softmax(W x / temperature) with rows of W and x of length one.

    Args:
        features: (B, D). labels: (B,) integers. prototypes: (K, D), one row a class. temperature: positive.

    Raises:
        ForecastError: shapes that do not match, a label out of range, a temperature that is not positive.
    """
    require(temperature > 0, "temperature", temperature, "must be positive")
    if features.ndim != 2 or prototypes.ndim != 2 or features.shape[1] != prototypes.shape[1]:
        raise ForecastError(
            f"features of shape {tuple(features.shape)} and prototypes of shape {tuple(prototypes.shape)}: "
            "must be (B, D) and (K, D)"
        )
    if mask is not None:
        features = without_masked(features, broadcast(mask, "mask", features.shape[:1])[:, None])
    cosines = nn.functional.normalize(features, eps=TINY) @ nn.functional.normalize(prototypes, eps=TINY).T
    return cross_entropy(
        cosines / temperature, labels, ignore_index=ignore_index, reduction=reduction, weight=weight, mask=mask
    )


@register(
    "cross_entropy",
    formula="-log p_y",
    source="Good 1952, Rational decisions",
    use="the plain baseline of binned rain, wind or temperature heads, with area weights",
    status="derived",
    takes="classes",
)
class CrossEntropyLoss(Loss, of=cross_entropy):
    """`cross_entropy` with its settings fixed."""


@register(
    "z",
    formula="softplus(a (b - z_y)) / a, z = (f - mean f) / std f",
    source="de Brebisson and Vincent 2016, The Z-loss: a shift and scale invariant classification loss",
    use="classes of rain type, cloud or regime, where the size of the logits should not matter",
    status="third-party",
    takes="classes",
)
class ZLoss(Loss, of=z_loss):
    """`z_loss` with its settings fixed."""


@register(
    "comp_sum",
    formula="((1 + u)^(1 - tau) - 1) / (1 - tau), u = 1 / p_y - 1",
    source="Mao, Mohri and Zhong 2023, Cross-Entropy Loss Functions: Theoretical Analysis and Applications",
    use="binned rain or regime heads with noisy labels: tau between 1 and 2 bounds what a wrong label costs",
    status="verified",
    takes="classes",
)
class CompSumLoss(Loss, of=comp_sum):
    """`comp_sum` with its settings fixed."""


@register(
    "direct_coverage",
    formula="-log(1 - (1 - p_y)^N)",
    source="Chen et al. 2025, Rethinking Fine-Tuning when Scaling Test-Time Compute: Limiting Confidence",
    use="a binned head of which N members are drawn: one of them should hit; holds back overconfidence",
    status="third-party",
    takes="classes",
)
class DirectCoverageLoss(Loss, of=direct_coverage):
    """`direct_coverage` with its settings fixed."""


@register(
    "normalized_softmax",
    formula="cross entropy of softmax(cos(w_k, x) / temperature)",
    source="Hyperspherical embedding for novel class classification; NormalizedSoftmaxLoss of pytorch-metric-learning",
    use="regime prototypes in the latent space",
    status="verified",
    takes="other",
)
class NormalizedSoftmaxLoss(nn.Module):
    """`normalized_softmax` with prototypes of its own, `weights` (classes, features)."""

    def __init__(self, features: int, classes: int, temperature: float = 0.05, reduction: str = "mean") -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.empty(classes, features))
        nn.init.normal_(self.weights)
        self.temperature, self.reduction = temperature, reduction

    def forward(
        self, features: Tensor, labels: Tensor, weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """The loss of (B, features) and (B,) class numbers."""
        options = {"temperature": self.temperature, "reduction": self.reduction, "weight": weight, "mask": mask}
        return normalized_softmax(features, labels, self.weights, **options)
