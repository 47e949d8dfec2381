"""Losses built from memory of their papers: each warns once, and none is meant for a run that matters."""

from forecast.losses.experimental import (
    contrastive,
    metric_learning,
)

__all__ = [
    "contrastive",
    "metric_learning",
]
