"""Errors of a field against the truth, point by point: squared, absolute, between the two, and with teachers' help.

Shapes: forecast and truth (B, *). Areas, levels and variables are weighed by `weight`, broadcastable to that, e.g.
(G, 1) for (B, G, V); the mean is sum(w * error) / sum(w). A NaN in the truth gives NaN unless `mask` leaves it out.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import huber_loss, softplus

from forecast.losses.common import Loss, reduce, require, same_shape, wide, without_masked
from forecast.losses.registry import register


@wide
def mse(
    forecast: Tensor,
    truth: Tensor,
    *,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Squared error (x - y)^2; its minimum is the mean of what may come, so one forecast of it is too smooth.

    Raises:
        ForecastError: shapes that do not match.
    """
    return reduce(_error(forecast, truth, mask).square(), reduction, weight, mask)


@wide
def mae(
    forecast: Tensor,
    truth: Tensor,
    *,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Absolute error |x - y|, least at the median; the limit of the CRPS for one member.

    Raises:
        ForecastError: shapes that do not match.
    """
    return reduce(_error(forecast, truth, mask).abs(), reduction, weight, mask)


@wide
def huber(
    forecast: Tensor,
    truth: Tensor,
    *,
    delta: float = 1.0,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Half the squared error up to `delta`, then delta * (|e| - delta / 2) (Huber 1964).

    Raises:
        ForecastError: delta not above 0, or shapes that do not match.
    """
    require(delta > 0, "delta", delta, "must be above 0")
    error = _error(forecast, truth, mask)
    return reduce(huber_loss(error, torch.zeros_like(error), reduction="none", delta=delta), reduction, weight, mask)


@wide
def log_cosh(
    forecast: Tensor,
    truth: Tensor,
    *,
    scale: float = 1.0,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """scale^2 log cosh(e / scale): e^2 / 2 for small errors, scale |e| for large ones, smooth between.

    Raises:
        ForecastError: scale not above 0, or shapes that do not match.
    """
    require(scale > 0, "scale", scale, "must be above 0")
    size = (_error(forecast, truth, mask) / scale).abs()
    return reduce(scale**2 * (size + softplus(-2 * size) - math.log(2)), reduction, weight, mask)


def assistive_terms(
    student: Tensor,
    truth: Tensor,
    tough: Tensor,
    tolerant: Tensor,
    *,
    tough_factor: float = 1.9,
    tolerant_factor: float = 1.8,
    tough_reward: float = 0.45,
    tolerant_reward: float = 0.4,
    near: float = 0.15,
) -> tuple[Tensor, Tensor]:
    """Main and assisting terms of `assistive_teacher_regression`, each of the student's shape; watch the first."""
    same_shape(student=student, truth=truth, tough=tough, tolerant=tolerant)
    size = (student - truth).abs()
    reach = (tolerant - truth).abs().detach()
    main = torch.where(size <= reach, 3 * size, size.square() + 3 * reach - reach.square())
    assist = _assist(size, (tough - truth).abs().detach(), tough_factor, tough_reward, near)
    return main, assist + _assist(size, reach, tolerant_factor, tolerant_reward, near)


def _assist(size: Tensor, reach: Tensor, factor: float, reward: float, near: float) -> Tensor:
    """Of one teacher, mirrored to the student's side of the truth: w(|e|) times the distance to it."""
    weight = torch.where(size > reach, factor, torch.where(size > near * reach, -reward, 0.0))
    return weight * (size - reach).abs()


@wide
def assistive_teacher_regression(
    student: Tensor,
    truth: Tensor,
    tough: Tensor,
    tolerant: Tensor,
    *,
    tough_factor: float = 1.9,
    tolerant_factor: float = 1.8,
    tough_reward: float = 0.45,
    tolerant_reward: float = 0.4,
    near: float = 0.15,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Regression of a student between two teachers, 2 * main + assistance of both.

    With e the student's error and d each teacher's: main is 3|e| while |e| <= d_tolerant, then
    e^2 + 3 d_tolerant - d_tolerant^2. A teacher counts as if it erred to the student's side; its assistance is
    `factor` * (|e| - d) beyond it, -`reward` * (d - |e|) between `near` * d and d, and 0 closer to the truth.

    **May be negative**, since the second weight is: watch the main term (`assistive_terms`) beside it. The main term
    has slope 3 up to d_tolerant and 2|e| above, so it is not convex where d_tolerant < 1.5.

    Args:
        student, truth, tough, tolerant: (B, *) each; no gradient reaches the teachers. Scale to unit size first.
        near, factors, rewards: defaults of the official code (Fard and Mahoor 2022, KD-Loss, custom_Losses.py).

    Raises:
        ForecastError: shapes that do not match, or `near` outside [0, 1].
    """
    require(0 <= near <= 1, "near", near, "must lie in [0, 1]")
    main, assist = assistive_terms(
        *(without_masked(x, mask) for x in (student, truth, tough, tolerant)),
        tough_factor=tough_factor,
        tolerant_factor=tolerant_factor,
        tough_reward=tough_reward,
        tolerant_reward=tolerant_reward,
        near=near,
    )
    return reduce(2 * main + assist, reduction, weight, mask)


def _error(forecast: Tensor, truth: Tensor, mask: Tensor | None) -> Tensor:
    same_shape(forecast=forecast, truth=truth)
    return without_masked(forecast - truth, mask)


@register(
    "mse",
    formula="(x - y)^2",
    source="Gauss 1809",
    use="baseline of deterministic forecasts; too smooth at long leads",
    status="verified",
    takes="field",
)
class MSELoss(Loss, of=mse):
    """`mse` with its settings fixed."""


@register(
    "mae",
    formula="|x - y|",
    source="Laplace 1774",
    use="baseline for precipitation and other skewed variables; what an ensemble score is for one member",
    status="verified",
    takes="field",
)
class MAELoss(Loss, of=mae):
    """`mae` with its settings fixed."""


@register(
    "huber",
    formula="e^2 / 2 if |e| <= delta, else delta (|e| - delta / 2)",
    source="Huber 1964, Robust estimation of a location parameter",
    use="squared error that a few bad analyses or stations do not govern",
    status="verified",
    takes="field",
)
class HuberLoss(Loss, of=huber):
    """`huber` with its settings fixed."""


@register(
    "log_cosh",
    formula="s^2 log cosh((x - y) / s)",
    source="standard; the same as anemoi-training's LogCosh for s = 1",
    use="as Huber, with a second derivative everywhere",
    status="verified",
    takes="field",
)
class LogCoshLoss(Loss, of=log_cosh):
    """`log_cosh` with its settings fixed."""


@register(
    "assistive_teacher_regression",
    formula="2 main(|e|, d_tolerant) + sum over teachers w(|e|, d) ||e| - d|",
    source="Fard and Mahoor 2022, Facial landmark points detection using knowledge distillation; custom_Losses.py",
    use="small student forecaster between two teachers; may be negative, watch the main term",
    status="verified",
    takes="teacher",
)
class AssistiveTeacherRegressionLoss(Loss, of=assistive_teacher_regression):
    """`assistive_teacher_regression` with its settings fixed."""
