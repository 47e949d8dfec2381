"""Losses made of losses: behind a transform, at many scales, over lead times, where values are there, or as a sum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from forecast.core.grids import Grid
from forecast.losses.common import require, wide
from forecast.losses.registry import register
from forecast.losses.transforms import Smoothing, TimeAggregate, Transform


@register(
    "transformed",
    formula="base(T(x), T(y))",
    source="makani, GradientCRPSLoss and VortDivCRPSLoss; anemoi, GraphEdgeCRPSLoss",
    use="scores gradients, vorticity, differences along edges or waves of members with any ensemble score",
    status="derived",
    takes="ensemble",
)
class TransformedEnsembleLoss(nn.Module):
    """`base` on members and truth behind a transform: proper wherever the base score is.

    In a config: {"name": "transformed", "base": {"name": "almost_fair_crps"}, "transform": {"name": "gradient"}}.

    Args:
        base: a loss of (members, truth). transform: maps (..., G, V) to what is scored; T linear, such as a difference,
            makes the score blind to what T maps to zero.
    """

    def __init__(self, base: nn.Module, transform: Transform) -> None:
        super().__init__()
        self.base, self.transform = base, transform

    @wide
    def forward(
        self, members: Tensor, truth: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None, **kwargs: Any
    ) -> Tensor:
        """The base's loss; weight and mask are given for fields and carried through the transform.

        Raises:
            ForecastError: a mask with gaps where the transform mixes points.
        """
        return self.base(
            self.transform(members),
            self.transform(truth),
            **kwargs,
            **_given(
                weight=None if weight is None else self.transform.weight(weight),
                mask=None if mask is None else self.transform.mask(mask),
            ),
        )


def _given(**kwargs: Any) -> dict[str, Any]:
    return {name: value for name, value in kwargs.items() if value is not None}


class MultiscaleLoss(nn.Module):
    """`base` on each band of scales: sum_l f_l base(S_l x - S_{l-1} x, S_l y - S_{l-1} y), S_0 = 0.

    Args:
        base: a loss of (members, truth). smoothers: S_1, the coarsest, to the last, usually the identity.
        factors: f, one a level; equal ones that sum to 1 by default.

    Raises:
        ForecastError: no smoother, or another number of factors.
    """

    def __init__(self, base: nn.Module, smoothers: Sequence[Transform], factors: Sequence[float] | None = None) -> None:
        super().__init__()
        levels = len(smoothers)
        require(levels > 0, "smoothers", levels, "at least one is needed")
        self.base, self.smoothers = base, nn.ModuleList(smoothers)
        self.factors = tuple(factors) if factors is not None else (1 / levels,) * levels
        require(len(self.factors) == levels, "factors", self.factors, f"must be {levels}")

    @wide
    def forward(self, members: Tensor, truth: Tensor, **kwargs: Any) -> Tensor:
        """The weighted sum over levels; `kwargs` go to the base, masks with gaps only where nothing is smoothed."""
        coarser, parts = None, []
        for smoother, factor in zip(self.smoothers, self.factors, strict=True):
            if isinstance(smoother, Transform) and kwargs.get("mask") is not None:
                smoother.mask(kwargs["mask"])
            smooth = smoother(members), smoother(truth)
            band = smooth if coarser is None else (smooth[0] - coarser[0], smooth[1] - coarser[1])
            parts.append(factor * self.base(*band, **kwargs))
            coarser = smooth
        return torch.stack(parts).sum(0)


@register(
    "multiscale",
    formula="sum_l f_l base(S_l x - S_{l-1} x, S_l y - S_{l-1} y), S_l smoothing, coarse to fine, last the identity",
    source="Lang et al. 2025, arXiv 2506.10868; anemoi, MultiscaleLossWrapper",
    use="members that vary rightly at large scales and not by small-scale noise",
    status="verified",
    takes="ensemble",
)
def multiscale(
    base: nn.Module, grid: Grid, radii_km: Sequence[float], factors: Sequence[float] | None = None
) -> MultiscaleLoss:
    """A `MultiscaleLoss` with Gaussian smoothing of the grid.

    Args:
        radii_km: standard deviations, falling; 0 is the identity, and is added at the end if it is not there.

    Raises:
        ForecastError: radii that do not fall, or another number of factors than levels.
    """
    radii = [*radii_km] if len(radii_km) and radii_km[-1] == 0 else [*radii_km, 0.0]
    falling = all(wide > narrow for wide, narrow in zip(radii[:-1], radii[1:], strict=True))
    require(falling, "radii_km", tuple(radii_km), "must fall, from the coarsest to the finest")
    return MultiscaleLoss(base, [Smoothing(grid, radius_km=radius) for radius in radii], factors)


@register(
    "time_aggregate",
    formula="sum_k f_k base(R_k x, R_k y), R difference, mean, min or max over lead times",
    source="anemoi, TimeAggregateLossWrapper",
    use="steps that hang together: accumulations, daily extremes, tendencies",
    status="verified",
    takes="ensemble",
)
class TimeAggregateLoss(nn.Module):
    """`base` on reductions over lead times, added up; on one lead time, mean, min and max are the base itself.

    Args:
        base: a loss of (members, truth). kinds: of `TimeAggregate`. factors: one a kind, 1 by default.
        dim: of the lead times, from the end: (..., T, G, V).

    Raises:
        ForecastError: an unknown kind, or another number of factors.
    """

    def __init__(
        self,
        base: nn.Module,
        kinds: Sequence[str] = ("difference", "mean", "min", "max"),
        factors: Sequence[float] | None = None,
        dim: int = -3,
    ) -> None:
        super().__init__()
        self.factors = (1.0,) * len(kinds) if factors is None else tuple(factors)
        require(len(self.factors) == len(kinds) > 0, "factors", self.factors, f"must be {len(kinds)}, at least 1")
        self.parts = nn.ModuleList(TransformedEnsembleLoss(base, TimeAggregate(kind, dim=dim)) for kind in kinds)

    def forward(self, members: Tensor, truth: Tensor, **kwargs: Any) -> Tensor:
        """The weighted sum, of a base that reduces to one number; weight and mask are given for fields."""
        parts = (f * part(members, truth, **kwargs) for f, part in zip(self.factors, self.parts, strict=True))
        return torch.stack(list(parts)).sum(0)


@register(
    "masked",
    formula="base over elements where the mask is True and the truth is no NaN",
    source="derived",
    use="observations with gaps, variables that exist over land or sea only",
    status="derived",
    takes="other",
)
class MaskedLoss(nn.Module):
    """`base` with a mask: where `mask` is True, and with `nan`, where the truth is no NaN.

    What is masked is set to zero in both inputs, so that a NaN reaches neither the value nor the gradient.

    Args:
        base: a loss of (forecast, truth) that takes `mask`, or of (members, truth). mask: broadcastable to truth.
        nan: leave out NaN of the truth. ensemble_dim: of members, where they have one dimension more than truth.
    """

    def __init__(self, base: nn.Module, mask: Tensor | None = None, nan: bool = True, ensemble_dim: int = 1) -> None:
        super().__init__()
        self.base, self.nan, self.ensemble_dim = base, nan, ensemble_dim
        self.register_buffer("kept", mask, persistent=False)

    kept: Tensor | None

    def forward(self, forecast: Tensor, truth: Tensor, *, mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        """The base's loss over what counts."""
        counts = torch.ones_like(truth, dtype=torch.bool)
        for part in (self.kept, mask, ~truth.isnan() if self.nan else None):
            counts = counts if part is None else counts & part.bool()
        truth = torch.where(counts, truth, 0)
        each = counts.unsqueeze(self.ensemble_dim) if forecast.ndim > truth.ndim else counts
        return self.base(torch.where(each, forecast, 0), truth, mask=counts, **kwargs)


@register(
    "combined",
    formula="sum_k f_k L_k",
    source="derived",
    use="several scores at once, each part logged",
    status="derived",
    takes="other",
)
class CombinedLoss(nn.Module):
    """A weighted sum of losses of the same inputs, with its parts.

    In a config: {"name": "combined", "terms": {"points": {"name": "almost_fair_crps"}, "maps": {"name":
    "energy_score"}}, "factors": {"maps": 0.1}}.

    Args:
        terms: losses by name; they may be negative, and must reduce to one number. factors: by name; 1 for the rest.

    Raises:
        ForecastError: no term, or a factor of none.
    """

    def __init__(self, terms: Mapping[str, nn.Module], factors: Mapping[str, float] | None = None) -> None:
        super().__init__()
        require(len(terms) > 0, "terms", dict(terms), "at least one is needed")
        unknown = sorted(set(factors or {}) - set(terms))
        require(not unknown, "factors", unknown, f"must be among {', '.join(terms)}")
        self.terms = nn.ModuleDict(terms)
        self.factors = {name: float((factors or {}).get(name, 1.0)) for name in terms}

    def forward(self, *inputs: Any, **kwargs: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The total and, detached and without their factors, its parts."""
        values = {name: term(*inputs, **kwargs) for name, term in self.terms.items()}
        total = sum((self.factors[name] * value for name, value in values.items()), torch.zeros(()))
        return total, {name: value.detach() for name, value in values.items()}
