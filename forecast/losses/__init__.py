"""Losses that train forecasters: pure functions by family, thin modules, weights, and a registry by short name."""

from forecast.losses import (
    contrastive,
    distillation,
    distributions,
    experimental,
    moments,
    probabilities,
    quantiles,
    quantisation,
    rain,
    regression,
    set_distances,
    sparsity,
    uniformity,
    weights,
)
from forecast.losses.ensemble import AlmostFairCRPS, almost_fair_crps, crps, fair_crps
from forecast.losses.registry import build, names

__all__ = [
    "AlmostFairCRPS",
    "almost_fair_crps",
    "build",
    "contrastive",
    "crps",
    "distillation",
    "distributions",
    "experimental",
    "fair_crps",
    "moments",
    "names",
    "probabilities",
    "quantiles",
    "quantisation",
    "rain",
    "regression",
    "set_distances",
    "sparsity",
    "uniformity",
    "weights",
]
