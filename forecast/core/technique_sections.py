"""What a run's configuration may say about training techniques: a section for each (docs/techniques.md)."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from forecast.core.section import Section

AXES = frozenset({"data", "ensemble", "grid"})
"""of a mesh of processes: samples, members, points"""
STEPS = frozenset({"adahessian", "normalised_descent", "zeroth_order"})
"""techniques that take the optimiser's place"""


class TechniqueSection(Section):
    """Base: what a technique goes with.

    Attributes:
        excludes: techniques that it does not combine with. mesh: axes of a mesh over which it works.
    """

    excludes: ClassVar[frozenset[str]] = frozenset()
    mesh: ClassVar[frozenset[str]] = AXES

    name: str


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


_SECTIONS: tuple[type[TechniqueSection], ...] = (
    GradientNoise,
    SharpnessAware,
    AdaHessian,
    NormalisedDescent,
    ZerothOrder,
    LocalLearning,
    Population,
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
    | Annotated[Population, Tag("population")],
    Discriminator(_name),
    BeforeValidator(_known),
]


def check_together(sections: tuple[TechniqueSection, ...]) -> None:
    """Whether techniques go with each other.

    Raises:
        ValueError: one is named twice, or two exclude each other.
    """
    names = [section.name for section in sections]
    for i, section in enumerate(sections):
        if section.name in names[:i]:
            raise ValueError(f"`{section.name}` is named twice: give it once, with all its options")
        for other in sections:
            if other.name in section.excludes and other is not section:
                raise ValueError(f"`{section.name}` does not combine with `{other.name}`: leave one of them out")
