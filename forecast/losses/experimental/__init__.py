"""Losses built from memory of their papers: each warns once, and none is meant for a run that matters."""

from forecast.losses.experimental import (
    adaptation,
    adversarial,
    contrastive,
    energy,
    fusion,
    gradients,
    metric_learning,
    multilabel,
    reconstruction,
    sparsity,
)

__all__ = [
    "adaptation",
    "adversarial",
    "contrastive",
    "energy",
    "fusion",
    "gradients",
    "metric_learning",
    "multilabel",
    "reconstruction",
    "sparsity",
]
