"""Losses of what a field looks like along an axis: its maximum over levels, times, latitudes or longitudes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from forecast.losses.common import require, same_shape, wide
from forecast.losses.imbalanced import focal_tversky
from forecast.losses.registry import build, register


@wide
def projection(
    forecast: Tensor,
    truth: Tensor,
    *,
    base: Callable[..., Tensor] = focal_tversky,
    axes: Sequence[int] = (-1,),
    coefficient: float = 1.0,
    temperature: float | None = None,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """base(x, y) + coefficient * mean over axes of base(max x, max y), the maxima along that axis.

    Args:
        forecast, truth: (B, *) what `base` takes: for an event loss, logits (whose maximum is that of probabilities)
            and labels. An axis of length 1 gives the base loss of the squeezed field once more.
        base: any loss of (forecast, truth, weight=, mask=), an event loss or one of fields; reduced as it is set to.
        axes: dimensions to project along, not the first; (z,) or (z, y, x) in the paper. coefficient: our default.
        temperature: None takes the hard maximum of the forecast, whose gradient reaches one cell; above 0, the mean
            under softmax(x / temperature), which reaches all and tends to the maximum. The truth's is always hard.
        weight, mask: broadcastable to the forecast; along the axis weights are averaged, a masked cell is no maximum.

    Raises:
        ForecastError: shapes that do not match, the sample's axis or one that is not there, a temperature not above 0,
            or what the base raises.
    """
    same_shape(forecast=forecast, truth=truth)
    require(temperature is None or temperature > 0, "temperature", temperature, "must be above 0, or None")
    require(len(axes) > 0, "axes", tuple(axes), "name at least one")
    for axis in axes:
        require(axis % forecast.ndim > 0 and -forecast.ndim <= axis < forecast.ndim, "axes", tuple(axes),
                f"the forecast has {forecast.ndim} dimensions, of which the first is the sample")  # fmt: skip
    total = base(forecast, truth, **_given(weight=weight, mask=mask))
    for axis in axes:
        x, y, aside = _project(forecast, truth, axis, temperature, weight, mask)
        total = total + coefficient / len(axes) * base(x, y, **aside)
    return total


def _project(
    x: Tensor, y: Tensor, axis: int, temperature: float | None, weight: Tensor | None, mask: Tensor | None
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Forecast and truth without the axis, and the weight and mask that go with them."""
    shape, kept = x.shape, None
    if mask is not None:
        counted = mask.broadcast_to(shape).bool()
        kept = counted.any(axis)
        lowest = [torch.finfo(z.dtype).min if z.is_floating_point() else torch.iinfo(z.dtype).min for z in (x, y)]
        x, y = (z.masked_fill(~counted, low) for z, low in zip((x, y), lowest, strict=True))
    high = x.amax(axis) if temperature is None else (x * (x / temperature).softmax(axis)).sum(axis)
    peak = y.amax(axis)
    if kept is not None:
        high, peak = high.masked_fill(~kept, 0), peak.masked_fill(~kept, 0)
    area = None if weight is None else weight.broadcast_to(shape).mean(axis)
    return high, peak, _given(weight=area, mask=kept)


def _given(**factors: Tensor | None) -> dict[str, Tensor]:
    return {name: factor for name, factor in factors.items() if factor is not None}


@register(
    "projection",
    formula="base(x, y) + c mean over axes of base(max_axis x, max_axis y)",
    source="Radhakrishna et al. 2024, SPOCKMIP; official code",
    use="column-maximum reflectivity, daily maximum of wind or rain, together with the field itself",
    status="verified",
    takes="maps",
)
class ProjectionLoss(nn.Module):
    """`projection` with its settings fixed; `base` is a short name, a config such as {"name": "dice"}, or a loss."""

    def __init__(
        self,
        base: str | Mapping[str, Any] | Callable[..., Tensor] = "focal_tversky",
        axes: Sequence[int] = (-1,),
        coefficient: float = 1.0,
        temperature: float | None = None,
    ) -> None:
        super().__init__()
        made = {"name": base} if isinstance(base, str) else base
        self.base = build(made) if isinstance(made, Mapping) else made
        self.axes, self.coefficient, self.temperature = tuple(axes), coefficient, temperature

    def forward(
        self, forecast: Tensor, truth: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """The loss of a forecast and the truth, reduced as the base is."""
        return projection(
            forecast,
            truth,
            base=self.base,
            axes=self.axes,
            coefficient=self.coefficient,
            temperature=self.temperature,
            weight=weight,
            mask=mask,
        )
