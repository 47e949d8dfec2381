"""Losses made of f-divergences: weights of distribution matching, and forgetting with the bad answers alone."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from forecast.losses.common import Loss, reduce, require, same_shape, wide
from forecast.losses.pairs import blank
from forecast.losses.registry import register

WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {
    "reverse_kl": torch.ones_like,
    "forward_kl": lambda r: r,
    "jensen_shannon": lambda r: r / (1 + r),
    "hellinger": lambda r: r.sqrt() / 2,
}
"""f''(r) r^2 of each divergence, r the teacher's density over the student's"""


@wide
def f_distill_weight(
    log_ratio: Tensor, *, divergence: str = "jensen_shannon", limit: float = 20.0, normalize: bool = False
) -> Tensor:
    """h(r) = f''(r) r^2, the weight of each sample's score difference; no gradient.

    r = p_teacher / q_student: reverse_kl 1, forward_kl r, jensen_shannon r / (1 + r) (f = r log r - (r + 1)
    log((r + 1) / 2)), hellinger sqrt(r) / 2 (f = (sqrt(r) - 1)^2).

    Args:
        log_ratio: (B, *) log r, such as the logit of a discriminator. limit: log r is clipped to +- this.
        normalize: to a mean of 1 (known from the paper's abstract only).

    Raises:
        ForecastError: an unknown divergence, a limit that is not positive.
    """
    require(divergence in WEIGHTS, "divergence", divergence, f"must be one of {', '.join(WEIGHTS)}")
    require(limit > 0, "limit", limit, "must be positive")
    weight = WEIGHTS[divergence](log_ratio.detach().clamp(-limit, limit).exp())
    return weight / weight.mean() if normalize and weight.numel() else weight


@wide
def f_distill(
    samples: Tensor,
    student_score: Tensor,
    teacher_score: Tensor,
    log_ratio: Tensor,
    *,
    divergence: str = "jensen_shannon",
    limit: float = 20.0,
    normalize: bool = False,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """h(r) <s_q - s_p, x>, whose gradient in the generator is that of the f-divergence of student and teacher.

    Its value means nothing: scores and weight are held fixed, and the gradient is h(r) (s_q - s_p) dx / dtheta.

    Args:
        samples: (B, *) noised draws of the student. student_score, teacher_score: grad log q and p there.
        log_ratio: (B,) log p / q. weight, mask: (B,).

    Returns:
        (B,) reduced.

    Raises:
        ForecastError: shapes that do not match, an unknown divergence.
    """
    same_shape(samples=samples, student_score=student_score, teacher_score=teacher_score)
    require(log_ratio.shape == samples.shape[:1], "log_ratio", tuple(log_ratio.shape), f"must be ({len(samples)},)")
    h = f_distill_weight(log_ratio, divergence=divergence, limit=limit, normalize=normalize)
    samples, student_score, teacher_score, h = blank(mask, samples, student_score, teacher_score, h)
    push = (student_score - teacher_score).detach().flatten(1) * h[:, None]
    return reduce((push * samples.flatten(1)).sum(1), reduction, weight, mask)


@register(
    "f_distill",
    formula="h(r) <sg(s_q - s_p), x>, h = f''(r) r^2, r = p / q",
    source="Xu et al. 2025, One-step Diffusion Models with f-Divergence Distribution Matching, arXiv:2502.15681",
    use="a one-step ensemble generator from a diffusion teacher; h says which modes may not be missed",
    status="derived",
    takes="teacher",
)
class FDistillLoss(Loss, of=f_distill):
    """`f_distill` with its settings fixed."""


Pair = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]

CONJUGATES: dict[str, Pair] = {
    "kl": (lambda x: x, lambda x: torch.exp(x - 1)),
    "pearson": (lambda x: x, lambda x: x.square() / 4 + x),
    "total_variation": (lambda x: torch.tanh(x) / 2, lambda x: torch.tanh(x) / 2),
    "jensen_shannon": (lambda x: math.log(2) - F.softplus(-x), lambda x: x + F.softplus(-x) - math.log(2)),
    "jeffrey": (lambda x: x, lambda x: x + x.square() / 4 + x**3 / 16),
    "reverse_kl": (lambda x: -torch.exp(-x), lambda x: x - 1),
    "squared_hellinger": (lambda x: 1 - torch.exp(-x), torch.expm1),
    "neyman": (lambda x: 1 - torch.exp(-x), lambda x: 2 - 2 * torch.exp(-x / 2)),
}
"""g and f* o g of each divergence; Jeffrey's f* is a series cut after the third power, as in the official table"""


@wide
def flat(
    good_logits: Tensor,
    good_labels: Tensor,
    forget_logits: Tensor,
    forget_labels: Tensor,
    *,
    divergence: str = "total_variation",
    ignore_index: int = -100,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """FLAT: -g(p_good) + f*(g(p_forget)), p the mean probability of an answer's labels; needs no data to be kept.

    Every divergence raises p_good and lowers p_forget. Three branches of the official code do not: for reverse KL,
    squared Hellinger and Neyman it has exp(+x) in g, and for Neyman it takes f* of x and not of g(x); here stand the
    activations of f-GAN. It also lets ignored places count as probability 0, which they do not here.

    Args:
        good_logits, forget_logits: (B, *, K) for the answers wanted instead, and for those to forget.
        good_labels, forget_labels: (B, *) in 0 .. K - 1 or ignore_index.
        weight, mask: (B,); a pair where all of an answer is ignored does not count.

    Returns:
        (B,) reduced.

    Raises:
        ForecastError: shapes that do not match, a label out of range, an unknown divergence.
    """
    require(divergence in CONJUGATES, "divergence", divergence, f"must be one of {', '.join(CONJUGATES)}")
    require(len(good_labels) == len(forget_labels), "forget_labels", tuple(forget_labels.shape), "must pair with good")
    good_logits, forget_logits = blank(mask, good_logits, forget_logits)
    good, good_any = _mean_probability("good_labels", good_logits, good_labels, ignore_index)
    bad, bad_any = _mean_probability("forget_labels", forget_logits, forget_labels, ignore_index)
    g, conjugate = CONJUGATES[divergence]
    counts = good_any & bad_any
    return reduce(conjugate(bad) - g(good), reduction, weight, counts if mask is None else counts & mask.bool())


def _mean_probability(name: str, logits: Tensor, labels: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """(B,) mean over the labels that count, and whether there are any."""
    require(labels.shape == logits.shape[:-1], name, tuple(labels.shape), f"must be {tuple(logits.shape[:-1])}")
    valid = labels != ignore_index
    wrong = labels[valid & ((labels < 0) | (labels >= logits.shape[-1]))]
    require(not wrong.numel(), name, wrong[:1].tolist(), f"must lie in 0 .. {logits.shape[-1] - 1}")
    own = torch.softmax(logits, -1).gather(-1, labels.where(valid, 0)[..., None])[..., 0] * valid
    count = valid[:, None].flatten(1).sum(1)
    return own[:, None].flatten(1).sum(1) / count.clamp_min(1), count > 0


@register(
    "flat",
    formula="-g(p_good) + f*(g(p_forget)), p the mean probability of the labels",
    source="Wang et al. 2025, LLM Unlearning via Loss Adjustment with Only Forget Data, arXiv:2410.11143; g of f-GAN "
    "(Nowozin et al. 2016, arXiv:1606.00709) where the official table has the wrong sign",
    use="takes back what a head of weather classes learnt from a period with faulty labels",
    status="verified",
    takes="other",
)
class FDivergenceForgetLoss(Loss, of=flat):
    """`flat` with its settings fixed."""
