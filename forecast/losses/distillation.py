"""A student learns from a teacher's outputs: logits of classes and bins, features, fields.

Inputs come in the order student, teacher, then the truth where it is asked for. No gradient reaches a teacher. Logits
are (B, K, *) with the K classes along `class_dim`; the loss before reduction is (B, *). Labels are class numbers
(B, *), or probabilities of the logits' shape.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from forecast.losses.common import Loss, leave_out, reduce, require, same_shape, wide, without_masked
from forecast.losses.registry import register
from forecast.losses.targets import classes

TINY = 1e-12


@wide
def soft_targets(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 4.0,
    class_dim: int = 1,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)), the distillation of Hinton et al.

    Raises:
        ForecastError: shapes that do not match, or a temperature not above 0.
    """
    student, teacher = _logits(student, teacher, temperature, class_dim, mask)
    return reduce(temperature**2 * _kl(teacher, student), reduction, weight, mask)


@wide
def kl_top(
    student: Tensor,
    teacher: Tensor,
    *,
    k: int = 1000,
    other: bool = False,
    temperature: float = 1.0,
    class_dim: int = 1,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """KL(teacher || student) among the k classes that the teacher finds likeliest, both renormalised there.

    Args:
        k: how many, 1000 in the published use; at least K is the whole KL. other: keep what the other classes hold
            together as one more class: without it the student's tail is free.

    Raises:
        ForecastError: shapes that do not match, k below 1, a temperature not above 0.
    """
    require(k >= 1, "k", k, "must be at least 1")
    student, teacher = _logits(student, teacher, temperature, class_dim, mask)
    if k < student.shape[-1]:
        best = teacher.topk(k, dim=-1).indices
        student, teacher = (_chosen(logits, best, other) for logits in (student, teacher))
    return reduce(temperature**2 * _kl(teacher, student), reduction, weight, mask)


def _chosen(logits: Tensor, best: Tensor, other: bool) -> Tensor:
    """Logits of the chosen classes and, where asked for, of all others together."""
    chosen = logits.gather(-1, best)
    if not other:
        return chosen
    rest = logits.scatter(-1, best, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.cat([chosen, rest], dim=-1)


@wide
def binary_kl(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 2.0,
    class_dim: int = 1,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """T^2 sum over classes of KL(Bernoulli(sigmoid(teacher / T)) || Bernoulli(sigmoid(student / T))).

    Raises:
        ForecastError: shapes that do not match, or a temperature not above 0.
    """
    s, t = _logits(student, teacher, temperature, class_dim, mask)
    yes, no = logsigmoid(t) - logsigmoid(s), logsigmoid(-t) - logsigmoid(-s)
    value = (t.sigmoid() * yes + (-t).sigmoid() * no).sum(-1)
    return reduce(temperature**2 * value, reduction, weight, mask)


@wide
def binary_kl_norm(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 2.0,
    class_dim: int = 1,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """T^2 sum over classes of KL(Bernoulli(1/2) || Bernoulli(sigmoid((student - teacher) / T))).

    The same as T^2 sum log cosh((s - t) / 2T), which is how it is computed: unlike a clamped sigmoid it keeps its
    gradient for |s - t| of any size. T -> infinity: sum (s - t)^2 / 8.

    Raises:
        ForecastError: shapes that do not match, or a temperature not above 0.
    """
    s, t = _logits(student, teacher, 2 * temperature, class_dim, mask)
    size = (s - t).abs()
    return reduce(temperature**2 * (size + softplus(-2 * size) - math.log(2)).sum(-1), reduction, weight, mask)


@wide
def norm_direction(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    class_means: Tensor,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """1 - <s, c_y / |c_y|> / max(|s|, |t|): features as long as the teacher's, along their class's mean.

    In [0, 2]; 0 where s is along the mean and at least as long as t.

    Args:
        student, teacher: (B, D) features. labels: (B,) class numbers. class_means: (K, D), see `class_mean_features`.

    Raises:
        ForecastError: shapes that do not match, or a label out of range.
    """
    same_shape(student=student, teacher=teacher)
    require(class_means.ndim == 2 and class_means.shape[1:] == student.shape[1:], "class_means",
            tuple(class_means.shape), f"must be (K, {student.shape[-1]})")  # fmt: skip
    student, teacher = leave_out(mask, student.shape[:1], student, teacher)
    along = class_means.detach() / class_means.detach().norm(dim=-1, keepdim=True).clamp_min(TINY)
    checked = classes(student @ along.mT, labels, ignore_index=ignore_index, mask=mask)
    own = torch.where(student.abs().sum(-1) > 0, (student.square().sum(-1) + TINY**2).sqrt(), 0.0)
    longest = torch.maximum(own, teacher.detach().norm(dim=-1)).clamp_min(TINY)
    return reduce(1 - checked.pick(checked.logits) / longest, reduction, weight, checked.mask)


@torch.no_grad()
def class_mean_features(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """(K, D) mean of the features (N, D) of each class; zero for a class without any."""
    sums = features.new_zeros(classes, features.shape[-1]).index_add_(0, labels, features)
    return sums / torch.bincount(labels, minlength=classes).clamp_min(1).unsqueeze(-1).to(features.dtype)


@wide
def self_distillation(
    student: Tensor,
    teacher: Tensor,
    truth: Tensor,
    *,
    alpha: float = 0.5,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """alpha (f - y)^2 + (1 - alpha) (f - f_previous)^2: the truth damps what generations of self-distillation lose.

    Up to a constant, the squared error against alpha y + (1 - alpha) f_previous. alpha = 1 is the plain one.

    Args:
        student: (B, *) f. teacher: (B, *) what the previous generation predicted. truth: (B, *).
        alpha: weight of the truth; our default.

    Raises:
        ForecastError: shapes that do not match, or alpha outside [0, 1].
    """
    require(0 <= alpha <= 1, "alpha", alpha, "must lie in [0, 1]")
    same_shape(student=student, teacher=teacher, truth=truth)
    by_truth, by_teacher = (without_masked(student - x, mask) for x in (truth, teacher.detach()))
    value = alpha * by_truth.square() + (1 - alpha) * by_teacher.square()
    return reduce(value, reduction, weight, mask)


@wide
def module_distillation(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    alpha: float = 0.5,
    temperature: float = 4.0,
    class_dim: int = 1,
    ignore_index: int = -100,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """(1 - alpha) CE + alpha T^2 KL(teacher || student) of one module, in its place in a frozen meta model.

    Args:
        student, teacher: logits of the meta model with the student's module, and with the teacher's, in the same place.
        alpha, temperature: settings of each experiment in the official code; the defaults are ours.

    Raises:
        ForecastError: shapes that do not match, a label out of range, alpha outside [0, 1], a temperature not above 0.
    """
    require(0 <= alpha <= 1, "alpha", alpha, "must lie in [0, 1]")
    checked = classes(student, labels, class_dim=class_dim, ignore_index=ignore_index, mask=mask)
    hard = -checked.pick(checked.logits.log_softmax(-1))
    s, t = _logits(student, teacher, temperature, class_dim, checked.mask)
    return reduce((1 - alpha) * hard + alpha * temperature**2 * _kl(t, s), reduction, weight, checked.mask)


def _logits(
    student: Tensor, teacher: Tensor, temperature: float, class_dim: int, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Both over the temperature, classes last, zero where masked."""
    require(temperature > 0, "temperature", temperature, "must be above 0")
    same_shape(student=student, teacher=teacher)
    require(-student.ndim <= class_dim < student.ndim, "class_dim", class_dim, f"logits have {student.ndim} dimensions")
    student, teacher = student.movedim(class_dim, -1), teacher.detach().movedim(class_dim, -1)
    student, teacher = leave_out(mask, student.shape[:-1], student, teacher)
    return student / temperature, teacher / temperature


def _kl(teacher: Tensor, student: Tensor) -> Tensor:
    """(B, *) KL(softmax(teacher) || softmax(student)) over the last dimension."""
    log_t = teacher.log_softmax(-1)
    return (log_t.exp() * (log_t - student.log_softmax(-1))).sum(-1)


@register(
    "soft_targets",
    formula="T^2 KL(softmax(t / T) || softmax(s / T))",
    source="Hinton et al. 2015, Distilling the knowledge in a neural network, arXiv:1503.02531",
    use="small event head after a large one's probabilities",
    status="verified",
    takes="teacher",
)
class SoftTargetsLoss(Loss, of=soft_targets):
    """`soft_targets` with its settings fixed."""


@register(
    "kl_top",
    formula="T^2 KL(softmax(t_top) || softmax(s_top)), top: the teacher's k likeliest classes (+ one for the rest)",
    source="Hu et al. 2025, OSTQuant, through notes on it",
    use="distil or quantise a head of very many bins at the cost of a few",
    status="third-party",
    takes="teacher",
)
class KLTopLoss(Loss, of=kl_top):
    """`kl_top` with its settings fixed."""


@register(
    "binary_kl",
    formula="T^2 sum_k KL(Ber(sigmoid(t_k / T)) || Ber(sigmoid(s_k / T)))",
    source="Yang et al. 2024, Dual-head knowledge distillation; BinaryKL.py",
    use="distil hazards that occur together, each its own yes or no",
    status="verified",
    takes="teacher",
)
class BinaryKLLoss(Loss, of=binary_kl):
    """`binary_kl` with its settings fixed."""


@register(
    "binary_kl_norm",
    formula="T^2 sum_k log cosh((s_k - t_k) / 2T)",
    source="Yang et al. 2024, Dual-head knowledge distillation; BinaryKLNorm.py",
    use="logits themselves, not only their softmax, taught to an auxiliary head",
    status="verified",
    takes="teacher",
)
class BinaryKLNormLoss(Loss, of=binary_kl_norm):
    """`binary_kl_norm` with its settings fixed."""


@register(
    "norm_direction",
    formula="1 - <s, c_y / |c_y|> / max(|s|, |t|)",
    source="Wang et al. 2023, Improving knowledge distillation via regularizing feature norm and direction",
    use="latent features of a student, by weather regime",
    status="verified",
    takes="teacher",
)
class NormDirectionLoss(Loss, of=norm_direction):
    """`norm_direction` with its settings fixed."""


@register(
    "self_distillation",
    formula="alpha (f - y)^2 + (1 - alpha) (f - f_previous)^2",
    source="Borup and Andersen 2021, Even your teacher needs guidance",
    use="successive generations of one forecaster, held to the analysis",
    status="derived",
    takes="teacher",
)
class SelfDistillationLoss(Loss, of=self_distillation):
    """`self_distillation` with its settings fixed."""


@register(
    "module_distillation",
    formula="(1 - alpha) CE(s, y) + alpha T^2 KL(softmax(t / T) || softmax(s / T))",
    source="Lo et al. 2024, m2mKD: Module-to-module knowledge distillation; official code",
    use="distil processor blocks one by one, each in the place of the teacher's",
    status="verified",
    takes="teacher",
)
class ModuleDistillationLoss(Loss, of=module_distillation):
    """`module_distillation` with its settings fixed."""
