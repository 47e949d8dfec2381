"""At its limit each technique is plain training, bit for bit; away from it, it is not, and a stop changes nothing."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.train import train
from tests.training.techniques import bench

LIMITS: tuple[tuple[Any, ...], ...] = (
    ({"name": "gradient_noise", "eta": 0.0}, {"name": "sam", "rho": 0.0}, {"name": "generations", "alpha": 1.0}),
    (
        {"name": "population", "run": 0, "vary": ["lr", "alpha"]},
        {"name": "reweighting", "temperature": 1e30},
        {"name": "multi_sample_dropout", "rate": 0.0},
        {"name": "instance_noise", "sigma": 0.0},
        {"name": "hard_regions", "ratio": 0.0},
        {"name": "date_selection", "prior": "x", "conditional": "x", "keep": 1.0},
        {"name": "coreset", "queries": ["x"], "keep": 1.0},
    ),
    ({"name": "cluster_batches", "clusters": 1}, {"name": "archive_bandit", "archives": ["ARCHIVE"], "beta": 0.0}),
    ({"name": "robust_self_training", "archives": ["ARCHIVE"], "strength": 0.0, "cost": None},),
)
"""what may be tried together, as one run"""
AWAY: tuple[tuple[Any, ...], ...] = (
    ("gradient_noise", "sam", "reweighting", "instance_noise", {"name": "hard_regions", "ratio": 0.9}),
    ({"name": "cluster_batches", "clusters": 3}, {"name": "generations", "every": 2}, {"name": "archive_bandit",
     "archives": ["ARCHIVE"], "policy": "exp3"}),
    ("multi_sample_dropout", {"name": "population", "run": 1}),
    ({"name": "robust_self_training", "archives": ["ARCHIVE"], "strength": 0.5},),
)  # fmt: skip


def placed(techniques: tuple[Any, ...], archive: Any) -> list[Any]:
    return [
        {**t, "archives": [str(archive / "analysis.zarr")]} if isinstance(t, dict) and "archives" in t else t
        for t in techniques
    ]


def names(group: tuple[Any, ...]) -> str:
    return "+".join(t if isinstance(t, str) else t["name"] for t in group)


@pytest.mark.parametrize("techniques", LIMITS, ids=names)
def test_limits(archive, plain, tmp_path, techniques):
    assert bench.same(train(bench.config(tmp_path, archive, *placed(techniques, archive))), plain)


@pytest.mark.parametrize(
    "techniques", AWAY, ids=lambda group: "+".join(t if isinstance(t, str) else t["name"] for t in group)
)
def test_away_from_them(archive, plain, tmp_path, techniques):
    named = placed(techniques, archive)
    whole = train(bench.config(tmp_path / "whole", archive, *named))
    assert not bench.same(whole, plain)
    train(bench.config(tmp_path / "other", archive, *named), until=3)
    assert bench.exactly(train(bench.config(tmp_path / "other", archive, *named), resume=True), whole)
