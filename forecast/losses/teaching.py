"""Schemes in which a teacher helps: a second head, later leads, masked instances, data of another distribution."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from forecast.core.errors import ForecastError
from forecast.losses.common import Loss, leave_out, reduce, require, same_shape, wide
from forecast.losses.distillation import binary_kl_norm
from forecast.losses.registry import register
from forecast.losses.targets import classes


@wide
def dual_head(
    student: Tensor,
    auxiliary: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    share: float = 1.0,
    temperature: float = 2.0,
    ignore_index: int = -100,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of the main head + share * `binary_kl_norm` of an auxiliary head from the teacher.

    Both heads read the same features; the auxiliary one is dropped after training. Where the two pull the features
    apart, `aligned_gradients` settles it in favour of the labels.

    Args:
        student, auxiliary, teacher: (B, K) logits. labels: (B,) class numbers.
        share: our default. temperature: of the official code.

    Raises:
        ForecastError: shapes that do not match, a label out of range, a temperature not above 0.
    """
    same_shape(student=student, auxiliary=auxiliary, teacher=teacher)
    checked = classes(student, labels, ignore_index=ignore_index, mask=mask)
    by_label = -checked.pick(checked.logits.log_softmax(-1))
    by_teacher = binary_kl_norm(auxiliary, teacher, temperature=temperature, reduction="none", mask=checked.mask)
    return reduce(by_label + share * by_teacher, reduction, weight, checked.mask)


def project_conflict(main: Sequence[Tensor], other: Sequence[Tensor]) -> list[Tensor]:
    """The gradients `other` without what works against `main`: o - <o, m> m / |m|^2 if <o, m> < 0, each as one vector.

    Raises:
        ForecastError: lists of different lengths or shapes.
    """
    if [x.shape for x in main] != [x.shape for x in other]:
        raise ForecastError("main and other: must be gradients of the same parameters")
    dot = sum((x * y).sum() for x, y in zip(main, other, strict=True))
    size = sum(x.square().sum() for x in main)
    if not dot < 0:
        return list(other)
    return [y - dot / size * x for x, y in zip(main, other, strict=True)]


def aligned_gradients(main: Tensor, auxiliary: Tensor, parameters: Iterable[Tensor]) -> list[Tensor]:
    """Gradients of two losses, summed after `project_conflict`; put them into `parameter.grad` before the step.

    Args:
        main, auxiliary: the loss on labels and the loss on the teacher. parameters: those that both may change.
    """
    given = list(parameters)

    def gradients(loss: Tensor, keep: bool) -> list[Tensor]:
        found = torch.autograd.grad(loss, given, retain_graph=keep, allow_unused=True)
        return [torch.zeros_like(p) if g is None else g for p, g in zip(given, found, strict=True)]

    by_label = gradients(main, True)
    return [x + y for x, y in zip(by_label, project_conflict(by_label, gradients(auxiliary, False)), strict=True)]


@wide
def multi_horizon_consistency(
    student: Tensor,
    truth: Tensor,
    latents: Tensor,
    teacher: Tensor,
    sampled: Tensor | None = None,
    *,
    consistency: float = 1.0,
    sampler: float = 1.0,
    ignore_index: int = -100,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Several leads predicted at once, held to the truth and to the states of the step-by-step rollout.

    At each lead h: error(student_h) + sampler * error(sampled_h) + consistency * mean (z_h - sg z*_h)^2, the last not
    for the first lead, which is the rollout's own. One lead is the plain error.

    Args:
        student, sampled: (B, H, K) logits for class numbers (B, H) as truth (cross-entropy), else (B, H, *) fields of
            the truth's shape (squared error); `sampled` is the output of a second head that conditions on what was
            drawn for the leads before, or None.
        latents: (B, H, D) states at the leads predicted at once. teacher: (B, H, D) states of the rollout, no gradient.
        consistency, sampler: our defaults.

    Returns:
        The loss, (B, H) before the reduction.

    Raises:
        ForecastError: shapes that do not match, or a label out of range.
    """
    same_shape(latents=latents, teacher=teacher)
    leads = student.shape[:2]
    require(latents.shape[:2] == leads, "latents", tuple(latents.shape), "must begin as student does, (B, H)")
    latents, teacher = leave_out(mask, leads, latents, teacher)
    value, kept = _lead_error(student, truth, ignore_index, mask)
    if sampled is not None:
        same_shape(student=student, sampled=sampled)
        value = value + sampler * _lead_error(sampled, truth, ignore_index, mask)[0]
    gap = (latents - teacher.detach()).flatten(2).square().mean(-1)
    later = torch.arange(gap.shape[1], device=gap.device) > 0
    return reduce(value + consistency * gap * later, reduction, weight, kept)


def _lead_error(
    forecast: Tensor, truth: Tensor, ignore_index: int, mask: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    if truth.is_floating_point():
        same_shape(student=forecast, truth=truth)
        forecast, truth = leave_out(mask, forecast.shape[:2], forecast, truth)
        return (forecast - truth).square().flatten(2).mean(-1) if forecast.ndim > 2 else (
            forecast - truth
        ).square(), mask
    checked = classes(forecast, truth, class_dim=-1, ignore_index=ignore_index, mask=mask)
    return -checked.pick(checked.logits.log_softmax(-1)), checked.mask


@wide
def masked_instances(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    consistency: float = 1.0,
    student_temperature: float = 1.0,
    teacher_temperature: float = 0.1,
    ignore_index: int = -100,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """A bag's cross-entropy from its hard instances + consistency * KL(teacher on all || student on the hard ones).

    The teacher is a moving average of the student (decay 0.9997) and says which instances are easy, see `mask_easy`.

    Args:
        student, teacher: (B, K) logits of the bags. labels: (B,) class numbers.
        consistency: our default; temperatures: of the official code.

    Raises:
        ForecastError: shapes that do not match, a label out of range, a temperature not above 0.
    """
    require(student_temperature > 0, "student_temperature", student_temperature, "must be above 0")
    require(teacher_temperature > 0, "teacher_temperature", teacher_temperature, "must be above 0")
    same_shape(student=student, teacher=teacher)
    student, teacher = leave_out(mask, student.shape[:1], student, teacher)
    checked = classes(student, labels, ignore_index=ignore_index, mask=mask)
    log_t = (teacher.detach() / teacher_temperature).log_softmax(-1)
    apart = (log_t.exp() * (log_t - (student / student_temperature).log_softmax(-1))).sum(-1)
    by_label = -checked.pick(checked.logits.log_softmax(-1))
    return reduce(by_label + consistency * apart, reduction, weight, checked.mask)


@torch.no_grad()
def mask_easy(attention: Tensor, ratio: float) -> Tensor:
    """(B, N) which instances stay: not the ceil(ratio * N) that the teacher attends to most; at least one stays.

    Raises:
        ForecastError: ratio outside [0, 1], or no instances.
    """
    require(0 <= ratio <= 1, "ratio", ratio, "must lie in [0, 1]")
    count = attention.shape[-1]
    require(count > 0, "attention", tuple(attention.shape), "needs instances")
    easy = min(math.ceil(ratio * count), count - 1)
    stays = torch.ones_like(attention, dtype=torch.bool)
    return stays.scatter_(-1, attention.topk(easy, dim=-1).indices, False)


@wide
def shifted_distillation(
    student: Tensor,
    teacher: Tensor,
    student_logits: Tensor,
    teacher_logits: Tensor,
    mixed: Tensor | None = None,
    *,
    temperature: float = 0.3,
    share: float = 0.001,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Distillation on data of another distribution: only where both networks agree, surer samples counting more.

    w (mean_d (s - t)^2 + share * InfoNCE(s, mixed)), with w the largest probability of the two networks' mean where
    their classes agree, else 0, scaled to mean 1 over the samples; none: 0. For `student_logits` the student's
    features go through the teacher's classifier. The rule for w follows the abstract: its exact form is ours.

    Args:
        student, teacher: (B, D) features. student_logits, teacher_logits: (B, K).
        mixed: (B, D) student's features of the same samples with their distribution mixed with another's, or None.
        temperature, share: of the contrastive term, as published.

    Raises:
        ForecastError: shapes that do not match, or a temperature not above 0.
    """
    require(temperature > 0, "temperature", temperature, "must be above 0")
    same_shape(student=student, teacher=teacher)
    same_shape(student_logits=student_logits, teacher_logits=teacher_logits)
    kept = student.shape[:1]
    student, teacher, student_logits, teacher_logits = leave_out(
        mask, kept, student, teacher, student_logits, teacher_logits
    )
    value = (student - teacher.detach()).square().mean(-1)
    chosen = agreement(student_logits, teacher_logits, mask)
    if mixed is not None:
        same_shape(student=student, mixed=mixed)
        (mixed,) = leave_out(mask, kept, mixed)
        alike = normalize(student, dim=-1) @ normalize(mixed, dim=-1).mT / temperature
        alike = alike.masked_fill(
            (chosen == 0) & ~torch.eye(len(chosen), dtype=torch.bool, device=chosen.device), -torch.inf
        )
        value = value - share * alike.log_softmax(-1).diagonal()
    return reduce(value * chosen, reduction, weight, mask)


@torch.no_grad()
def agreement(student_logits: Tensor, teacher_logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """(B,) weights of mean 1 over what is kept: the surer both networks are of the same class; 0 where they differ."""
    s, t = student_logits.softmax(-1), teacher_logits.softmax(-1)
    sure = ((s + t) / 2).amax(-1) * (s.argmax(-1) == t.argmax(-1))
    kept = torch.ones_like(sure) if mask is None else mask.broadcast_to(sure.shape).to(sure.dtype)
    sure, total = sure * kept, (sure * kept).sum()
    return sure * kept.sum() / torch.where(total > 0, total, torch.ones_like(total))


@register(
    "dual_head",
    formula="CE(main, y) + share T^2 sum_k log cosh((aux_k - t_k) / 2T)",
    source="Yang et al. 2024, Dual-head knowledge distillation; helper/loops.py, helper/optimizer.py",
    use="an event head that learns from labels and from a large teacher without the two fighting",
    status="verified",
    takes="teacher",
)
class DualHeadLoss(Loss, of=dual_head):
    """`dual_head` with its settings fixed."""


@register(
    "multi_horizon_consistency",
    formula="error(x_h) + error(sampled_h) + mean (z_h - sg z*_h)^2 for h > 1",
    source="Samragh et al. 2025, Your LLM knows the future, abstract and a review of it",
    use="several lead times predicted at once that agree with the step-by-step rollout",
    status="third-party",
    takes="teacher",
)
class MultiHorizonConsistencyLoss(Loss, of=multi_horizon_consistency):
    """`multi_horizon_consistency` with its settings fixed."""


@register(
    "masked_instances",
    formula="CE(s, y) + c KL(softmax(t / 0.1) || softmax(s))",
    source="Tang et al. 2023, Multiple instance learning with masked hard instance mining; official code",
    use="which grid boxes of a region explain an event, beyond the obvious ones",
    status="verified",
    takes="teacher",
)
class MaskedInstancesLoss(Loss, of=masked_instances):
    """`masked_instances` with its settings fixed."""


@register(
    "shifted_distillation",
    formula="w (mean (s - t)^2 + 0.001 InfoNCE(s, mixed)), w from the agreement of both networks (our form)",
    source="Tang et al. 2023, Distribution shift matters for knowledge distillation (KD3), arXiv:2307.11469",
    use="distil on another model's archive, trusting it where teacher and student agree",
    status="derived",
    takes="teacher",
)
class ShiftedDistillationLoss(Loss, of=shifted_distillation):
    """`shifted_distillation` with its settings fixed."""
