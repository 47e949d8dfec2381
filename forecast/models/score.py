"""The score that a config trains: any loss of an ensemble, per grid point and variable where it has points."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from forecast import losses
from forecast.core.grids import from_points
from forecast.core.sections import LossSection
from forecast.models.fields import Fields


class Score(nn.Module):
    """A loss of members and truth.

    Losses around others (`multiscale`, `transformed`) score almost fair CRPS unless they name another `base`.

    Raises:
        ForecastError: an unknown loss or option.
    """

    def __init__(self, loss: LossSection, fields: Fields) -> None:
        super().__init__()
        grid = from_points(fields.latitudes, fields.longitudes) if loss.name != "almost_fair_crps" else None
        context = {"grid": grid, "variables": fields.variables}
        self.loss = losses.build(_pointwise({"name": loss.name, **loss.options}, loss.alpha), **context)

    def forward(self, members: Tensor, truth: Tensor) -> Tensor:
        """(B, G, V) from members (B, M, G, V) and truth (B, G, V), normalised.

        A score of waves has no place: its mean over coefficients stands at every point. A lone member, which no fair
        score can rate, is given its absolute error.
        """
        if members.shape[1] == 1:
            return (members[:, 0] - truth).abs()
        score: Tensor = self.loss(members, truth)
        if score.shape[-2] == truth.shape[-2]:
            return score
        return score.mean(dim=-2, keepdim=True).expand(*truth.shape)


def _pointwise(spec: Mapping[str, Any], alpha: float) -> dict[str, Any]:
    """The spec with no reduction in its innermost loss; `alpha` goes where it is an option and not given."""
    if losses.registry.has_option(spec["name"], "base"):
        base = spec.get("base", {"name": "almost_fair_crps"})
        return {**spec, "base": _pointwise(base, alpha)}
    own = {"alpha": alpha} if losses.registry.has_option(spec["name"], "alpha") else {}
    return {"reduction": "none", **own, **spec}
