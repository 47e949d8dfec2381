"""A trained network meets other data (a new analysis version, another model): mixed statistics, a held prior."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from forecast.core.errors import ForecastError
from forecast.losses.common import Loss, leave_out, reduce, require, same_shape, wide
from forecast.losses.registry import register


@wide
def alpha_norm(x: Tensor, mean: Tensor, variance: Tensor, *, alpha: float = 0.9, eps: float = 1e-5) -> Tensor:
    """x normalised by mixed statistics: alpha * those of training + (1 - alpha) * the batch's own, by channel.

    Args:
        x: (B, C, *). mean, variance: (C,) of training. alpha: 1 is plain inference, 0 statistics of the batch alone.

    Raises:
        ForecastError: alpha outside [0, 1], or statistics that are not (C,).
    """
    require(0 <= alpha <= 1, "alpha", alpha, "must lie in [0, 1]")
    for name, given in (("mean", mean), ("variance", variance)):
        require(given.shape == x.shape[1:2], name, tuple(given.shape), f"must be {tuple(x.shape[1:2])}")
    dims = [0, *range(2, x.ndim)]
    own_variance, own_mean = torch.var_mean(x, dim=dims, correction=0)
    mixed_mean, mixed = alpha * mean + (1 - alpha) * own_mean, alpha * variance + (1 - alpha) * own_variance
    shape = (1, -1, *[1] * (x.ndim - 2))
    return (x - mixed_mean.view(shape)) * (mixed.view(shape) + eps).rsqrt()


def mix_statistics(model: nn.Module, alpha: float = 0.9) -> nn.Module:
    """The model with `alpha_norm` in every batch normalisation, changed in place; its weights stay as they are.

    Raises:
        ForecastError: alpha outside [0, 1], or a normalisation without running statistics.
    """
    require(0 <= alpha <= 1, "alpha", alpha, "must lie in [0, 1]")
    if isinstance(model, nn.modules.batchnorm._BatchNorm):
        return AlphaBatchNorm(model, alpha)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                setattr(module, name, AlphaBatchNorm(child, alpha))
    return model


class AlphaBatchNorm(nn.Module):
    """A trained batch normalisation whose statistics are mixed with those of each batch (`alpha_norm`)."""

    def __init__(self, trained: nn.modules.batchnorm._BatchNorm, alpha: float = 0.9) -> None:
        super().__init__()
        if trained.running_mean is None:
            raise ForecastError("trained: a batch normalisation without running statistics has nothing to mix")
        self.trained, self.alpha = trained, alpha

    def forward(self, x: Tensor) -> Tensor:
        """Normalised, scaled and shifted; x is (B, C, *)."""
        norm = self.trained
        assert norm.running_mean is not None and norm.running_var is not None
        y = alpha_norm(x, norm.running_mean, norm.running_var, alpha=self.alpha, eps=norm.eps)
        if norm.affine:
            shape = (1, -1, *[1] * (x.ndim - 2))
            y = y * norm.weight.view(shape) + norm.bias.view(shape)
        return y.to(x.dtype)


@wide
def petal(
    student: Tensor,
    teacher: Tensor,
    parameters: Sequence[Tensor] = (),
    means: Sequence[Tensor] = (),
    variances: Sequence[Tensor] = (),
    *,
    strength: float = 1e-8,
    class_dim: int = 1,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Adapt while forecasting: cross-entropy to a moving-average teacher + strength * sum (w - m)^2 / (2 v).

    The second term is the Gaussian of the weights in training (`swag_diagonal`); it is added to each sample's loss.
    After each step `follow` moves the teacher, and `restore` puts the weights that matter least back.

    Args:
        student, teacher: (B, K, *) logits; no gradient reaches the teacher. parameters, means, variances: lists alike.
        strength: of the prior, by the official configs; 0 is plain self-training.

    Raises:
        ForecastError: shapes that do not match, or a negative strength.
    """
    require(strength >= 0, "strength", strength, "must not be negative")
    same_shape(student=student, teacher=teacher)
    student, teacher = student.movedim(class_dim, -1), teacher.detach().movedim(class_dim, -1)
    student, teacher = leave_out(mask, student.shape[:-1], student, teacher)
    value = -(teacher.softmax(-1) * student.log_softmax(-1)).sum(-1)
    shapes = [[p.shape for p in part] for part in (parameters, means, variances)]
    if shapes[0] != shapes[1] or shapes[0] != shapes[2]:
        raise ForecastError("parameters, means and variances: must be tensors of the same shapes in the same order")
    for parameter, mean, variance in zip(parameters, means, variances, strict=True):
        require(bool((variance > 0).all()), "variances", float(variance.min()), "must be above 0")
        value = value + strength * ((parameter - mean).square() / (2 * variance)).sum()
    return reduce(value, reduction, weight, mask)


@torch.no_grad()
def swag_diagonal(snapshots: Iterable[Sequence[Tensor]], floor: float = 1e-8) -> tuple[list[Tensor], list[Tensor]]:
    """Means and variances of weights over snapshots along a training (Maddox et al. 2019), variances not below `floor`.

    Raises:
        ForecastError: no snapshots.
    """
    sums: list[Tensor] = []
    squares: list[Tensor] = []
    count = 0
    for snapshot in snapshots:
        count += 1
        wide_ = [w.double() for w in snapshot]
        sums = [s + w for s, w in zip(sums, wide_, strict=True)] if sums else wide_
        powers = [w.square() for w in wide_]
        squares = [s + w for s, w in zip(squares, powers, strict=True)] if squares else powers
    require(count > 0, "snapshots", count, "at least 1 is needed")
    means = [s / count for s in sums]
    variances = [(s / count - m.square()).clamp_min(floor) for s, m in zip(squares, means, strict=True)]
    return [m.float() for m in means], [v.float() for v in variances]


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, decay: float = 0.999) -> None:
    """Move the teacher's weights towards the student's: t <- decay t + (1 - decay) s, in place; buffers are copied."""
    require(0 <= decay <= 1, "decay", decay, "must lie in [0, 1]")
    for ours, theirs in zip(teacher.parameters(), student.parameters(), strict=True):
        ours.lerp_(theirs, 1 - decay)
    for kept, new in zip(teacher.buffers(), student.buffers(), strict=True):
        kept.copy_(new)


@torch.no_grad()
def restore(
    parameters: Sequence[Tensor], source: Sequence[Tensor], fisher: Sequence[Tensor], quantile: float = 0.03
) -> None:
    """Put the weights of least Fisher information (squared gradient) back to their source values, in place.

    Args:
        fisher: of the parameters' shapes. quantile: share of all weights that go back, 0.03 as published.

    Raises:
        ForecastError: quantile outside [0, 1], or lists that differ in length.
    """
    require(0 <= quantile <= 1, "quantile", quantile, "must lie in [0, 1]")
    require(len(parameters) == len(source) == len(fisher), "fisher", len(fisher), "must be as many as the parameters")
    every = torch.cat([f.flatten() for f in fisher])
    back = round(quantile * every.numel())
    if back == 0:
        return
    threshold = every.kthvalue(back).values
    for parameter, original, information in zip(parameters, source, fisher, strict=True):
        parameter.copy_(torch.where(information <= threshold, original, parameter))


@register(
    "alpha_norm",
    formula="(x - m) / sqrt(v + eps), m = alpha m_training + (1 - alpha) m_batch, v alike",
    source="You et al. 2021, Test-time batch statistics calibration for covariate shift, abstract",
    use="a network with batch normalisation on a new analysis version, before it is retrained",
    status="derived",
    takes="other",
)
class AlphaNorm(Loss, of=alpha_norm):
    """`alpha_norm` with its settings fixed: not a loss by itself, but what its adaptation losses stand on."""


@register(
    "petal",
    formula="CE(softmax(teacher), student) + strength sum (w - m)^2 / (2 v)",
    source="Brahma and Rai 2023, A probabilistic framework for lifelong test-time adaptation; official code",
    use="event heads that adapt while they run, after an upgrade of the analysis",
    status="verified",
    takes="teacher",
)
class PetalLoss(Loss, of=petal):
    """`petal` with its settings fixed."""
