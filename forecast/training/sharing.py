"""A forecaster whose members and points lie on several processes: each computes its part of the loss.

Members of a sample are divided over the ensemble axis, points, nodes and edges over the grid axis. A score sees all
members: processes of one ensemble exchange theirs, each for its share of the points (for a score of whole fields: its
share of the samples), so that nobody holds all of both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from forecast.core.errors import ForecastError
from forecast.data.batch import Batch
from forecast.models import noise as noises
from forecast.models.base import Given
from forecast.models.forecaster import Forecaster
from forecast.models.fuxi_forecaster import FuxiForecaster
from forecast.models.offers import Step
from forecast.training import exchange
from forecast.training.mesh import Axis, Mesh

POINTWISE = frozenset({
    "almost_fair_crps", "crps", "ensemble_brier", "ensemble_log_score", "fair_crps", "outcome_weighted_crps",
    "threshold_weighted_crps",
})  # fmt: skip
"""scores of each point by itself; all others are given whole fields"""


class Part:
    """What of a forecaster is computed here.

    Attributes:
        mesh: the processes. points: the grid points of each process of the grid axis. noise: of a member's normal
            numbers, those that are needed here, and the shape they get; None for all.
        members: of a sample, over all processes. weights: (G, V) of all points.
    """

    def __init__(self, mesh: Mesh, points: Sequence[slice], weights: Tensor) -> None:
        self.mesh, self.points, self.weights = mesh, points, weights
        self.noise: tuple[list[slice], tuple[int, ...]] | None = None
        self.members = 0

    @property
    def mine(self) -> slice:
        """The points here."""
        return self.points[self.mesh.grid.rank]

    @property
    def within(self) -> list[slice]:
        """Of the points here, which of them each process of the ensemble axis scores."""
        return self.mesh.ensemble.parts(self.mine.stop - self.mine.start)


class Shared(Forecaster):
    """A forecaster that computes a part; `of` makes one."""

    part: Part

    def training_loss(self, batch: Batch, members: int, noise_keys: Sequence[int]) -> dict[str, Tensor]:
        """As of every forecaster, for the part of it that is here; `members` are those of all processes."""
        self.part.members = members
        return super().training_loss(batch, members, noise_keys)

    def _members(self, members: int) -> Sequence[int]:
        return self._held(members)[self.part.mesh.ensemble.rank]

    def _held(self, members: int) -> list[list[int]]:
        """The members that each process of the ensemble axis computes."""
        return [list(range(part.start, part.stop)) for part in self.part.mesh.ensemble.parts(members)]

    def draw(self, keys: Sequence[int]) -> Tensor:
        """The normal numbers that are needed here."""
        if self.part.noise is None:
            return super().draw(keys)
        wanted, shape = self.part.noise
        return noises.draw(keys, shape, self.lower.device, wanted)

    def _score(self, members: Tensor, truth: Tensor) -> Tensor:
        return (self._of_points if self.loss.name in POINTWISE else self._of_fields)(members, truth)

    def _of_points(self, members: Tensor, truth: Tensor) -> Tensor:
        """(B, g, V) of all members at this process's share of the points."""
        axis, parts = self.part.mesh.ensemble, self.part.within
        mine = parts[axis.rank]
        everyone = self._everyone(members, 2, parts)
        return super()._score(everyone, truth[:, mine])

    def _everyone(self, members: Tensor, into: int, parts: Sequence[slice]) -> Tensor:
        """All members, in their order, for this process's part of another dimension."""
        held = self._held(self.part.members)
        found = exchange.share(self.part.mesh.ensemble, members, 1, [len(each) for each in held], into, parts)
        order = torch.tensor([member for each in held for member in each]).argsort()
        return found if order.equal(torch.arange(len(order))) else found.index_select(1, order.to(found.device))

    def _of_fields(self, members: Tensor, truth: Tensor) -> Tensor:
        """(1, G, V) of all members on all points, from this process's share of the samples: summed."""
        mesh, samples = self.part.mesh, len(truth)
        shares = Axis(size=mesh.ensemble.size * mesh.grid.size).parts(samples)
        rows = [shares[e * mesh.grid.size : (e + 1) * mesh.grid.size] for e in range(mesh.ensemble.size)]
        outer = [slice(row[0].start, row[-1].stop) for row in rows]
        begin, lengths = outer[mesh.ensemble.rank].start, _sizes(self.part.points)
        inner = [slice(s.start - begin, s.stop - begin) for s in rows[mesh.ensemble.rank]]
        everyone = exchange.share(mesh.grid, self._everyone(members, 0, outer), 2, lengths, 0, inner)
        truths = exchange.share(mesh.grid, truth[outer[mesh.ensemble.rank]], 1, lengths, 0, inner)
        if not len(everyone):
            return everyone.sum() + everyone.new_zeros(1, *truths.shape[1:])  # part of the gradient's exchanges
        return super()._score(everyone, truths).sum(dim=0, keepdim=True) / samples

    def _observe(
        self,
        given: Given,
        truth: Tensor,
        present: Tensor | None,
        batch: Batch,
        members: int,
        keys: Sequence[int],
        step: int,
    ) -> tuple[Step, dict[str, Tensor], dict[str, Tensor]]:
        seen, own, shown = super()._observe(given, truth, present, batch, members, keys, step)
        return seen, self._portions(own), self._portions(shown)

    def _portions(self, means: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Means over what is here, as what they are of the means over all processes."""
        return {name: mean * self._portion(name) for name, mean in means.items()}

    def _portion(self, name: str) -> float:
        return 1.0 / (self.part.mesh.ensemble.size * self.part.mesh.grid.size)

    def diagnose(self, batches: Iterable[Batch], members: int, seed: int) -> dict[str, dict[str, list[float | None]]]:
        """As of every forecaster, of all members; nothing where points are divided, since it takes whole fields."""
        if self.part.mesh.grid.size > 1:
            return {}
        mine, self.weights = self.weights, self.part.weights
        try:
            return super().diagnose(batches, members, seed)
        finally:
            self.weights = mine


class SharedFuxi(Shared, FuxiForecaster):
    """The same of the variational kind; each process has its share of the posterior's members and of the prior's."""

    area: float = 1.0

    def check_members(self, numbers: Iterable[int]) -> None:
        """As of every forecaster.

        Raises:
            ForecastError: fewer members of either kind than processes.
        """
        numbers, ensemble = list(numbers), self.part.mesh.ensemble.size
        super().check_members(numbers)
        for members in numbers:
            count = self.prior_members(members)
            least = min(kind for kind in (count, members - count) if kind)
            if least < ensemble:
                raise ForecastError(
                    f"training.mesh: ensemble {ensemble} is more than the {least} members that model.prior_share="
                    f"{self.section.prior_share:g} of {members} draws from one of prior and posterior: lower it"
                )

    def _held(self, members: int) -> list[list[int]]:
        count = FuxiForecaster._of_posterior(self, members)
        kinds = zip(*(self.part.mesh.ensemble.parts(n) for n in (count, members - count)), strict=True)
        return [[*range(q.start, q.stop), *range(count + p.start, count + p.stop)] for q, p in kinds]

    def _of_posterior(self, members: int) -> int:
        part = self.part.mesh.ensemble.part(super()._of_posterior(self.part.members))
        return part.stop - part.start

    def _portion(self, name: str) -> float:
        everyone = super()._of_posterior(self.part.members)
        if name != "kl":
            return super()._portion(name)
        return self.area * (self._of_posterior(0) / everyone if everyone else 1 / self.part.mesh.ensemble.size)


def apply(model: Forecaster, mesh: Mesh, points: Sequence[slice]) -> Part:
    """Make `model` compute its part, in place.

    Raises:
        ForecastError: further terms of the loss, which take whole ensembles on whole grids.
    """
    if model.loss.terms:
        name = next(iter(model.loss.terms))
        raise ForecastError(
            f"loss.terms.{name}: further terms take whole ensembles on whole grids, which a mesh with ensemble "
            f"{mesh.ensemble.size} x grid {mesh.grid.size} never puts together: use its data axis alone"
        )
    part = Part(mesh, points, model.weights)
    become(model, SharedFuxi if isinstance(model, FuxiForecaster) else Shared)
    model.part, model.points = part, part.mine.stop - part.mine.start  # type: ignore[assignment]
    if model.loss.name in POINTWISE:
        own = part.within[mesh.ensemble.rank]
        model.weights = model.weights[part.mine][own].clone()
        model.score.points = len(model.weights)
    return part


def become(module: nn.Module, kind: type) -> None:
    """Put the methods of `kind` before those of the module's own class."""
    own = type(module)
    module.__class__ = kind if issubclass(kind, own) else type(f"Shared{own.__name__}", (kind, own), {})


def rows(module: nn.Module, name: str, part: slice) -> None:
    """Let a module see these rows of its parameter `name` alone; the parameter, and its gradient, stay whole."""
    own = type(module)
    module.__class__ = type(own.__name__, (own,), {name: property(lambda self: self._parameters[name][part])})


def _sizes(parts: Sequence[slice]) -> list[int]:
    return [part.stop - part.start for part in parts]
