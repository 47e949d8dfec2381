"""The networks of a FuXi-ENS forecaster: prior, posterior and decoder (Zhong et al. 2025, and the released weights)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from forecast.core.errors import ForecastError
from forecast.core.grids import Grid, from_points
from forecast.core.model_sections import FuxiEnsSection
from forecast.core.variables import level_of
from forecast.models.features import Features, Network
from forecast.models.fields import Fields
from forecast.models.fuxi_blocks import Backbone, Geometry, PatchHead
from forecast.models.latent import BOUND, Gaussian

DISTRIBUTION_MASKS = 2
"""dropouts within prior and posterior: after the embedding and after the first layer"""


class Distribution(nn.Module):
    """States -> the normal distribution of what is added to the input states.

    As in the released network mean and variance are made for every channel; those of accumulated variables, which are
    zero in the input, are not used.

    Args:
        states: how many it sees: the input states, and for the posterior the one to be forecast.
    """

    def __init__(self, section: FuxiEnsSection, fields: Fields, geometry: Geometry, states: int) -> None:
        super().__init__()
        latent, variables = section.latent, len(fields.variables)
        self.inputs, self.variables, self.prognostic = fields.input_steps, variables, len(fields.prognostic)
        self.backbone = Backbone(
            section, geometry, states * variables, len(fields.forcings) + len(fields.static), section.prior_layers
        )
        channels = fields.input_steps * variables
        self.head_mean = PatchHead(section.width, channels, geometry, latent.coarsening)
        self.head_logvar = PatchHead(section.width, channels, geometry, latent.coarsening)
        self.rank = latent.rank
        if latent.rank:
            self.head_patterns = PatchHead(section.width, latent.rank * channels, geometry, latent.coarsening)
            self.head_patterns.start()
        self.head_mean.start()
        self.head_logvar.start(latent.logvar)

    def forward(self, states: Tensor, forcings: Tensor, times: Tensor, masks: Tensor | None) -> Gaussian:
        """From states (B, M or 1, G, states * V), forcings (B, G, F), times (B, 3), masks (2, B, M, N, D) if any."""
        samples, members = states.shape[:2]
        factors = None if masks is None else tuple(masks.flatten(1, 2).unbind(0))
        tokens = self.backbone(states.flatten(0, 1), forcings, times, factors)
        mean, logvar = (
            self._prognostic(head(tokens).float()).unflatten(0, (samples, members))
            for head in (self.head_mean, self.head_logvar)
        )
        patterns = None
        if self.rank:
            every = self.head_patterns(tokens).float().unflatten(-1, (self.rank, -1)).movedim(2, 1)
            patterns = self._prognostic(every).unflatten(0, (samples, members))
        return Gaussian(mean, logvar.clamp(-BOUND, BOUND), patterns)

    def _prognostic(self, x: Tensor) -> Tensor:
        """(..., T * P) from (..., T * V)."""
        return x.unflatten(-1, (self.inputs, self.variables))[..., : self.prognostic].flatten(-2)


class Decoder(nn.Module):
    """Perturbed input states -> the next state, pressure levels and the rest from a head each."""

    def __init__(self, section: FuxiEnsSection, fields: Fields, geometry: Geometry, features: bool) -> None:
        super().__init__()
        variables = fields.variables
        channels, forcings = fields.input_steps * len(variables), len(fields.forcings) + len(fields.static)
        self.backbone = Backbone(section, geometry, channels, forcings, section.decoder_layers)
        upper = [v for v, name in enumerate(variables) if level_of(name) is not None]
        surface = [v for v in range(len(variables)) if v not in upper]
        self.head_levels = PatchHead(section.width, len(upper), geometry) if upper else None
        self.head_surface = PatchHead(section.width, len(surface), geometry) if surface else None
        self.head_features = PatchHead(section.width, section.event_width, geometry) if features else None
        self.order = np.argsort([*upper, *surface]).tolist()
        if section.output == "increment":
            for head in filter(None, (self.head_levels, self.head_surface)):
                head.start()

    def forward(self, states: Tensor, forcings: Tensor, times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(R, G, V), features (R, G, D or 0), tokens (R, N, D); from (R, G, T * V), (B, G, F), (B, 3)."""
        tokens = self.backbone(states, forcings, times)
        heads = [head(tokens).float() for head in (self.head_levels, self.head_surface) if head is not None]
        hidden = heads[0].new_empty(*heads[0].shape[:2], 0)
        if self.head_features is not None:
            hidden = functional.gelu(self.head_features(tokens).float())
        return torch.cat(heads, dim=-1)[..., self.order], hidden, tokens


class VariationalNetwork(Network):
    """Prior, posterior and decoder, and the latent grid between them.

    Attributes:
        prior: None where it is white noise. posterior: None where no loss asks for it.
        noise_shape: (n, 1) normal numbers: latent fields, weights of patterns, then dropout.
    """

    areas: Tensor

    def __init__(self, section: FuxiEnsSection, fields: Fields, features: bool) -> None:
        super().__init__()
        grid = regular(fields)
        self.geometry = Geometry.of(section, (grid.shape[0], grid.shape[1]), wraps(grid), grid.xyz)
        self.section, self.channels = section, fields.input_steps * len(fields.prognostic)
        self.hidden_width, self.latent_width = section.event_width, section.width
        learnt = section.latent.prior == "learnt"
        trained = section.prior_share < 1 or section.divergence.beta > 0
        inputs = fields.input_steps
        self.prior = Distribution(section, fields, self.geometry, inputs) if learnt else None
        self.posterior = Distribution(section, fields, self.geometry, inputs + 1) if trained else None
        self.decoder = Decoder(section, fields, self.geometry, features)
        self.latent_shape = self._latent_shape()
        self.register_buffer("areas", self._areas(fields), persistent=False)
        size = self.latent_shape[0] * self.latent_shape[1] * self.channels + section.latent.rank
        self.noise_shape = (size + self._mask_size(), 1)

    def _latent_shape(self) -> tuple[int, int]:
        n, covered = self.section.latent.coarsening, self.geometry.covered
        if n == 1:
            return self.geometry.grid
        return covered[0] * self.geometry.patch[0] // n, covered[1] * self.geometry.patch[1] // n

    def _areas(self, fields: Fields) -> Tensor:
        """(P,) weights of the latent's points: areas of the grid that they stand for."""
        n, (rows, columns) = self.section.latent.coarsening, self.latent_shape
        areas = np.zeros((rows * n, columns * n))
        shape = self.geometry.grid
        areas[: shape[0], : shape[1]] = np.asarray(fields.areas).reshape(shape)
        return torch.tensor(areas.reshape(rows, n, columns, n).sum(axis=(1, 3)).ravel(), dtype=torch.float32)

    def _mask_size(self) -> int:
        tokens = self.geometry.tokens[0] * self.geometry.tokens[1]
        return DISTRIBUTION_MASKS * tokens * self.section.width if self.section.dropout else 0

    def distribution(
        self, net: Distribution | None, states: Tensor, forcings: Tensor, times: Tensor, noise: Tensor
    ) -> Gaussian:
        """What `net` says of states (B, M or 1, G, C); noise (B, M, n) decides the dropout. Without a net: N(0, 1)."""
        if net is None:
            points = self.latent_shape[0] * self.latent_shape[1]
            return Gaussian.white(states.new_empty(len(states), 1, points, self.channels))
        masks = None
        if self.section.dropout:
            members = noise.shape[1]
            states = states.expand(-1, members, -1, -1)
            masks = self._masks(noise[..., noise.shape[-1] - self._mask_size() :])
        return net(states, forcings, times, masks)

    def _masks(self, noise: Tensor) -> Tensor:
        """(2, B, M, N, D) factors: 0 with the probability of dropout, else what keeps the mean."""
        p = self.section.dropout
        bound = torch.special.ndtri(torch.tensor(p, dtype=torch.float64)).item()
        kept = (noise > bound).float() / (1 - p)
        return kept.unflatten(-1, (DISTRIBUTION_MASKS, -1, self.section.width)).movedim(2, 0)

    def spread_out(self, drawn: Tensor) -> Tensor:
        """(B, M, G, K) on the grid from (B, M, P, K) on the latent grid."""
        n, shape = self.section.latent.coarsening, self.geometry.grid
        if n == 1:
            return drawn
        x = drawn.flatten(0, 1).unflatten(1, self.latent_shape).movedim(-1, 1)
        x = torch.cat([x[..., -1:], x, x[..., :1]], dim=-1)  # round the globe
        size = (self.latent_shape[0] * n, (self.latent_shape[1] + 2) * n)
        fine = functional.interpolate(x, size=size, mode="bilinear", align_corners=False)
        return fine[..., : shape[0], n : n + shape[1]].flatten(2).transpose(1, 2).unflatten(0, drawn.shape[:2])

    def decode(self, states: Tensor, forcings: Tensor, times: Tensor) -> tuple[Tensor, Features]:
        """(B, M, G, V) and features from states (B, M, G, T * V)."""
        parts = self.decoder(states.flatten(0, 1), forcings, times)
        out, hidden, tokens = (part.unflatten(0, states.shape[:2]) for part in parts)
        return out, Features(hidden, tokens)


def regular(fields: Fields) -> Grid:
    """The grid of rows and columns that the fields lie on.

    Raises:
        ForecastError: another grid.
    """
    grid = from_points(fields.latitudes, fields.longitudes)
    if not grid.is_regular:
        raise ForecastError(
            f"model.kind=fuxi_ens cuts a grid of rows and columns into patches, and {grid.name} is none: "
            "regrid to latitude-longitude, or use model.kind=graph_transformer"
        )
    return grid


def wraps(grid: Grid) -> bool:
    """Whether the last column is next to the first."""
    step = (np.diff(grid.columns[:2])[0] + 180.0) % 360.0 - 180.0
    return bool(abs(abs(step) * grid.shape[1] - 360.0) < 0.36)
