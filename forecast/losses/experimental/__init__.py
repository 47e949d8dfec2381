"""Losses built from memory of their papers: each warns once, and none is meant for a run that matters."""

from forecast.losses.experimental import (
    adversarial,
    contrastive,
    metric_learning,
    multilabel,
)

__all__ = [
    "adversarial",
    "contrastive",
    "metric_learning",
    "multilabel",
]
