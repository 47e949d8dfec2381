"""Losses of preferences: which of two samples is more of a case."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from forecast.core.errors import ForecastError
from forecast.losses.common import Loss, empty, normal_cdf, reduce, require, same_shape, wide, without_masked
from forecast.losses.registry import register
from forecast.losses.targets import TINY, broadcast, classes


@wide
def preference_to_classify(
    logits: Tensor,
    labels: Tensor,
    rewards: Tensor,
    pairs: Tensor,
    preferred: Tensor,
    *,
    strength: float = 1.0,
    consistency: float = 1.0,
    diversity: float = 1.0,
    diversity_limit: float = 1.0,
    ignore_index: int = -100,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Cross entropy + strength * (preference + consistency - diversity) of pairs (i, j) of the batch's samples.

    preference: Bradley-Terry, -q log sigmoid(r_i - r_j) - (1 - q) log sigmoid(r_j - r_i), mean over pairs and heads;
    consistency: max(0, p_j - p_i) where i is preferred, max(0, p_i - p_j) where j is, p the probability of the
    sample's own label; diversity: cross entropy between the preferences of two heads, which has no bound and is cut
    off at `diversity_limit` (the limit is ours). The pairs' terms are one number, added to each sample.

    Args:
        logits: (B, K). labels: (B,) integers.
        rewards: (B,) or (B, H) scores of H preference heads. pairs: (P, 2) sample numbers i, j; there may be none.
        preferred: (P,) q in [0, 1]; 1 where i is preferred, 1/2 where neither is.
        consistency, diversity: factors of these terms; all factors are 1 in the official code.

    Raises:
        ForecastError: shapes that do not match, labels, pairs or preferences out of range.
    """
    given = classes(logits, labels, ignore_index=ignore_index, mask=mask)
    log_p = given.pick(given.logits.log_softmax(-1))
    require(logits.ndim == 2, "logits", tuple(logits.shape), "must have shape (B, K)")
    rewards = rewards[:, None] if rewards.ndim == 1 else rewards
    first, second = _pairs(pairs, preferred, rewards, len(labels))
    if len(pairs) == 0:
        return reduce(-log_p + empty(rewards), reduction, weight, given.mask)
    gap, q = rewards[first] - rewards[second], preferred.to(rewards.dtype)
    ranked = binary_cross_entropy_with_logits(gap, q[:, None].expand_as(gap))
    p = log_p.exp()
    inverted = ((1 - 2 * q).sign() * (p[first] - p[second])).clamp_min(0.0).mean()
    apart = _disagreement(gap).clamp(max=diversity_limit)
    extra = strength * (ranked + consistency * inverted - diversity * apart)
    return reduce(extra - log_p, reduction, weight, given.mask)


def _pairs(pairs: Tensor, preferred: Tensor, rewards: Tensor, count: int) -> tuple[Tensor, Tensor]:
    if rewards.ndim != 2 or len(rewards) != count:
        raise ForecastError(f"rewards of shape {tuple(rewards.shape)}: must be (B,) or (B, H) with B = {count}")
    if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.is_floating_point():
        raise ForecastError(f"pairs of shape {tuple(pairs.shape)}: must be (P, 2) sample numbers")
    if preferred.shape != pairs.shape[:1]:
        raise ForecastError(f"preferred of shape {tuple(preferred.shape)}: must be ({len(pairs)},), one for each pair")
    if len(pairs):
        inside = int(pairs.min()) >= 0 and int(pairs.max()) < count
        require(inside, "pairs", f"{int(pairs.min())} to {int(pairs.max())}", f"sample numbers lie in 0 to {count - 1}")
        require(bool(((preferred >= 0) & (preferred <= 1)).all()), "preferred", preferred.tolist(), "must be in [0, 1]")
    return pairs[:, 0].long(), pairs[:, 1].long()


def _disagreement(gap: Tensor) -> Tensor:
    """Mean cross entropy between the preferences of two different heads, gap (P, H); 0 for one head."""
    heads = list(itertools.permutations(gap.unbind(1), 2))
    if not heads:
        return empty(gap)
    return torch.stack([binary_cross_entropy_with_logits(b, a.sigmoid()) for a, b in heads]).mean()


@wide
def fidelity(
    mean: Tensor,
    std: Tensor,
    target_mean: Tensor,
    target_std: Tensor,
    *,
    pair_dim: int = 1,
    eps: float = 1e-8,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Fidelity of the preference between two Gaussians, 1 - sqrt(p g + eps) - sqrt((1 - p) (1 - g) + eps).

    p = Phi((m_A - m_B) / sqrt(s_A^2 + s_B^2)) is the probability that A exceeds B; g the same of the targets. Within
    [0, 1] but for sqrt(eps), 0 where p = g, and the same for A and B swapped.

    Args:
        mean, std, target_mean, target_std: (B, 2, *), A and B along `pair_dim`; deviations not negative, and at most
            one of the pair zero if the means are equal.

    Returns:
        The mean; (B, *) with reduction="none".

    Raises:
        ForecastError: shapes that do not match, a dimension that does not hold two, a negative deviation.
    """
    same_shape(mean=mean, std=std, target_mean=target_mean, target_std=target_std)
    good = -mean.ndim <= pair_dim < mean.ndim and mean.shape[pair_dim] == 2
    require(good, "pair_dim", pair_dim, f"two must lie along it; the means have shape {tuple(mean.shape)}")
    if mask is not None:
        pair = broadcast(mask, "mask", mean.select(pair_dim, 0).shape).unsqueeze(pair_dim)
        mean, std, target_mean, target_std = (without_masked(x, pair) for x in (mean, std, target_mean, target_std))
    for name, deviation in (("std", std), ("target_std", target_std)):
        if bool((deviation < 0).any()):
            raise ForecastError(f"{name}: {float(deviation.min()):g} must not be negative")
    p, q = _preference(mean, std, pair_dim)
    g, h = _preference(target_mean, target_std, pair_dim)
    return reduce(1 - (p * g + eps).sqrt() - (q * h + eps).sqrt(), reduction, weight, mask)


def _preference(mean: Tensor, std: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Probabilities that the first exceeds the second, and the reverse."""
    gap = mean.select(dim, 0) - mean.select(dim, 1)
    z = gap / std.square().sum(dim).clamp_min(TINY).sqrt()
    return normal_cdf(z), normal_cdf(-z)


@register(
    "preference_to_classify",
    formula="-log p_y + s (Bradley-Terry + max(0, inverted order of p) - min(cross entropy between heads, limit))",
    source="Prefer to Classify: Improving Text Classifiers via Auxiliary Preference Learning; official code",
    use="an expert's preference between two cases or forecasts beside their class",
    status="verified",
    takes="other",
)
class PreferenceToClassifyLoss(Loss, of=preference_to_classify):
    """`preference_to_classify` with its settings fixed."""


@register(
    "fidelity",
    formula="1 - sqrt(p g) - sqrt((1 - p) (1 - g)), p = Phi((m_A - m_B) / sqrt(s_A^2 + s_B^2))",
    source="Teaching Large Language Models to Regress Accurate Image Quality Scores (DeQA-Score); official code",
    use="which of two places or days gets more rain, with the observation's error in the target",
    status="verified",
    takes="other",
)
class FidelityLoss(Loss, of=fidelity):
    """`fidelity` with its settings fixed."""
