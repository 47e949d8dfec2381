"""Limits of predicted variables: of themselves, or as a fraction of another."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from forecast.core.errors import ForecastError
from forecast.core.model_sections import Bound
from forecast.models.fields import Fields
from forecast.models.normaliser import Normaliser


class Bounds(nn.Module):
    """Bounds of a config, applied in their order to normalised states.

    A fraction's column holds min(max(x, minimum), maximum) times the total, in the total's physical units, so that cp
    is never more than tp. With a leak the limits are soft in training: a slope remains beyond them.

    Args:
        bounds: of the config. fields: of the forecaster.

    Raises:
        ForecastError: a variable that is not predicted, or one that is a fraction of itself.
    """

    def __init__(self, bounds: Sequence[Bound], fields: Fields) -> None:
        super().__init__()
        names = {*(name for bound in bounds for name in bound.variables), *(b.of for b in bounds if b.of)}
        if not names <= set(fields.variables):
            unknown = min(names - set(fields.variables))
            raise ForecastError(f"model.bounds names `{unknown}`; predicted are {', '.join(fields.variables)}")
        for bound in bounds:
            if bound.of in bound.variables:
                raise ForecastError(f"model.bounds: `{bound.of}` cannot be a fraction of itself")
        self.bounds = tuple(bounds)
        self.each = nn.ModuleList(Normaliser(fields, (name,)) for name in (fields.variables if bounds else ()))
        self.columns = [[fields.variables.index(name) for name in bound.variables] for bound in bounds]
        self.totals = [fields.variables.index(bound.of) if bound.of else None for bound in bounds]

    def forward(self, state: Tensor) -> Tensor:
        """(..., V) -> (..., V), normalised."""
        for bound, columns, total in zip(self.bounds, self.columns, self.totals, strict=True):
            leak = bound.leak if self.training else 0.0
            low = -math.inf if bound.minimum is None else bound.minimum
            high = math.inf if bound.maximum is None else bound.maximum
            parts = list(state.unbind(-1))
            for v in columns:
                if total is None:
                    lowest, highest = (self._alone(v)(state.new_tensor([limit])) for limit in (low, high))
                    parts[v] = _limited(parts[v], lowest, highest, leak)
                else:
                    fraction = _limited(parts[v], state.new_tensor(low), state.new_tensor(high), leak)
                    whole = self._alone(total).inverse(parts[total][..., None])
                    parts[v] = self._alone(v)(fraction[..., None] * whole)[..., 0]
            state = torch.stack(parts, dim=-1)
        return state

    def _alone(self, v: int) -> Normaliser:
        """Of one variable, (..., 1)."""
        normaliser = self.each[v]
        assert isinstance(normaliser, Normaliser)
        return normaliser


def _limited(x: Tensor, low: Tensor, high: Tensor, leak: float = 0.0) -> Tensor:
    inside = torch.minimum(torch.maximum(x, low), high)
    return inside + leak * (x - inside) if leak else inside
