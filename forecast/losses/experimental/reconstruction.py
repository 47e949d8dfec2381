"""Reconstruction with a predicted uncertainty."""

from __future__ import annotations

from torch import Tensor

from forecast.losses.common import Loss, from_memory, reduce, require, same_shape, wide, without_masked
from forecast.losses.registry import register


@from_memory
@wide
def adjustable_reconstruction(
    forecast: Tensor,
    truth: Tensor,
    variance: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    floor: float = 1e-6,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """alpha (x - m)^2 / s^2 + beta log s^2: the reconstruction's error in units of its own uncertainty.

    alpha = beta = 1 is twice the Gaussian log score, less log 2 pi (Dawid and Sebastiani 1999). The variance that is
    best for an error e is alpha e^2 / beta. s = 1, beta = 0 is the squared error. Outliers score high.

    Args:
        forecast: (B, *) m. truth: (B, *) x. variance: (B, *) s^2 of the network; below `floor` it is the floor, without
            gradient.

    Raises:
        ForecastError: shapes that do not match, negative weights, a floor not above 0.
    """
    for name, value in (("alpha", alpha), ("beta", beta)):
        require(value >= 0, name, value, "must not be negative")
    require(floor > 0, "floor", floor, "must be above 0")
    same_shape(forecast=forecast, truth=truth, variance=variance)
    spread = without_masked(variance, mask).clamp_min(floor)
    score = alpha * without_masked(truth - forecast, mask).square() / spread + beta * spread.log()
    return reduce(score, reduction, weight, mask)


@register(
    "adjustable_reconstruction",
    formula="alpha (x - m)^2 / s^2 + beta log s^2",
    source="Improving autoencoder-based outlier detection with adjustable probabilistic reconstruction error (APRE)",
    use="screening of analyses and observations by an autoencoder",
    status="from memory",
    takes="other",
)
class AdjustableReconstructionLoss(Loss, of=adjustable_reconstruction):
    """`adjustable_reconstruction` with its settings fixed."""
