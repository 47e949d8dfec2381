"""Contrast of several heads at once, each pair of samples with a temperature of its own."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from forecast.losses.common import Loss, reduce, require, same_shape, wide
from forecast.losses.pairs import NEVER, by_rows, kept, spread
from forecast.losses.registry import register


@wide
def adaptive_multi_head(
    first: Tensor,
    second: Tensor,
    first_key: Tensor,
    second_key: Tensor,
    *,
    strength: float = 0.1,
    low: float = 1e-3,
    high: float = 2.0,
    inverse: bool = False,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """AMCL: NT-Xent of each head at pair temperatures t_ij, summed over heads, + strength sum [(D / 2) log t + 1 / t].

    t_ij = low + (high - low) sigmoid(<k_i, k_j>). The last sum, smallest at t = 2 / D, is over a sample's own pair in
    each head. The official code has low = 1e-5, where exp(s / t) leaves every float: 1e-3 is kept here. Its later
    version has sigmoid(-<k_i, k_j>), so that like pairs are cold: `inverse`.

    Args:
        first, second: (B, C, D) views through C heads. first_key, second_key: (B, C, E), what a small network makes of
            them for the temperatures.
        weight, mask: (B,); what the mask leaves out is no negative either.

    Returns:
        (B,) reduced: the mean of a sample's two views. Memory is linear in B.

    Raises:
        ForecastError: shapes that do not match, one sample, 0 < low < high not kept.
    """
    require(0 < low < high, "low", low, f"must lie between 0 and high={high}")
    same_shape(first=first, second=second)
    same_shape(first_key=first_key, second_key=second_key)
    require(first.ndim == 3, "first", tuple(first.shape), "must be (B, C, D)")
    require(first_key.shape[:2] == first.shape[:2], "first_key", tuple(first_key.shape), "must be (B, C, E)")
    first, second, first_key, second_key = kept(mask, first, second, first_key, second_key)
    count, heads, width = first.shape
    require(count != 1, "first", tuple(first.shape), "needs 2 samples")

    def rows_value(rows: slice, views: Tensor, keys: Tensor) -> Tensor:
        sign = -1 if inverse else 1
        span = torch.sigmoid(sign * torch.einsum("ice,jce->cij", keys[rows], keys))
        temperature = low + (high - low) * span
        scores = torch.einsum("icd,jcd->cij", views[rows], views) / temperature
        place = torch.arange(rows.start, rows.stop, device=views.device)
        pair = ((place + count) % max(2 * count, 1))[None, :, None].expand(heads, -1, 1)
        own, at = (x.gather(2, pair)[..., 0] if count else x.sum(2) for x in (scores, temperature))
        scores = scores.diagonal_scatter(scores.new_full((heads, len(place)), NEVER), rows.start, 1, 2)
        held = width / 2 * at.log() + 1 / at
        return (scores.logsumexp(2) - own + strength * held).sum(0)

    views = F.normalize(torch.cat([first, second]), dim=2)
    value = by_rows(rows_value, 2 * count, 2 * count * heads, views, torch.cat([first_key, second_key]))
    return reduce(spread((value[:count] + value[count:]) / 2, mask), reduction, weight, mask)


@register(
    "adaptive_multi_head",
    formula="sum over heads of -s_ip / t_ip + log sum_{j != i} exp(s_ij / t_ij) + b ((D / 2) log t_ip + 1 / t_ip)",
    source="Wang et al. 2024, Adaptive Multi-head Contrastive Learning, arXiv:2310.05615, official code",
    use="a latent of many variables, one head for each group, whose pairs are not equally alike",
    status="verified",
    takes="latent",
)
class AdaptiveMultiHeadContrastiveLoss(Loss, of=adaptive_multi_head):
    """`adaptive_multi_head` with its settings fixed."""
