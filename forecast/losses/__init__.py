"""Losses that train forecasters: pure functions by family, thin modules, weights, and a registry by short name."""

from forecast.losses import (
    regression,
    set_distances,
    sparsity,
    weights,
)
from forecast.losses.ensemble import AlmostFairCRPS, almost_fair_crps, crps, fair_crps
from forecast.losses.registry import build, names

__all__ = [
    "AlmostFairCRPS",
    "almost_fair_crps",
    "build",
    "crps",
    "fair_crps",
    "names",
    "regression",
    "set_distances",
    "sparsity",
    "weights",
]
