"""What a run's configuration may say about training techniques that choose, change or add samples."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from forecast.core.technique_section import STEPS, TechniqueSection


class DateSelection(TechniqueSection):
    """Only the most useful dates of the training period, chosen by two trained forecasters."""

    name: Literal["date_selection"] = "date_selection"
    prior: str = Field(description="checkpoint of a forecaster of the whole archive")
    conditional: str = Field(description="checkpoint of the same after some training on what is aimed at")
    keep: float = Field(0.25, gt=0, le=1, description="share of the windows")
    excludes: ClassVar[frozenset[str]] = frozenset({"cluster_batches"})
    mesh: ClassVar[frozenset[str]] = frozenset({"data", "ensemble"})
    sharded: ClassVar[bool] = True


class ClusterBatches(TechniqueSection):
    """Batches of unlike weather: no two samples of one cluster, as far as that goes."""

    name: Literal["cluster_batches"] = "cluster_batches"
    clusters: int = Field(8, ge=1, description="1: the plain order")
    across: int = Field(4, ge=1, description="states are told by means over regions so many points wide and high")
    mesh: ClassVar[frozenset[str]] = frozenset({"data", "ensemble"})
    sharded: ClassVar[bool] = True


class Coreset(TechniqueSection):
    """A few dates that stand for the training period: their losses have nearly the mean of all."""

    name: Literal["coreset"] = "coreset"
    queries: tuple[str, ...] = Field(min_length=1, description="checkpoints whose losses are to be kept, e.g. of a run")
    keep: float = Field(0.25, gt=0, le=1, description="share of the windows")
    rule: Literal["median_of_means", "herding"] = Field(
        "median_of_means", description="the best of random sets; or one window after another, each the best to add"
    )
    sets: int = Field(100, ge=1, description="of median_of_means: random sets that are tried")
    excludes: ClassVar[frozenset[str]] = frozenset({"cluster_batches"})
    mesh: ClassVar[frozenset[str]] = frozenset({"data", "ensemble"})
    sharded: ClassVar[bool] = True


class Condensation(TechniqueSection):
    """A few samples are changed until they pull a network's weights as the archive does; or trained on."""

    name: Literal["condensation"] = "condensation"
    samples: int = Field(8, ge=1, description="they begin as windows, evenly chosen")
    rate: float = Field(1e-3, ge=0, description="rms of a change, in standard deviations of variables; it falls to 0")
    momentum: float = Field(0.5, ge=0, lt=1)
    fresh_every: int = Field(10, ge=1, description="updates after which the network begins again with new weights")
    difference: float = Field(1e-3, gt=0, description="by which weights are moved, of their size, to see slopes change")
    of: str | None = Field(None, description="checkpoint that holds condensed samples: train on them, leave them")
    excludes: ClassVar[frozenset[str]] = STEPS | {"local_learning", "sam", "gradient_noise", "archive_bandit"}
    mesh: ClassVar[frozenset[str]] = frozenset()
    in_pieces: ClassVar[bool] = False


class RobustSelfTraining(TechniqueSection):
    """Training at the worst states nearby, on the archive's pairs and on own forecasts from states without truths."""

    name: Literal["robust_self_training"] = "robust_self_training"
    archives: tuple[str, ...] = Field((), description="stores of states whose next ones are not to be learnt")
    strength: float = Field(0.001, ge=0, description="weight of the states without truths")
    cost: float | None = Field(5.0, gt=0, description="of moving a state by a standard deviation; null: it stays")
    cost_unlabelled: float | None = Field(5.0, gt=0, description="the same of states without truths")
    steps: int = Field(1, ge=1, description="towards the worst state; published: 10")
    excludes: ClassVar[frozenset[str]] = frozenset({"zeroth_order", "local_learning", "archive_bandit", "condensation"})
    mesh: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="after")
    def _has_states(self) -> RobustSelfTraining:
        if self.cost is None and self.strength and not self.archives:
            raise ValueError("`robust_self_training` does nothing: give it `archives`, or a `cost`")
        return self


class ArchiveBandit(TechniqueSection):
    """Gradients of auxiliary archives, mixed in by how well they agree with that of the run's own."""

    name: Literal["archive_bandit"] = "archive_bandit"
    archives: tuple[str, ...] = Field(min_length=1, description="stores, under the run's root unless absolute")
    policy: Literal["exp3", "ucb1"] = "ucb1"
    beta: float = Field(1.0, ge=0, description="weight of the auxiliary gradient")
    excludes: ClassVar[frozenset[str]] = frozenset({"zeroth_order", "local_learning", "reweighting", "hard_regions"})
    mesh: ClassVar[frozenset[str]] = frozenset()
