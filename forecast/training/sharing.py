"""A forecaster whose members and points lie on several processes: each computes its part of the loss.

Members of a sample are divided over the ensemble axis, points, nodes and edges over the grid axis. A score sees all
members: processes of one ensemble exchange theirs, each for its share of the points (for a score of whole fields: its
share of the samples), so that nobody holds all of both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from forecast.core.errors import ForecastError
from forecast.data.batch import Batch
from forecast.models import noise as noises
from forecast.models.base import Given
from forecast.models.forecaster import Forecaster
from forecast.models.fuxi_forecaster import FuxiForecaster
from forecast.models.offers import Step
from forecast.training import whole
from forecast.training.mesh import Mesh
from forecast.training.shared_terms import Taught, WholeTerms
from forecast.training.whole import Samples

POINTWISE = frozenset({
    "almost_fair_crps", "crps", "ensemble_brier", "ensemble_log_score", "fair_crps", "outcome_weighted_crps",
    "threshold_weighted_crps",
})  # fmt: skip
"""scores of each point by itself; all others are given whole fields"""


class Part:
    """What of a forecaster is computed here.

    Attributes:
        mesh: the processes. points, nodes: of the grid, and of the mesh or patches, for each process of the grid axis.
        noise: of a member's normal numbers, those that are needed here, and the shape they get; None for all.
        members: of a sample, over all processes.
        terms: of the loss, where there are further ones. teach: makes a teacher of a term compute the same part.
    """

    def __init__(self, mesh: Mesh, points: Sequence[slice], nodes: Sequence[slice]) -> None:
        self.mesh, self.points, self.nodes = mesh, points, nodes
        self.terms: WholeTerms | None = None
        self.teach: Callable[[Forecaster], Any] = lambda teacher: None
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
    """A forecaster that computes a part; `apply` makes one.

    Attributes:
        whole_weights: (G, V) of all points.
    """

    part: Part
    whole_weights: Tensor

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
        everyone = whole.everyone(axis, members, self._held(self.part.members), 2, parts)
        return super()._score(everyone, truth[:, mine])

    def _of_fields(self, members: Tensor, truth: Tensor) -> Tensor:
        """(1, G, V) of all members on all points, from this process's share of the samples: summed."""
        samples = self._samples(len(truth))
        everyone, truths = samples.members(members), samples.fields(truth)
        if not samples.part:
            return everyone.sum() + everyone.new_zeros(1, *truths.shape[1:])  # part of the gradient's exchanges
        return super()._score(everyone, truths).mean(dim=0, keepdim=True) * samples.part

    def _samples(self, samples: int) -> Samples:
        part = self.part
        return Samples(part.mesh, part.points, part.nodes, self._held(part.members), samples)

    def _further(self, steps: Sequence[Step], teachers: Taught, last: bool) -> dict[str, Tensor]:
        if self.part.terms is None:
            return {}
        samples = self._samples(len(steps[-1].truth))
        return self.part.terms(self.terms, self.whole_weights, self.network, steps, teachers, last, samples)

    def _teachers(self) -> dict[str, list[Forecaster]]:
        """As of every forecaster; they compute the same part.

        Raises:
            ForecastError: a teacher that this mesh divides otherwise.
        """
        found = super()._teachers()
        for name, teacher in ((name, teacher) for name, teachers in found.items() for teacher in teachers):
            if not isinstance(teacher, Shared):
                self.part.teach(teacher)
            assert isinstance(teacher, Shared)
            teacher.part.members = self.part.members
            mine, theirs = ((of._held(4), of.part.points, of.part.nodes) for of in (self, teacher))
            if mine != theirs:
                raise ForecastError(
                    f"loss.terms.{name}: a mesh of {self.part.mesh} divides the teacher otherwise than the model: take "
                    "a teacher of the same kind on the same nodes, or use the data axis alone"
                )
        return found

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
        mine, self.weights = self.weights, self.whole_weights
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


def apply(model: Forecaster, mesh: Mesh, points: Sequence[slice], nodes: Sequence[slice]) -> Part:
    """Make `model` compute its part, in place.

    Args:
        points, nodes: of the grid, and of the mesh or patches, for each process of the grid axis.
    """
    part = Part(mesh, points, nodes)
    become(model, SharedFuxi if isinstance(model, FuxiForecaster) else Shared)
    model.register_buffer("whole_weights", model.weights, persistent=False)
    model.part, model.points = part, part.mine.stop - part.mine.start  # type: ignore[assignment]
    if model.loss.name in POINTWISE:
        own = part.within[mesh.ensemble.rank]
        model.weights = model.weights[part.mine][own].clone()
    return part


def become(module: nn.Module, kind: type) -> None:
    """Put the methods of `kind` before those of the module's own class."""
    own = type(module)
    module.__class__ = kind if issubclass(kind, own) else type(f"Shared{own.__name__}", (kind, own), {})


def rows(module: nn.Module, name: str, part: slice) -> None:
    """Let a module see these rows of its parameter `name` alone; the parameter, and its gradient, stay whole."""
    own = type(module)
    module.__class__ = type(own.__name__, (own,), {name: property(lambda self: self._parameters[name][part])})
