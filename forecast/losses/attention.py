"""Entropy of attention: held near a share of its largest value, or made large."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from forecast.losses.common import Loss, reduce, require, wide, without_masked
from forecast.losses.registry import register


@wide
def attention_entropy(
    attention: Tensor,
    threshold: Tensor,
    *,
    tolerance: float = 0.2,
    strength: float = 1e-5,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """strength d^2 where |d| > tolerance log T, d = H - threshold log T, H the mean entropy of a head's rows.

    log T is the largest entropy of a row of T keys; where a mask leaves n of them, log n, averaged like H. Rows without
    a key, or with one only, do not count. Defaults are those of the official code.

    Args:
        attention: (..., B, H, T, S) probabilities that sum to 1 over the keys S. threshold: (..., H), of a head.
        mask: broadcastable to attention, True for keys that a row may attend to. weight: broadcastable to (..., H).

    Returns:
        (..., H) reduced.

    Raises:
        ForecastError: shapes that do not match, a negative tolerance or strength, rows that do not sum to 1.
    """
    require(tolerance >= 0, "tolerance", tolerance, "must not be negative")
    require(strength >= 0, "strength", strength, "must not be negative")
    require(attention.ndim >= 4, "attention", tuple(attention.shape), "must be (..., B, H, T, S)")
    heads = (*attention.shape[:-4], attention.shape[-3])
    require(threshold.shape == heads, "threshold", tuple(threshold.shape), f"must be {heads}")
    attention = without_masked(attention, mask)
    keys = torch.ones_like(attention[:1, :1]) if mask is None else mask.broadcast_to(attention.shape)
    number = keys.sum(-1).broadcast_to(attention.shape[:-1])
    counts = number > 1
    off = ((attention.detach().sum(-1) - 1).abs() * counts).amax() if attention.numel() else torch.zeros(())
    require(float(off) < 0.05, "attention", float(off) + 1, "rows must sum to 1")
    entropy = -_a_log_a(attention).sum(-1)
    rows = (attention.ndim - 4, attention.ndim - 2)  # samples and queries
    count = counts.sum(rows).clamp_min(1)
    mean, most = ((part * counts).sum(rows) / count for part in (entropy, number.clamp_min(1).to(entropy.dtype).log()))
    away = mean - threshold * most
    beyond = (away.abs() > tolerance * most) & (most > 0)
    return reduce(strength * torch.where(beyond, away, torch.zeros_like(away)).square(), reduction, weight)


def _a_log_a(attention: Tensor) -> Tensor:
    """a log a, 0 at 0 with a finite gradient."""
    return attention * attention.clamp_min(torch.finfo(attention.dtype).tiny).log()


@register(
    "attention_entropy",
    formula="strength mean d^2 1[|d| > tolerance log T], d = H(a) - threshold log T",
    source="Jha and Reagen 2025, Entropy-Guided Attention for Private LLMs, arXiv:2501.03489, official code",
    use="heads of a transformer processor that neither collapse onto one point nor look everywhere",
    status="verified",
    takes="parameters",
)
class AttentionEntropyLoss(nn.Module):
    """`attention_entropy` with a threshold for each head, learnt or fixed.

    Args:
        layers, heads: of the attention (L, B, H, T, S). start: first value of the thresholds. learnt: as parameters.
    """

    def __init__(
        self,
        layers: int,
        heads: int,
        start: float = 0.5,
        learnt: bool = True,
        tolerance: float = 0.2,
        strength: float = 1e-5,
    ) -> None:
        super().__init__()
        require(0 <= start <= 1, "start", start, "must lie in [0, 1]")
        self.tolerance, self.strength = tolerance, strength
        self.threshold = nn.Parameter(torch.full((layers, heads), start), requires_grad=learnt)

    def forward(self, attention: Tensor, **at_call: Tensor | None) -> Tensor:
        """The loss of (L, B, H, T, S) attention."""
        return attention_entropy(attention, self.threshold, tolerance=self.tolerance, strength=self.strength, **at_call)


@wide
def attention_entropy_maximization(
    attention: Tensor,
    *,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """AEM: sum_i a_i log a_i of the attention over a bag's instances: -log n where even, 0 where on one.

    The official weight of this term is swept, with a default of 0.

    Args:
        attention: (B, *, N) probabilities over N instances, 0 where a bag has fewer. weight, mask: as (B, *).

    Returns:
        (B, *) reduced.

    Raises:
        ForecastError: negative attention.
    """
    inner = None if mask is None else mask[..., None]
    attention = without_masked(attention, inner)
    least = float(attention.detach().min()) if attention.numel() else 0.0
    require(not least < 0, "attention", least, "must not be negative")
    return reduce(_a_log_a(attention).sum(-1), reduction, weight, mask)


@register(
    "attention_entropy_maximization",
    formula="sum_i a_i log a_i",
    source="Zhang et al. 2024, AEM: Attention Entropy Maximization for Multiple Instance Learning, official code",
    use="pooling over grid points or members that does not hang on a few",
    status="verified",
    takes="parameters",
)
class AttentionEntropyMaximizationLoss(Loss, of=attention_entropy_maximization):
    """`attention_entropy_maximization` with its settings fixed."""
