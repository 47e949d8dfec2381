"""Networks that are to run in few bits: weights shaped for it, and wide versions that guide narrow ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from forecast.core.errors import ForecastError
from forecast.losses.common import Loss, empty, reduce, require, wide
from forecast.losses.registry import register
from forecast.losses.targets import classes

UNIFORM_KURTOSIS = 1.8


@wide
def weight_distribution(
    weights: Tensor | Sequence[Tensor],
    *,
    skewness: float = 1.0,
    kurtosis: float = 0.015,
    target: float = UNIFORM_KURTOSIS,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """skewness * skew(w)^2 + kurtosis * (kurt(w) - target)^2 of each layer's weights: near uniform, they round well.

    Args:
        weights: one layer's tensor, or a sequence of L; a constant layer counts 0.
        skewness, kurtosis: factors of the official code. target: kurtosis to aim at, 1.8 of a uniform distribution.

    Returns:
        The loss, by layer (L,) before the reduction. No layers: 0.

    Raises:
        ForecastError: a tensor that is not of real numbers.
    """
    layers = [weights] if isinstance(weights, Tensor) else list(weights)
    for layer in layers:
        require(layer.is_floating_point(), "weights", layer.dtype, "must be real numbers")
    if not layers:
        return empty()
    kept = [True] * len(layers) if mask is None else mask.broadcast_to((len(layers),)).tolist()
    values = [_shape(layer.to(torch.promote_types(layer.dtype, torch.float32)), target, keep)
              for layer, keep in zip(layers, kept, strict=True)]  # fmt: skip
    skews, tails = (torch.stack(part) for part in zip(*values, strict=True))
    return reduce(skewness * skews + kurtosis * tails, reduction, weight, mask)


def _shape(layer: Tensor, target: float, keep: bool) -> tuple[Tensor, Tensor]:
    """Squared skewness, and squared distance of the kurtosis from `target`; 0 for a constant layer or one left out."""
    if not (keep and layer.numel()):
        return empty(layer).to(layer), empty(layer).to(layer)
    centred = layer.flatten() - layer.mean()
    variance = centred.square().mean()
    rounding = (8 * torch.finfo(layer.dtype).eps) ** 2 * layer.detach().square().mean()
    if not bool(variance.detach() > rounding):
        return empty(layer).to(layer), empty(layer).to(layer)
    scaled = centred / variance.sqrt()
    return scaled.pow(3).mean().square(), (scaled.pow(4).mean() - target).square()


@wide
def group_progressive_guidance(
    logits: Tensor | Sequence[Tensor],
    labels: Tensor,
    *,
    hard: float = 0.5,
    ignore_index: int = -100,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Cross-entropies of the same network at several bit widths, each but the widest half guided by the next wider.

    Mean over widths of CE(labels) for the widest, and for the others hard * CE(labels) + (1 - hard) * CE(softmax of the
    next wider, without gradient).

    Args:
        logits: (W, B, K), or W tensors (B, K), from the widest to the narrowest. labels: (B,) class numbers.
        hard: share of the labels, 0.5 in the official code.

    Returns:
        The loss, by sample (B,) before the reduction. W = 1 is the plain cross-entropy.

    Raises:
        ForecastError: no logits, shapes that do not match, a label out of range, `hard` outside [0, 1].
    """
    require(0 <= hard <= 1, "hard", hard, "must lie in [0, 1]")
    widths = list(logits)
    if not widths or any(width.ndim != 2 or width.shape != widths[0].shape for width in widths):
        raise ForecastError(
            f"logits of shapes {[tuple(w.shape) for w in widths]}: must be one (B, K) for each bit width"
        )
    total, wider = torch.zeros((), device=labels.device), None
    for width in widths:
        checked = classes(width.to(torch.promote_types(width.dtype, torch.float32)), labels,
                          ignore_index=ignore_index, mask=mask)  # fmt: skip
        log_p = checked.logits.log_softmax(-1)
        by_label = -checked.pick(log_p)
        soft = None if wider is None else -(wider * log_p).sum(-1)
        total = total + (by_label if soft is None else hard * by_label + (1 - hard) * soft)
        wider = log_p.detach().exp()
    return reduce(total / len(widths), reduction, weight, checked.mask)


@register(
    "weight_distribution",
    formula="mean over layers of skew(w)^2 + 0.015 (kurt(w) - 1.8)^2",
    source="Xu et al. 2023, EQ-Net: Elastic quantization neural networks; criterion.py",
    use="weights that survive 8-bit or 4-bit inference on small machines",
    status="verified",
    takes="parameters",
)
class WeightDistributionLoss(Loss, of=weight_distribution):
    """`weight_distribution` with its settings fixed."""


@register(
    "group_progressive_guidance",
    formula="CE of the widest + sum over narrower of (CE(labels) + CE(next wider)) / 2, over the number of widths",
    source="Xu et al. 2023, EQ-Net: Elastic quantization neural networks; criterion.py",
    use="one event head trained for several bit widths at once",
    status="verified",
    takes="rows",
)
class GroupProgressiveGuidanceLoss(Loss, of=group_progressive_guidance):
    """`group_progressive_guidance` with its settings fixed."""
