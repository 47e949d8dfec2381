"""Every family of losses trains on the sample planet, from a config."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from forecast.core import config as configs
from forecast.core.config import Config
from forecast.models.serialise import load_forecaster
from forecast.training import monitor
from pipelines.ingest import ingest
from pipelines.train import train

RAIN = {"variable": "tp", "above": 0.002}
BINS = {"variable": "10u", "edges": [-5.0, 0.0, 5.0, 10.0]}
FAMILIES: dict[str, dict[str, Any]] = {
    "ensemble": {"loss": "energy_score", "of": "members"},
    "field": {"loss": "huber", "of": "members"},
    "event": {"loss": "dice", "of": "event", "event": RAIN},
    "bins": {"loss": "ordered_bin_emd", "of": "event", "event": BINS},
    "calibrated": {"loss": "calibrated_probability", "of": "event", "event": RAIN},
    "latent": {"loss": "barlow_twins", "of": "latent"},
    "weights": {"loss": "group_sparse_envelope", "of": "weights", "options": {"k": 8}},
}


def settings(root: Path, terms: dict[str, Any], stores: Path) -> Config:
    raw = yaml.safe_load((configs.shipped() / "demo.yaml").read_text())
    raw |= {"root": str(root), "loss": raw["loss"] | {"terms": terms}}
    raw["source"]["years"] = 1
    raw["store"] |= {"path": str(stores / "truth.zarr"), "analysis": str(stores / "analysis.zarr")}
    raw["data"] |= {"step": "24h", "train": ["2001-01-01T00", "2001-09-30T18"], "prefetch": 0,
                    "validation": ["2001-10-01T00", "2001-12-31T18"]}  # fmt: skip
    raw["model"] |= {"mesh_refinement": 2, "width": 32, "grid_width": 16, "layers": 1}
    stage = {"updates": 12, "lr": 0.01, "schedule": "constant"}
    raw["training"] |= {"members": 2, "batch_size": 1, "stages": [stage]}
    raw["training"] |= {"validate_every": 1000, "validation_starts": 1, "validation_steps": 1}
    return configs.parse(raw)


@pytest.fixture(scope="module")
def planet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planet")
    ingest(settings(folder, {}, folder))
    return folder


@pytest.fixture(autouse=True)
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "plot", lambda metrics, picture: None)


def values(folder: Path, name: str) -> np.ndarray:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return np.array([line[name] for line in lines if "validation" not in line])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_few_updates_lower_the_term(family: str, planet: Path, tmp_path: Path) -> None:
    """The term is weighted so that it leads; twelve updates must bring it down, as the score alone would not."""
    folder = train(settings(tmp_path, {"it": FAMILIES[family] | {"weight": 20.0}}, planet))
    term = values(folder, "terms/it")
    assert np.isfinite(term).all() and term[-4:].mean() < term[:2].mean()
    score = values(folder, "loss") - 20 * term
    assert (score > 0).all()  # the almost fair CRPS is still a part of the loss
    load_forecaster(folder / "latest")  # what a loss remembers is there as well


def test_a_student_learns_from_a_teacher(planet: Path, tmp_path: Path) -> None:
    events = {"rain": {"loss": "binary_cross_entropy", "of": "event", "event": RAIN}}
    teacher = train(settings(tmp_path / "teacher", events, planet)) / "latest"
    taught = {"it": {"loss": "binary_kl", "of": "event", "event": RAIN, "teacher": str(teacher), "weight": 20.0}}
    folder = train(settings(tmp_path / "student", taught, planet))
    term = values(folder, "terms/it")
    assert term[-4:].mean() < term[:2].mean()
    assert load_forecaster(folder / "latest").terms.heads.keys() == {"tp above 0p002"}
