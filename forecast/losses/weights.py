"""Weights of a score by area, variable and level, composed by named dimension and normalised to a weighted mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from forecast.core.errors import ForecastError
from forecast.core.sections import LossSection
from forecast.core.variables import split


def area(areas: np.ndarray) -> np.ndarray:
    """(G,) weights proportional to cell areas, summing to 1."""
    return np.asarray(areas, np.float64) / np.sum(areas)


def variable(names: Sequence[str], by_name: Mapping[str, float]) -> np.ndarray:
    """(V,) weight of each variable: by full name (z_500), else by short name (z), else 1.

    Raises:
        ForecastError: a weight for a variable that is not there, or a negative one.
    """
    known = {*names, *(split(name)[0] for name in names)}
    for name, weight in by_name.items():
        if name not in known:
            raise ForecastError(f"loss.variable_weights names `{name}`; there are {', '.join(names)}")
        if not weight >= 0:
            raise ForecastError(f"loss.variable_weights: `{name}` has weight {weight}; it must not be negative")
    return np.array([by_name.get(name, by_name.get(split(name)[0], 1.0)) for name in names])


def level(names: Sequence[str], slope: float, floor: float) -> np.ndarray:
    """(V,) max(floor, slope * hPa) for variables on pressure levels, 1 for the others."""
    levels = [split(name)[1] for name in names]
    return np.array([1.0 if p is None else max(floor, slope * p) for p in levels])


def compose(dims: Sequence[str], **weights: np.ndarray) -> np.ndarray:
    """Outer product over `dims` of one-dimensional weights given by dimension name, divided by its sum.

    Example: compose(("grid", "variable"), grid=area(a), variable=level(names, 0.001, 0.2)) is (G, V), so that the
    sum of weights times scores is a weighted mean.

    Raises:
        ForecastError: a name that is no dimension, or weights that sum to zero.
    """
    unknown = set(weights) - set(dims)
    if unknown:
        raise ForecastError(f"weights for `{min(unknown)}`; the dimensions are {', '.join(dims)}")
    total = np.ones(())
    for dim in dims:
        total = np.multiply.outer(total, weights[dim]) if dim in weights else total[..., None]
    if not total.sum() > 0:
        raise ForecastError("the weights of the loss are all zero")
    return total / total.sum()


def from_section(section: LossSection, names: Sequence[str], areas: np.ndarray, units: np.ndarray) -> np.ndarray:
    """(G, V) weights of a normalised score, summing to 1.

    Args:
        section: weights by variable and level, and whether to score in `units`.
        units: (V,) normalised size of a typical change in one step; the score is divided by it on request.
    """
    per_variable = variable(names, section.variable_weights) * level(names, section.level_slope, section.level_floor)
    if section.tendency_weighting:
        per_variable = per_variable / units
    return compose(("grid", "variable"), grid=area(areas), variable=per_variable)
