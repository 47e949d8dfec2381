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


_SECTIONS: tuple[type[TechniqueSection], ...] = (GradientNoise, SharpnessAware)
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
    Annotated[GradientNoise, Tag("gradient_noise")] | Annotated[SharpnessAware, Tag("sam")],
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
