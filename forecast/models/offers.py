"""What a loss may ask of a training step: by the names of its parameters, each made when it is asked for.

An offer is a class for what a term is `of`; its public properties are the inputs that losses find there. What a loss
needs that the forecaster has not (prototypes, a critic, ...) is a companion: a small module that learns with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from forecast.core.errors import ForecastError
from forecast.core.grids import Grid
from forecast.core.sections import Term
from forecast.models.events import EventHead
from forecast.models.features import Features
from forecast.models.fields import Fields

ROWS = 2048
"""of more samples (points, mesh nodes) than this, a step gives a loss of rows so many at random"""

Pass = Callable[[list[Tensor], Tensor, Tensor], tuple[Tensor, Features]]


@dataclass(frozen=True)
class Step:
    """One step of a rollout, as the terms see it.

    Attributes:
        members: (B, M, G, V) states, normalised. truth: (B, G, V), normalised. score: (B, G, V) of the members.
        features: of the network that made the members.
        keys: (B,) keys of the samples, for losses that draw.
        past: T states (B, M or 1, G, P) that it started from. forcings: (B, G, F). noise: (B, M, N, C).
        run: another pass, from past, forcings and noise to members and features.
        places: (B,) where in the archive the samples begin, if that is known. dates: (B,) of the truth.
    """

    members: Tensor
    truth: Tensor
    score: Tensor
    features: Features
    keys: Sequence[int]
    past: list[Tensor]
    forcings: Tensor
    noise: Tensor
    run: Pass
    places: Tensor | None
    dates: np.ndarray


class Sizes(NamedTuple):
    """What companions are made for: the number of variables, widths of features, layers and heads of attention."""

    variables: int
    hidden: int
    latent: int
    layers: int
    heads: int


class Taught(NamedTuple):
    """A teacher's head for the term's event, if it has one, and its step from the same states."""

    head: EventHead | None
    step: Step


@dataclass(frozen=True)
class About:
    """A term and what surrounds it.

    Attributes:
        name, term, takes: of the loss. needed, optional: names of its parameters.
        fields, grid: of the forecaster. head: of the term's event.
    """

    name: str
    term: Term
    takes: str
    needed: tuple[str, ...]
    optional: tuple[str, ...]
    fields: Fields
    grid: Grid
    head: EventHead | None = None

    @property
    def event_head(self) -> EventHead:
        """The head of the term's event.

        Raises:
            ForecastError: the term has no event.
        """
        if self.head is None:
            raise ForecastError(f"loss.terms.{self.name}: `{self.term.loss}` of: {self.term.of} needs an `event`")
        return self.head

    def wants(self, *names: str) -> bool:
        """Whether the loss needs one of these inputs."""
        return bool(set(names) & set(self.needed))


class Offer:
    """Base of all offers.

    Args:
        steps: of the rollout, the newest last. about: the term. weights: (G, V) of the score, summing to 1.
        network: that made the members. companion: what learns with the term. teachers: their steps.
    """

    taught: ClassVar[frozenset[str]] = frozenset({"student", "teacher"})
    """what only a teacher makes sense of"""
    passes: ClassVar[frozenset[str]] = frozenset()
    """what takes another pass through the network"""

    def __init__(
        self,
        steps: Sequence[Step],
        about: About,
        weights: Tensor,
        network: nn.Module,
        companion: nn.Module | None,
        teachers: Sequence[Taught],
        generator: torch.Generator,
    ) -> None:
        self._steps, self._step, self._about = steps, steps[-1], about
        self._weights, self._network, self._companion, self._teachers = weights, network, companion, teachers
        self.generator = generator

    @classmethod
    def companion(cls, about: About, sizes: Sizes) -> nn.Module | None:
        """What has to learn with the term, or nothing."""
        return None

    @classmethod
    def context(cls, about: About, sizes: Sizes) -> dict[str, Any]:
        """Options of the loss that follow from the forecaster."""
        return {}

    @property
    def weight(self) -> Tensor | None:
        """(G, V) with a mean of 1."""
        return self._weights / self._weights.mean()

    @property
    def _learnt(self) -> Any:
        assert self._companion is not None
        return self._companion

    @property
    def _teacher(self) -> Taught:
        return self._teachers[0]

    def _uniform(self, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1)."""
        return torch.empty(shape, device=self._step.truth.device).uniform_(generator=self.generator)

    def _draw(self, total: int) -> Tensor:
        """Numbers of at most ROWS of `total` rows, the same at every call of a step."""
        device = self._step.truth.device
        if total <= ROWS:
            return torch.arange(total, device=device)
        if total not in self._drawn:
            self._drawn[total] = self._uniform(total).argsort()[:ROWS]
        return self._drawn[total]

    @cached_property
    def _drawn(self) -> dict[int, Tensor]:
        return {}

    def _rows(self, x: Tensor, dims: int = 2) -> Tensor:
        """Some of the rows that the first `dims` dimensions make."""
        flat = x.flatten(0, dims - 1)
        return flat[self._draw(len(flat))]

    @cached_property
    def _area(self) -> Tensor:
        """(B, G) weights of points with a mean of 1."""
        each = self._weights.sum(dim=1) * len(self._weights)
        return each.expand(len(self._step.truth), -1)

    def _index(self, points: int) -> Tensor:
        """(B, points) number of each point of each sample in the archive."""
        if self._step.places is None:
            raise ForecastError(f"loss.terms.{self._about.name}: `index` needs batches that know their place")
        return self._step.places[:, None] * points + torch.arange(points, device=self._step.places.device)

    @property
    def _forgotten(self) -> Tensor:
        """(B,) whether a sample lies in the term's period to forget."""
        period = self._about.term.forget
        if period is None:
            raise ForecastError(f"loss.terms.{self._about.name}: `{self._about.term.loss}` needs `forget`, a period")
        begin, end = (np.datetime64(date) for date in period)
        inside = (self._step.dates >= begin) & (self._step.dates <= end)
        return torch.from_numpy(inside).to(self._step.truth.device)


class OfWeights(Offer):
    """The network's matrices, and its mean output as a function of them."""

    passes = frozenset({"objective"})

    @property
    def weight(self) -> None:
        return None

    @property
    def weights(self) -> list[Tensor]:
        return [p for p in self._network.parameters() if p.ndim == 2]

    @cached_property
    def _copies(self) -> dict[str, Tensor]:
        """Parameters that may be moved while the step's own graph waits for its backward pass."""
        return {f"network.{name}": p.clone() for name, p in self._network.named_parameters()}

    @property
    def parameters(self) -> list[Tensor]:
        return list(self._copies.values())

    @property
    def objective(self) -> Callable[[], Tensor]:
        step, whole = self._step, Passing(self._network, self._step.run)
        past = [state.detach() for state in step.past]

        def mean_output() -> Tensor:
            members, _ = torch.func.functional_call(whole, self._copies, (past, step.forcings, step.noise))
            mean: Tensor = members.mean()
            return mean

        return mean_output


class Passing(nn.Module):
    """A pass as a module that holds the network, so that other weights can be put in its place."""

    def __init__(self, network: nn.Module, run: Pass) -> None:
        super().__init__()
        self.network, self.run = network, run

    def forward(self, past: list[Tensor], forcings: Tensor, noise: Tensor) -> tuple[Tensor, Features]:
        return self.run(past, forcings, noise)


def as_maps(values: Tensor, about: About) -> Tensor:
    """(..., H, W) from (..., G).

    Raises:
        ForecastError: a grid without rows and columns.
    """
    if not about.grid.is_regular:
        raise ForecastError(f"loss.terms.{about.name}: a loss of maps needs a grid of rows and columns")
    return values.unflatten(-1, about.grid.shape)


def coarse_cells(grid: Grid, across: int = 4) -> np.ndarray:
    """(G,) numbers of cells, each about `across` mean spacings wide and high: what a coarser analysis would tell."""
    side = across * np.degrees(np.sqrt(grid.areas.mean()))
    rows = np.floor(grid.latitudes / side)
    wide = np.maximum(np.round(360 * np.cos(np.radians((rows + 0.5) * side)).clip(0.01) / side), 1)
    columns = np.floor((grid.longitudes % 360) / 360 * wide)
    return np.unique(np.stack([rows, columns]), axis=1, return_inverse=True)[1].reshape(-1)
