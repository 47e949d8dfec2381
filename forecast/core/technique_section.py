"""What the sections of all training techniques have in common."""

from __future__ import annotations

from typing import ClassVar

from forecast.core.section import Section

AXES = frozenset({"data", "ensemble", "grid"})
"""of a mesh of processes: samples, members, points"""
STEPS = frozenset({"adahessian", "normalised_descent", "zeroth_order"})
"""techniques that take the optimiser's place"""


class TechniqueSection(Section):
    """Base: what a technique goes with.

    Attributes:
        excludes: techniques that it does not combine with. mesh: axes of a mesh over which it works.
        in_pieces: whether a batch may come in pieces (`training.accumulate`). sharded: whether weights may be sharded.
    """

    excludes: ClassVar[frozenset[str]] = frozenset()
    mesh: ClassVar[frozenset[str]] = AXES
    in_pieces: ClassVar[bool] = True
    sharded: ClassVar[bool] = False

    name: str
