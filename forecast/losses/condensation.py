"""A small set of samples that pulls a network's weights as a large one does."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from forecast.losses.common import Loss, empty, reduce, require, same_shape
from forecast.losses.registry import register


def gradient_matching(real: Sequence[Tensor], synthetic: Sequence[Tensor], *, reduction: str = "sum") -> Tensor:
    """Sum over layers and their outputs of 1 - cos(g_real, g_synthetic), each g an output's row of weight gradients.

    The gradients are those of the loss summed over all classes, in which samples of different classes contrast;
    matching them class by class is the older method. Gradients of biases and norms (one axis) are left out, as are
    outputs whose real or synthetic gradient is zero.

    Args:
        real: gradients of the weights (O, *) on the real samples, no gradient. synthetic: on the synthetic ones, with
            create_graph=True. In one order.
        reduction: over all outputs; sum in the official code.

    Returns:
        A scalar, or (all outputs,) with none; in float32 at least.

    Raises:
        ForecastError: other numbers or shapes of gradients.
    """
    require(len(real) == len(synthetic), "synthetic", len(synthetic), f"must be {len(real)} gradients")
    values = []
    for theirs, ours in zip(real, synthetic, strict=True):
        same_shape(real=theirs, synthetic=ours)
        if theirs.ndim > 1:
            values.append(_apart(theirs.detach(), ours))
    if not values:
        return reduce(torch.stack([empty(ours) for ours in synthetic]) if len(synthetic) else torch.zeros(0), reduction)
    return reduce(torch.cat(values), reduction)


def _apart(real: Tensor, synthetic: Tensor) -> Tensor:
    """(O,) 1 - cosine, 0 where either is zero."""
    wide = torch.promote_types(real.dtype, torch.float32)
    real, synthetic = real.to(wide).flatten(1), synthetic.to(wide).flatten(1)
    counts = (real.abs().amax(1) > 0) & (synthetic.detach().abs().amax(1) > 0)
    synthetic = torch.where(counts[:, None], synthetic, torch.ones_like(synthetic))
    cosine = (F.normalize(real, dim=1, eps=0.0) * F.normalize(synthetic, dim=1, eps=0.0)).sum(1)
    return torch.where(counts, 1 - cosine, torch.zeros_like(cosine))


@register(
    "gradient_matching",
    formula="sum over layers and outputs of 1 - cos(g_real, g_synthetic), g of the loss summed over classes",
    source="Lee et al. 2022, Dataset Condensation with Contrastive Signals, arXiv:2202.02916, official code",
    use="a few states on which settings are tried before a run on the archive",
    status="verified",
    takes="parameters",
)
class ContrastiveGradientMatchingLoss(Loss, of=gradient_matching):
    """`gradient_matching` with its settings fixed."""
