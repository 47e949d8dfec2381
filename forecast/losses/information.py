"""Bounds of mutual information from a matrix of critic scores, and conditional information of a classifier."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from forecast.losses.common import Loss, reduce, require, wide, without_masked
from forecast.losses.pairs import NEVER, blank
from forecast.losses.registry import register


def _check_scores(scores: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The scores without the samples that the mask leaves out (as columns), and which columns count."""
    require(scores.ndim == 2 and scores.shape[0] == scores.shape[1], "scores", tuple(scores.shape), "must be (B, B)")
    counts = torch.ones(len(scores), dtype=torch.bool, device=scores.device) if mask is None else mask.bool()
    require(counts.shape == scores.shape[:1], "mask", tuple(counts.shape), f"must be ({len(scores)},)")
    number = int(counts.sum())
    require(number != 1, "scores", tuple(scores.shape), "needs 2 samples")
    return torch.where(counts[:, None] & counts, scores, torch.zeros_like(scores)), counts


@wide
def mi_alpha(
    scores: Tensor,
    log_baseline: Tensor | None = None,
    *,
    alpha: float = 0.25,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Minus the interpolated lower bound of mutual information.

    I >= 1 + E_i[S_ii - log a_i] - E_i[mean_j exp(S_ij) / a_i], a_i = alpha m_i + (1 - alpha) q_i with m_i the mean of
    exp(S_ij) over all j, i too. alpha = 1: InfoNCE, at most log B. alpha = 0: the bound of Nguyen, Wainwright and
    Jordan with q = e, of lower bias and high variance.

    Args:
        scores: (B, B) critic of sample i's first and sample j's second variable.
        log_baseline: (B,) log q; 1 by default.
        alpha: in [0, 1]. weight, mask: (B,); what the mask leaves out is in no mean.

    Returns:
        (B,) reduced.

    Raises:
        ForecastError: scores that are not square, one sample, alpha out of range.
    """
    require(0 <= alpha <= 1, "alpha", alpha, "must lie in [0, 1]")
    scores, counts = _check_scores(scores, mask)
    log_q = scores.new_ones(len(scores)) if log_baseline is None else blank(mask, log_baseline)[0]
    require(log_q.shape == scores.shape[:1], "log_baseline", tuple(log_q.shape), f"must be ({len(scores)},)")
    log_m = scores.masked_fill(~counts, NEVER).logsumexp(1) - math.log(max(int(counts.sum()), 1))
    own = scores.diagonal()
    if alpha == 1:
        log_a = log_m
    elif alpha == 0:
        log_a = log_q
    else:
        log_a = torch.logaddexp(math.log(alpha) + log_m, math.log1p(-alpha) + log_q)
    bound = 1 + own - log_a - (log_m - log_a).exp()
    return reduce(-bound, reduction, weight, mask)


@register(
    "mi_alpha",
    formula="-(1 + E[S_ii - log a_i] - E[mean_j exp(S_ij) / a_i]), a_i = alpha mean_j exp(S_ij) + (1 - alpha) q_i",
    source="Poole et al. 2019, On variational bounds of mutual information, arXiv:1905.06922; He et al. 2021, "
    "Distiller; read in others' code",
    use="intermediate features of a student say as much of the state as the teacher's",
    status="third-party",
    takes="other",
)
class MIAlphaLoss(Loss, of=mi_alpha):
    """`mi_alpha` with its settings fixed."""


@wide
def wasserstein_dependency(
    scores: Tensor,
    *,
    contrastive: bool = False,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """-(S_ii - mean_{j != i} S_ij), or log mean exp over all j (contrastive): dependence seen by a Lipschitz critic.

    The critic has to be kept 1-Lipschitz, by spectral norms or `gradient_penalty`; then the plain form is at most the
    Wasserstein distance of the joint distribution from the product of the two. A critic that is a sum of a function of
    each variable gives 0.

    Args:
        scores: (B, B) critic of sample i's first and sample j's second variable.
        weight, mask: (B,); what the mask leaves out is in no mean.

    Returns:
        (B,) reduced.

    Raises:
        ForecastError: scores that are not square, one sample.
    """
    scores, counts = _check_scores(scores, mask)
    number, own = int(counts.sum()), scores.diagonal()
    if contrastive:
        others = scores.masked_fill(~counts, NEVER).logsumexp(1) - math.log(max(number, 1))
    else:
        others = (scores.sum(1) - own) / max(number - 1, 1)
    return reduce(others - own, reduction, weight, mask)


@register(
    "wasserstein_dependency",
    formula="-(S_ii - mean_{j != i} S_ij), S a 1-Lipschitz critic",
    source="Ozair et al. 2019, Wasserstein Dependency Measure for Representation Learning, arXiv:1903.11780; read in "
    "others' code",
    use="a latent that keeps what one lead time says of another, beyond what mutual information can bound",
    status="third-party",
    takes="other",
)
class WassersteinDependencyLoss(Loss, of=wasserstein_dependency):
    """`wasserstein_dependency` with its settings fixed."""


@wide
def gradient_penalty(
    outputs: Tensor,
    inputs: Tensor,
    *,
    target: float = 1.0,
    one_sided: bool = False,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """(|grad of output i in input i| - target)^2, of a critic; usually at mixes of samples, with a weight of 10.

    Args:
        outputs: (B,) critic values, computed from inputs. inputs: (B, *) that require a gradient.
        one_sided: only norms above target. weight, mask: (B,).

    Returns:
        (B,) reduced; it can be differentiated in the critic's parameters.

    Raises:
        ForecastError: outputs that are not (B,) or do not depend on the inputs.
    """
    require(outputs.shape == inputs.shape[:1], "outputs", tuple(outputs.shape), f"must be ({len(inputs)},)")
    require(inputs.requires_grad, "inputs", "without gradient", "must require a gradient before the critic")
    (slope,) = torch.autograd.grad(outputs.sum(), inputs, create_graph=True)
    excess = slope.flatten(1).norm(dim=1) - target
    return reduce((excess.clamp_min(0) if one_sided else excess).square(), reduction, weight, mask)


@register(
    "gradient_penalty",
    formula="(|grad f(x)| - 1)^2",
    source="Gulrajani et al. 2017, Improved training of Wasserstein GANs, arXiv:1704.00028",
    use="keeps the critic of an ensemble generator, or of a dependence measure, Lipschitz",
    status="derived",
    takes="other",
)
class GradientPenaltyLoss(Loss, of=gradient_penalty):
    """`gradient_penalty` with its settings fixed."""


@wide
def conditional_information(
    logits: Tensor,
    labels: Tensor,
    centroids: Tensor,
    *,
    strength: float = 0.1,
    limit: float | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """CE - strength KL(p || Q_y), Q_y the mean prediction of the class: rewards what a prediction says beyond it.

    With Q the means of the batch, the KL averaged over a class is H(Q_y) - mean H(p). Each KL is cut at `limit`, log K
    by default, since nothing else bounds the reward. Official runs sweep the strength.

    Args:
        logits: (B, K, *). labels: (B, *) in 0 .. K - 1 or ignore_index. centroids: (K, K) probabilities, no gradient.
        weight, mask: broadcastable to the labels.

    Returns:
        (B, *) reduced.

    Raises:
        ForecastError: shapes that do not match, a label out of range, fewer than two classes, a negative strength.
    """
    require(strength >= 0, "strength", strength, "must not be negative")
    counts = _counted(logits, labels, ignore_index, mask)
    classes = logits.shape[1]
    require(centroids.shape == (classes, classes), "centroids", tuple(centroids.shape), f"must be {(classes, classes)}")
    log_p = F.log_softmax(without_masked(logits.movedim(1, -1), counts[..., None]), -1)
    own = labels.where(counts, 0)
    log_q = centroids.detach().clamp_min(torch.finfo(log_p.dtype).tiny).log()[own]
    beyond = (log_p.exp() * (log_p - log_q)).sum(-1).clamp_max(math.log(classes) if limit is None else limit)
    error = -log_p.gather(-1, own[..., None])[..., 0]
    return reduce(error - strength * beyond, reduction, weight, counts)


def _counted(logits: Tensor, labels: Tensor, ignore_index: int, mask: Tensor | None) -> Tensor:
    """Which labels count."""
    require(logits.ndim >= 2 and logits.shape[1] >= 2, "logits", tuple(logits.shape), "must be (B, K, *), K at least 2")
    expected = (logits.shape[0], *logits.shape[2:])
    require(labels.shape == expected, "labels", tuple(labels.shape), f"must be {expected}")
    counts = labels != ignore_index
    wrong = labels[counts & ((labels < 0) | (labels >= logits.shape[1]))]
    require(not wrong.numel(), "labels", wrong[:1].tolist(), f"must lie in 0 .. {logits.shape[1] - 1}")
    return counts if mask is None else counts & mask.bool()


@register(
    "conditional_information",
    formula="CE - strength KL(p || Q_y), Q_y a running mean of the class's predictions",
    source="Ye et al. 2024, Bayes Conditional Distribution Estimation for Knowledge Distillation, official losses.py",
    use="a teacher of weather classes whose probabilities tell its students more than the class",
    status="verified",
    takes="rows",
)
class ConditionalMutualInformationLoss(nn.Module):
    """`conditional_information` with class centroids that it keeps, as exponential means over batches.

    A class's centroid starts as its mean in the first batch that has it, and stays where a batch has none. The buffers
    `centroids` and `seen` are in the state; each process keeps its own. They change in training mode only.
    """

    stateful = True

    def __init__(
        self, classes: int, strength: float = 0.1, momentum: float = 0.9999, limit: float | None = None
    ) -> None:
        super().__init__()
        require(classes >= 2, "classes", classes, "must be at least 2")
        require(0 <= momentum < 1, "momentum", momentum, "must lie in [0, 1)")
        self.strength, self.momentum, self.limit = strength, momentum, limit
        self.centroids: Tensor
        self.seen: Tensor
        self.register_buffer("centroids", torch.full((classes, classes), 1.0 / classes))
        self.register_buffer("seen", torch.zeros(classes, dtype=torch.bool))

    def reset_state(self) -> None:
        """Forget all centroids."""
        self.centroids.fill_(1.0 / len(self.centroids))
        self.seen.zero_()

    def forward(self, logits: Tensor, labels: Tensor, ignore_index: int = -100, **at_call: Tensor | None) -> Tensor:
        """The loss of (B, K, *) logits and (B, *) labels, after they have joined the centroids."""
        if self.training:
            self._join(logits, labels, _counted(logits, labels, ignore_index, at_call.get("mask")))
        return conditional_information(
            logits,
            labels,
            self.centroids,
            strength=self.strength,
            limit=self.limit,
            ignore_index=ignore_index,
            **at_call,
        )

    @torch.no_grad()
    def _join(self, logits: Tensor, labels: Tensor, counts: Tensor) -> None:
        labels = labels[counts]
        number = torch.bincount(labels, minlength=len(self.centroids))
        present = number > 0
        predictions = torch.softmax(logits.movedim(1, -1)[counts].to(self.centroids.dtype), 1)
        sums = torch.zeros_like(self.centroids).index_add_(0, labels, predictions)
        means = sums[present] / number[present, None]
        rate = torch.where(self.seen[present], 1 - self.momentum, 1.0)[:, None]
        self.centroids[present] = torch.lerp(self.centroids[present], means, rate)
        self.seen |= present
