"""The forecaster of the AIFS-CRPS kind: a graph transformer that adds increments to the newest state."""

from __future__ import annotations

import torch
from torch import Tensor

from forecast.core.model_sections import GraphTransformerSection
from forecast.models import graph as graphs
from forecast.models.base import AUTOREGRESSIVE, FROM_ANALYSIS, Forecaster, Outcome, multiplies_in_half
from forecast.models.graph_transformer import GraphTransformer


class GraphForecaster(Forecaster):
    """x(t + step) = x(t) + f(x(t), x(t - step), forcings, noise) for prognostic variables, f alone for diagnostic ones.

    f is in units of each variable's tendency standard deviation. Variables with a physical minimum are kept above it.
    """

    section: GraphTransformerSection
    network: GraphTransformer

    def _make_network(self) -> GraphTransformer:
        graph = graphs.build(self.fields.latitudes, self.fields.longitudes, self.section)
        return GraphTransformer(self.section, graph, self.inputs, len(self.fields.variables))

    def _advance(
        self,
        past: list[Tensor],
        forcings: Tensor,
        from_analysis: Tensor,
        times: Tensor,
        noise: Tensor,
        truth: Tensor | None = None,
    ) -> Outcome:
        members = max(state.shape[1] for state in past)
        newest, p = past[-1], self.prognostic
        flag = torch.where(from_analysis, FROM_ANALYSIS, AUTOREGRESSIVE)[:, None, None, None]
        changes = [(late - early) / self.step_scale[:p] for early, late in zip(past[:-1], past[1:], strict=True)]
        inputs = [newest, *changes, forcings[:, None], flag.expand(-1, 1, newest.shape[2], 1)]
        x = torch.cat([part.expand(-1, members, -1, -1) for part in inputs], dim=-1)
        half = multiplies_in_half(self.precision, x.device)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=half):
            increment, features = self.network(x, noise)
        base = torch.cat([newest, self.mean[p:].expand(*newest.shape[:-1], -1)], dim=-1)
        state = torch.maximum(base + increment.float() * self.step_scale, self.lower)
        return Outcome(state, features, {})
