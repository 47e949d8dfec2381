"""Whether the latent of a variational forecaster lives: what validation reports of prior and posterior."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from forecast.models.fields import Fields
from forecast.models.latent import Gaussian, marginal_kl

ACTIVE = 0.01
"""nats of KL above which a latent dimension counts as active"""

Report = dict[str, dict[str, list[float | None]]]


class Summary:
    """Means over starts.

    `report` gives, each as kind -> name -> values:
        latent: kl (nats per dimension, area mean), active (share of dimensions, point by point and channel by channel,
            whose mean KL is above 0.01 nats), abs_mean_prior, abs_logvar_prior, abs_mean_posterior,
            abs_logvar_posterior.
        kl: per prognostic variable, for each input state, newest first, nats per dimension.
        crps_prior, crps_posterior: per variable, fair CRPS of the first step in normalised units, members drawn from P
            and from Q.

    Args:
        areas: (P,) of the latent's points. points: (G,) weights of the grid's points.
    """

    def __init__(self, fields: Fields, areas: Tensor, points: Tensor) -> None:
        self.fields, self.areas, self.points = fields, areas / areas.sum(), points / points.sum()
        self.count, self.kl = 0, torch.zeros(())
        self.means: dict[str, Tensor] = {}

    def add(self, p: Gaussian, q: Gaussian | None, scores: dict[str, Tensor]) -> None:
        """Take in a start's distributions and its scores (B, G, V) of members drawn from each."""
        self.count += 1
        for name, of in (("prior", p), ("posterior", q)):
            if of is not None:
                self._take(f"abs_mean_{name}", self._area_mean(of.mean.abs()).mean())
                self._take(f"abs_logvar_{name}", self._area_mean(of.variance.log().abs()).mean())
        for name, score in scores.items():
            self._take(f"crps_{name}", torch.einsum("bgv,g->v", score, self.points) / len(score))
        if q is not None:
            self.kl = self.kl.to(self.areas.device) + marginal_kl(q, p).mean(dim=(0, 1))

    def report(self) -> Report:
        """All of it; values that are not finite are None."""
        out: Report = {"latent": {}}
        for name, total in self.means.items():
            mean = total / self.count
            if name.startswith("crps"):
                out[name] = {v: [_plain(x)] for v, x in zip(self.fields.variables, mean.tolist(), strict=True)}
            else:
                out["latent"][name] = [_plain(mean.item())]
        return out | self._of_kl(out["latent"]) if self.kl.ndim else out

    def _of_kl(self, latent: dict[str, list[float | None]]) -> Report:
        kl = self.kl / self.count
        channels = self._area_mean(kl)
        latent["kl"] = [_plain(channels.mean().item())]
        latent["active"] = [_plain((kl > ACTIVE).float().mean().item())]
        by_state = channels.unflatten(0, (-1, len(self.fields.prognostic))).flip(0)
        return {
            "kl": {name: [_plain(x) for x in by_state[:, i].tolist()] for i, name in enumerate(self.fields.prognostic)}
        }

    def _area_mean(self, x: Tensor) -> Tensor:
        """(K,) from (..., P, K)."""
        return torch.einsum("...pk,p->...k", x, self.areas).flatten(0, -2).mean(dim=0) if x.ndim > 2 else self.areas @ x

    def _take(self, name: str, value: Tensor) -> None:
        self.means[name] = self.means.get(name, 0) + value


def _plain(x: float) -> float | None:
    return x if math.isfinite(x) else None
