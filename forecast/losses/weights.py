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


def level_by_pressure(names: Sequence[str]) -> np.ndarray:
    """(V,) p / mean(p) over the variables on pressure levels, as in GraphCast; 1 for the others."""
    levels = np.array([split(name)[1] or np.nan for name in names], float)
    if np.isnan(levels).all():
        return np.ones(len(levels))
    return np.where(np.isnan(levels), 1.0, levels / np.nanmean(levels))


def level_by_shape(names: Sequence[str], shape: str, slope: float, floor: float) -> np.ndarray:
    """(V,) weight by pressure p (hPa), 1 for variables on no level; the shapes of anemoi's level scalers.

    Args:
        shape: linear: slope p + floor; relu: max(floor, slope p); polynomial: (slope p)^2 + floor.

    Raises:
        ForecastError: an unknown shape.
    """
    if shape == "relu":
        return level(names, slope, floor)
    if shape not in ("linear", "polynomial"):
        raise ForecastError(f"shape={shape!r}: must be linear, relu or polynomial")
    power = 1 if shape == "linear" else 2
    levels = [split(name)[1] for name in names]
    return np.array([1.0 if p is None else (slope * p) ** power + floor for p in levels])


def lead_time(steps: int, decay: float = 1.0) -> np.ndarray:
    """(S,) decay^s, divided by its mean: 1 weighs all steps alike, less than 1 the first ones more.

    Raises:
        ForecastError: no step, or a decay that is not positive.
    """
    if steps < 1 or not decay > 0:
        raise ForecastError(f"steps={steps}, decay={decay}: both must be positive")
    return unit_mean(decay ** np.arange(steps))


def inverse_growth(errors: np.ndarray) -> np.ndarray:
    """(S,) weights inverse to a typical error of each lead time, of mean 1, so that late steps do not dominate.

    Raises:
        ForecastError: an error that is not positive.
    """
    errors = np.asarray(errors, float)
    if not errors.size or not (errors > 0).all():
        raise ForecastError(f"errors={errors.tolist()}: must all be positive")
    return unit_mean(1 / errors)


def unit_mean(weights: np.ndarray) -> np.ndarray:
    """Weights divided by their mean: the scale of a mean of scores stays; `compose` makes them sum to 1 instead.

    Raises:
        ForecastError: weights that sum to zero.
    """
    weights = np.asarray(weights, float)
    if not weights.sum() > 0:
        raise ForecastError("the weights are all zero")
    return weights / weights.mean()


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
