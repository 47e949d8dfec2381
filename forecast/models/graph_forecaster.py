"""The forecaster of the AIFS-CRPS kind: a graph transformer that adds increments to the newest state."""

from __future__ import annotations

import torch
from torch import Tensor

from forecast.core.grids import from_points
from forecast.core.model_sections import GraphTransformerSection
from forecast.core.sections import LossSection
from forecast.models import graph as graphs
from forecast.models.base import Forecaster, Outcome
from forecast.models.bounding import Bounds
from forecast.models.fields import Fields
from forecast.models.graph_transformer import GraphTransformer
from forecast.models.precision import multiplies_in_half
from forecast.models.residual import Truncation


class GraphForecaster(Forecaster):
    """x(t + step) = x_ref(t) + f(x(t), x(t - step), forcings, noise) for prognostic variables, f for diagnostic ones.

    x_ref is x, or x smoothed through a coarse grid. f is in units of each variable's standard deviation, of its
    tendency or of itself. Variables with a physical minimum, or bounds of the config, are kept within them.
    """

    section: GraphTransformerSection
    network: GraphTransformer
    unit: Tensor

    def __init__(self, section: GraphTransformerSection, fields: Fields, loss: LossSection) -> None:
        super().__init__(section, fields, loss)
        p = self.prognostic
        unit = self.step_scale if section.units == "tendency" else torch.ones(p)
        self.register_buffer("unit", torch.cat([unit[:p], self.step_scale[p:]]), persistent=False)
        grid = from_points(fields.latitudes, fields.longitudes) if section.residual else None
        self.truncation = Truncation(section.residual, grid) if section.residual and grid else None
        self.bounds = Bounds(section.bounds, fields)
        self.lower[[v for columns in self.bounds.columns for v in columns]] = -torch.inf

    def _make_network(self) -> GraphTransformer:
        graph = graphs.build(self.fields.latitudes, self.fields.longitudes, self.section)
        shown = self.prognostic if self.section.residual and self.section.residual.shown else 0
        return GraphTransformer(self.section, graph, self.inputs + shown, len(self.fields.variables))

    def _advance(
        self,
        past: list[Tensor],
        forcings: Tensor,
        from_analysis: Tensor,
        times: Tensor,
        noise: Tensor,
        truth: Tensor | None = None,
    ) -> Outcome:
        newest = past[-1]
        reference = newest if self.truncation is None else self.truncation(newest)
        x = self._read(past, reference, forcings, from_analysis)
        half = multiplies_in_half(self.precision, x.device)
        with torch.autocast(
            x.device.type, torch.bfloat16, enabled=half, cache_enabled=False
        ):  # else recomputing differs
            increment, features = self.network(x, noise)
        return Outcome(self.added(reference, increment), features, {})

    def added(self, reference: Tensor, increment: Tensor) -> Tensor:
        """(B, M, G, V) states from x_ref (B, M or 1, G, P) and what the network says (B, M, G, V)."""
        base = torch.cat([reference, self.mean[self.prognostic :].expand(*reference.shape[:-1], -1)], dim=-1)
        return torch.maximum(self.bounds(base + increment.float() * self.unit), self.lower)

    def _read(self, past: list[Tensor], reference: Tensor, forcings: Tensor, from_analysis: Tensor) -> Tensor:
        """(B, M or 1, G, inputs) what the network reads."""
        members = max(state.shape[1] for state in past)
        newest, first, later = past[-1], *self.section.step_flag
        flag = torch.where(from_analysis, first, later)[:, None, None, None].expand(-1, 1, newest.shape[2], 1)
        if self.section.units == "tendency":
            pairs = zip(past[:-1], past[1:], strict=True)
            earlier = [(late - early) / self.step_scale[: self.prognostic] for early, late in pairs]
        else:
            earlier = past[:-1]
        shown = [reference] if self.section.residual and self.section.residual.shown else []
        parts = [newest, *earlier, *shown, forcings[:, None], flag]
        return torch.cat([part.expand(-1, members, -1, -1) for part in parts], dim=-1)
