"""Distillation whose balance between teacher and truth is learnt, sample by sample."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from forecast.losses.common import from_memory, leave_out, reduce, require, same_shape, wide
from forecast.losses.registry import register
from forecast.losses.targets import classes

Weights = Mapping[str, Tensor]


@from_memory
@wide
def fused_distillation(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    ratio: Tensor,
    *,
    temperature: float = 4.0,
    ignore_index: int = -100,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """(1 - w) CE + w T^2 KL(teacher || student), with a ratio w in [0, 1] for each sample.

    Args:
        student, teacher: (B, K) logits; no gradient reaches the teacher. labels: (B,). ratio: (B,) w.

    Raises:
        ForecastError: shapes that do not match, a label out of range, a ratio outside [0, 1], a bad temperature.
    """
    require(temperature > 0, "temperature", temperature, "must be above 0")
    same_shape(student=student, teacher=teacher)
    student, teacher = leave_out(mask, student.shape[:1], student, teacher)
    checked = classes(student, labels, ignore_index=ignore_index, mask=mask)
    (ratio,) = leave_out(checked.mask, student.shape[:1], ratio)
    require(ratio.shape == student.shape[:1] and bool(((ratio >= 0) & (ratio <= 1)).all()), "ratio",
            tuple(ratio.shape), "must be (B,) in [0, 1]")  # fmt: skip
    hard = -checked.pick(checked.logits.log_softmax(-1))
    log_t = (teacher.detach() / temperature).log_softmax(-1)
    soft = (log_t.exp() * (log_t - (student / temperature).log_softmax(-1))).sum(-1)
    return reduce((1 - ratio) * hard + ratio * temperature**2 * soft, reduction, weight, checked.mask)


@register(
    "fused_distillation",
    formula="(1 - w) CE(s, y) + w T^2 KL(t || s), w = MLP of the sides of the triangles (s, t, y) and (., ., mean t)",
    source="Hu et al. 2024, Less or more from teacher: trilateral geometry (TGeo-KD), arXiv:2312.15112",
    use="trust in the teacher's forecast sample by sample, less where it errs",
    status="from memory",
    takes="teacher",
)
class FusedDistillationLoss(nn.Module):
    """`fused_distillation` with a network for the ratio and, in a buffer, the teacher's mean prediction of each class.

    The ratio's network sees the differences of student's and teacher's probabilities, the label, and that mean, which
    tells outliers. Minimised with the student it would only take the smaller of both terms: train it on other data,
    with `ratio_gradients`. Its form (two layers) is ours.

    Args:
        classes: K. hidden: width. decay: of the running means. temperature, ignore_index, reduction: of the loss.
    """

    means: Tensor
    stateful = True

    def __init__(
        self,
        classes: int,
        hidden: int = 64,
        decay: float = 0.9,
        temperature: float = 4.0,
        ignore_index: int = -100,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        require(classes >= 2, "classes", classes, "must be at least 2")
        require(0 <= decay < 1, "decay", decay, "must lie in [0, 1)")
        self.decay, self.ignore_index = decay, ignore_index
        self.options = {"temperature": temperature, "reduction": reduction}
        self.network = nn.Sequential(nn.Linear(6 * classes, hidden), nn.ReLU(), nn.Linear(hidden, 1))
        self.register_buffer("means", torch.full((classes, classes), 1 / classes))

    def ratio(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """(B,) weight of the teacher; an ignored label counts as class 0 here."""
        s, t = student.detach().float().softmax(-1), teacher.detach().float().softmax(-1)
        known = labels.clamp_min(0)
        y, mean = one_hot(known, s.shape[-1]).to(s), self.means[known]
        sides = [s - t, t - y, y - s, s - mean, t - mean, y - mean]
        return self.network(torch.cat(sides, dim=-1)).sigmoid().squeeze(-1)

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        labels: Tensor,
        *,
        weight: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """The loss of logits (B, K) and class numbers (B,); in training mode the class means move."""
        checked = classes(student, labels, ignore_index=self.ignore_index, mask=mask)
        if self.training:
            self._follow(teacher, labels, checked.mask)
        ratio = self.ratio(student, teacher, labels)
        return fused_distillation(
            student, teacher, labels, ratio, ignore_index=self.ignore_index, **self.options, weight=weight, mask=mask
        )

    @torch.no_grad()
    def _follow(self, teacher: Tensor, labels: Tensor, kept: Tensor | None) -> None:
        t, y = teacher.float().softmax(-1), labels
        if kept is not None:
            t, y = t[kept], y[kept]
        count = torch.bincount(y, minlength=len(self.means)).to(t)[:, None]
        batch = torch.zeros_like(self.means).index_add_(0, y, t) / count.clamp_min(1)
        self.means.copy_(torch.where(count > 0, self.means.lerp(batch, 1 - self.decay), self.means))

    def reset_state(self) -> None:
        """Forget the class means."""
        self.means.fill_(1 / len(self.means))


def ratio_gradients(
    inner: Callable[[Weights], Tensor],
    outer: Callable[[Weights], Tensor],
    weights: Weights,
    parameters: Iterable[Tensor],
    rate: float,
) -> list[Tensor]:
    """Gradient of the outer loss, after one step of gradient descent on the inner one, for what the inner rests on.

    Args:
        inner, outer: losses on training and on validation data, of the student's weights by name (torch.func's
            functional_call). weights: the student's now. parameters: of the ratio's network. rate: of the inner step.
    """
    slopes = torch.autograd.grad(inner(weights), list(weights.values()), create_graph=True)
    moved = {name: w - rate * slope for (name, w), slope in zip(weights.items(), slopes, strict=True)}
    return list(torch.autograd.grad(outer(moved), list(parameters)))
