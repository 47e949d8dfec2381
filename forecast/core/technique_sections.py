"""What a run's configuration may say about training techniques: a section for each (docs/techniques.md)."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from forecast.core.data_technique_sections import (
    ArchiveBandit,
    ClusterBatches,
    Condensation,
    Coreset,
    DateSelection,
    RobustSelfTraining,
)
from forecast.core.section import Time
from forecast.core.technique_section import STEPS, TechniqueSection


class GradientNoise(TechniqueSection):
    """Annealed Gaussian noise on every gradient."""

    name: Literal["gradient_noise"] = "gradient_noise"
    eta: float = Field(0.01, ge=0, description="variance at the first update; published: 0.01, 0.3 or 1")
    gamma: float = Field(0.55, ge=0, description="the variance falls as (1 + update)^-gamma")
    excludes: ClassVar[frozenset[str]] = frozenset({"zeroth_order"})


class SharpnessAware(TechniqueSection):
    """Gradients taken at the worst place nearby, for each group of variables."""

    name: Literal["sam"] = "sam"
    rho: float = Field(0.05, ge=0, description="distance, L2 over all weights")
    groups: tuple[tuple[str, ...], ...] = Field(
        (),
        description="groups of variables, by name or short name, each with its own worst place; all together if none",
    )
    excludes: ClassVar[frozenset[str]] = frozenset({"zeroth_order"})


class AdaHessian(TechniqueSection):
    """Steps divided by a running estimate of the Hessian's diagonal, in the optimiser's place."""

    name: Literal["adahessian"] = "adahessian"
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(1e-4, gt=0)
    power: float = Field(1.0, ge=0, le=1, description="of the Hessian")
    weight_decay: float = Field(0.0, ge=0)
    difference: float = Field(1e-3, gt=0, description="by which each weight is moved to see its slope change")
    excludes: ClassVar[frozenset[str]] = STEPS


class NormalisedDescent(TechniqueSection):
    """Steps of one length, the learning rate, down the gradient, in the optimiser's place."""

    name: Literal["normalised_descent"] = "normalised_descent"
    excludes: ClassVar[frozenset[str]] = STEPS


class ZerothOrder(TechniqueSection):
    """Fine-tuning without gradients: two forward passes, of which one byte is exchanged."""

    name: Literal["zeroth_order"] = "zeroth_order"
    difference: float = Field(1e-3, gt=0, description="distance of the two passes, in standard deviations of the noise")
    directions: int = Field(1, ge=1, description="directions tried per update, each by two passes")
    excludes: ClassVar[frozenset[str]] = STEPS | {"sam", "gradient_noise", "local_learning"}
    mesh: ClassVar[frozenset[str]] = frozenset({"data"})


class LocalLearning(TechniqueSection):
    """The processor in blocks, each trained by a loss of its own, with no gradient from one to another."""

    name: Literal["local_learning"] = "local_learning"
    blocks: int = Field(2, ge=1, description="the processor's layers, evenly divided")
    auxiliary: Literal["momentum", "augmented"] = Field(
        "momentum", description="what follows a block on the way to its loss: averaged next layers, or its own ones"
    )
    layers: int = Field(1, ge=0, description="auxiliary layers of each block")
    decay: float = Field(0.999, ge=0, lt=1, description="of the averages of the next block's weights")
    excludes: ClassVar[frozenset[str]] = frozenset({"zeroth_order", "sam", "adahessian"})
    mesh: ClassVar[frozenset[str]] = frozenset()
    in_pieces: ClassVar[bool] = False


class Population(TechniqueSection):
    """One of several runs that copy each other's weights and vary what is named (`forecast population`)."""

    name: Literal["population"] = "population"
    runs: int = Field(4, ge=2)
    run: int = Field(0, ge=0, description="which of them this is; set by `forecast population`")
    every: int = Field(200, ge=1, description="updates between exchanges")
    share: float = Field(0.2, gt=0, le=0.5, description="of the runs that are given up for one of the best as many")
    vary: tuple[str, ...] = Field(("lr",), description="lr, alpha, beta, or terms.<name> for the weight of a term")
    factors: tuple[float, float] = Field((0.8, 1.2), description="one of which a copied value is multiplied with")
    spread: float = Field(2.0, ge=1, description="first values lie within this factor of the config's")
    mesh: ClassVar[frozenset[str]] = frozenset()
    sharded: ClassVar[bool] = True


class Reweighting(TechniqueSection):
    """Samples of an update weighted by their losses."""

    name: Literal["reweighting"] = "reweighting"
    strategy: Literal["linear_upper", "quadratic", "extremes"] = Field(
        "linear_upper", description="easy samples weigh less; easy and hardest less; easy and hardest more"
    )
    delta: float = Field(1.0, gt=0)
    temperature: float = Field(1.0, gt=0, allow_inf_nan=False, description="as it grows the weights become equal")
    mesh: ClassVar[frozenset[str]] = frozenset()
    in_pieces: ClassVar[bool] = False


class MultiSampleDropout(TechniqueSection):
    """The mean loss over several dropout masks of the features that the decoder's head reads."""

    name: Literal["multi_sample_dropout"] = "multi_sample_dropout"
    masks: int = Field(8, ge=1)
    rate: float = Field(1e-3, ge=0, lt=1, description="share of features dropped")
    excludes: ClassVar[frozenset[str]] = frozenset({"generations"})
    mesh: ClassVar[frozenset[str]] = frozenset({"data"})
    sharded: ClassVar[bool] = True


class InstanceNoise(TechniqueSection):
    """Noise on the states of all windows that falls to none."""

    name: Literal["instance_noise"] = "instance_noise"
    sigma: float = Field(0.1, ge=0, description="at first, in standard deviations of each variable")
    until: float = Field(0.5, gt=0, le=1, description="share of the updates over which it falls to zero")
    mesh: ClassVar[frozenset[str]] = frozenset({"data", "ensemble"})
    sharded: ClassVar[bool] = True


class HardRegions(TechniqueSection):
    """Regions that have become easy are left out of the score."""

    name: Literal["hard_regions"] = "hard_regions"
    ratio: float = Field(0.5, ge=0, lt=1, description="share of the area left out at the end, from 0 at first")
    across: int = Field(4, ge=1, description="regions are so many grid points wide and high")
    decay: float = Field(0.99, ge=0, lt=1, description="of each region's average score")
    mesh: ClassVar[frozenset[str]] = frozenset({"data"})
    sharded: ClassVar[bool] = True


class Generations(TechniqueSection):
    """Self-distillation: what the forecaster was some updates ago teaches it."""

    name: Literal["generations"] = "generations"
    alpha: float = Field(0.5, ge=0, le=1, description="weight of the truth; 1: plain training")
    every: int = Field(500, ge=1, description="updates of a generation; the first has no teacher")
    mesh: ClassVar[frozenset[str]] = frozenset({"data"})


class Adaptation(TechniqueSection):
    """Fine-tuning on a new analysis version that does not forget the old."""

    name: Literal["adaptation"] = "adaptation"
    sources: tuple[str, ...] = Field(
        min_length=1, description="checkpoints of the run that is adapted, of equal kind; their mean is the prior's"
    )
    strength: float = Field(1e-8, ge=0, description="of the prior of the weights")
    variance: float = Field(1.0, gt=0, description="of the prior, where there is one source")
    statistics: float = Field(
        0.9, ge=0, le=1, description="share of the first source's means and variances that states are normalised by"
    )
    restore: float = Field(0.03, ge=0, le=1, description="share of weights, of least Fisher information, put back")
    excludes: ClassVar[frozenset[str]] = STEPS


class Unlearning(TechniqueSection):
    """Taking back what was learnt from a bad period."""

    name: Literal["unlearning"] = "unlearning"
    forget: tuple[Time, Time] = Field(description="first and last date; a window with a truth between is forgotten")
    method: Literal["blindspot", "saliency"] = Field(
        "blindspot",
        description="a proxy that never saw the period teaches; or wrong truths for the weights that matter",
    )
    proxy: str | None = Field(None, description="of blindspot: checkpoint of a forecaster of the other dates")
    share: float = Field(0.5, gt=0, le=1, description="of saliency: share of the weights that may change")
    often: int = Field(1, ge=1, description="windows of the period come so many times an epoch")
    samples: int = Field(16, ge=1, description="of saliency: windows of the period that tell which")
    excludes: ClassVar[frozenset[str]] = STEPS | {
        "generations",
        "multi_sample_dropout",
        "date_selection",
        "coreset",
        "condensation",
    }
    mesh: ClassVar[frozenset[str]] = frozenset({"data"})

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> Unlearning:
        if (self.method == "blindspot") != (self.proxy is not None):
            raise ValueError("`proxy` goes with `method: blindspot`, which needs it")
        return self


class Only(TechniqueSection):
    """Training of a part of the weights."""

    name: Literal["only"] = "only"
    weights: tuple[str, ...] = Field(("terms.",), min_length=1, description="beginnings of their names; terms.: heads")
    excludes: ClassVar[frozenset[str]] = STEPS - {"normalised_descent"}


_SECTIONS: tuple[type[TechniqueSection], ...] = (
    GradientNoise,
    SharpnessAware,
    AdaHessian,
    NormalisedDescent,
    ZerothOrder,
    LocalLearning,
    Population,
    Reweighting,
    MultiSampleDropout,
    InstanceNoise,
    HardRegions,
    DateSelection,
    Coreset,
    ClusterBatches,
    ArchiveBandit,
    RobustSelfTraining,
    Condensation,
    Generations,
    Adaptation,
    Unlearning,
    Only,
)
NAMES: tuple[str, ...] = tuple(section.model_fields["name"].default for section in _SECTIONS)


def _known(value: Any) -> Any:
    """A technique by its name alone, or its section.

    Raises:
        ValueError: no such technique; names the nearest known one.
    """
    value = {"name": value} if isinstance(value, str) else value
    if isinstance(value, dict) and value.get("name") not in NAMES:
        near = difflib.get_close_matches(str(value.get("name", "")), NAMES, n=1, cutoff=0.0)
        raise ValueError(
            f"unknown technique `{value.get('name', '')}`" + (f", did you mean `{near[0]}`?" if near else "")
        )
    return value


def _name(section: Any) -> str:
    return str(section["name"] if isinstance(section, dict) else section.name)


AnyTechnique = Annotated[
    Annotated[GradientNoise, Tag("gradient_noise")]
    | Annotated[SharpnessAware, Tag("sam")]
    | Annotated[AdaHessian, Tag("adahessian")]
    | Annotated[NormalisedDescent, Tag("normalised_descent")]
    | Annotated[ZerothOrder, Tag("zeroth_order")]
    | Annotated[LocalLearning, Tag("local_learning")]
    | Annotated[Population, Tag("population")]
    | Annotated[Reweighting, Tag("reweighting")]
    | Annotated[MultiSampleDropout, Tag("multi_sample_dropout")]
    | Annotated[InstanceNoise, Tag("instance_noise")]
    | Annotated[HardRegions, Tag("hard_regions")]
    | Annotated[DateSelection, Tag("date_selection")]
    | Annotated[Coreset, Tag("coreset")]
    | Annotated[ClusterBatches, Tag("cluster_batches")]
    | Annotated[ArchiveBandit, Tag("archive_bandit")]
    | Annotated[RobustSelfTraining, Tag("robust_self_training")]
    | Annotated[Condensation, Tag("condensation")]
    | Annotated[Generations, Tag("generations")]
    | Annotated[Adaptation, Tag("adaptation")]
    | Annotated[Unlearning, Tag("unlearning")]
    | Annotated[Only, Tag("only")],
    Discriminator(_name),
    BeforeValidator(_known),
]


def check_together(sections: tuple[TechniqueSection, ...], pieces: int = 1, sharded: bool = False) -> None:
    """Whether techniques go with each other, with a batch in so many pieces, and with sharded weights.

    Raises:
        ValueError: one is named twice, two exclude each other, or one needs the batch or the weights whole.
    """
    names = [section.name for section in sections]
    for i, section in enumerate(sections):
        if section.name in names[:i]:
            raise ValueError(f"`{section.name}` is named twice: give it once, with all its options")
        if pieces > 1 and not section.in_pieces:
            raise ValueError(f"`{section.name}` takes a batch in one piece: set training.accumulate to 1")
        if sharded and not section.sharded:
            raise ValueError(f"`{section.name}` needs whole weights: set training.mesh.parameters to replicated")
        for other in sections:
            if other.name in section.excludes and other is not section:
                raise ValueError(f"`{section.name}` does not combine with `{other.name}`: leave one of them out")
