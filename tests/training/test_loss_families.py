"""Every family of losses trains on the sample planet, from a config; and every loss has its place there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from forecast.core import config as configs
from forecast.core.config import Config
from forecast.core.sections import Term
from forecast.core.store import Store
from forecast.data.batch import Batch
from forecast.data.dataset import Dataset
from forecast.data.loader import collate
from forecast.losses import registry
from forecast.models.forecaster import Forecaster
from forecast.models.serialise import load_forecaster, save_forecaster
from forecast.models.terms import Terms
from forecast.training import sinks
from pipelines.ingest import ingest
from pipelines.train import forecaster, train
from tests.training.every import APART, BINS, RAIN, term

FAMILIES: dict[str, dict[str, Any]] = {
    "ensemble": {"loss": "energy_score", "of": "members"},
    "field": {"loss": "huber", "of": "members"},
    "event": {"loss": "dice", "of": "event", "event": RAIN},
    "bins": {"loss": "ordered_bin_emd", "of": "event", "event": BINS},
    "calibrated": {"loss": "calibrated_probability", "of": "event", "event": RAIN},
    "distribution": {"loss": "gamma_crps", "of": "distribution", "variable": "tp"},
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
    raw["model"] = {"mesh_refinement": 2, "width": 32, "grid_width": 16, "layers": 1}  # attention has losses, too
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
    monkeypatch.setattr(sinks, "plot", lambda metrics, picture: None)


def values(folder: Path, name: str) -> np.ndarray:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return np.array([line[name] for line in lines if "validation" not in line])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_few_updates_lower_the_term(family: str, planet: Path, tmp_path: Path) -> None:
    """The term is weighted so that it leads; twelve updates must bring it down, as the score alone would not."""
    folder = train(settings(tmp_path, {"it": FAMILIES[family] | {"weight": 20.0}}, planet))
    found = values(folder, "terms/it")
    assert np.isfinite(found).all() and found[-4:].mean() < found[:2].mean()
    score = values(folder, "loss") - 20 * found
    assert (score > 0).all()  # the almost fair CRPS is still a part of the loss
    load_forecaster(folder / "latest")  # what a loss remembers is there as well


def test_a_student_learns_from_a_teacher(planet: Path, tmp_path: Path) -> None:
    events = {"rain": {"loss": "binary_cross_entropy", "of": "event", "event": RAIN}}
    teacher = train(settings(tmp_path / "teacher", events, planet)) / "latest"
    taught = {"it": {"loss": "binary_kl", "of": "event", "event": RAIN, "teacher": str(teacher), "weight": 20.0}}
    folder = train(settings(tmp_path / "student", taught, planet))
    found = values(folder, "terms/it")
    assert found[-4:].mean() < found[:2].mean()
    assert load_forecaster(folder / "latest").terms.heads.keys() == {"tp above 0p002"}


@pytest.fixture(scope="module")
def model(planet: Path) -> Forecaster:
    """With a step that depends on every input, as after training."""
    torch.manual_seed(1)
    made = forecaster(settings(planet, {}, planet), Store.open(planet / "truth.zarr"))
    with torch.no_grad():
        for parameter in made.parameters():
            if not parameter.any():
                parameter.normal_(std=0.05)
    return made


@pytest.fixture(scope="module")
def batches(planet: Path) -> list[Batch]:
    """Two samples, a month and a half apart, to one step and to two."""
    config = settings(planet, {}, planet)
    data = Dataset(config.data, config.data.train, Store.open(planet / "truth.zarr"))
    draws = ((0, 10), (160, 11))
    return [collate([data.read(first, steps, key) for first, key in draws], config.data.input_steps)
            for steps in (1, 2)]  # fmt: skip


@pytest.fixture(scope="module")
def teacher(model: Forecaster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    put(model, {"bins": {"loss": "cross_entropy", "of": "event", "event": BINS}})
    save_forecaster(folder, model)
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))  # the student is another one
    return folder


def put(model: Forecaster, terms: dict[str, dict[str, Any]]) -> None:
    """Give the forecaster other terms."""
    sections = {name: Term.model_validate(section) for name, section in terms.items()}
    model.loss = model.loss.model_copy(update={"terms": sections})
    model.terms, model._taught_by = Terms(sections, model.fields, model.network), {}


SECOND_CALL = {"manifold_entropy", "gradient_norm"}
"""begin with an empty memory, or with a factor of 0"""


@pytest.mark.filterwarnings("ignore:.*from memory")
@pytest.mark.parametrize("entry", [e for e in registry.entries() if e.name not in APART], ids=lambda e: e.name)
def test_every_loss_is_a_term(entry: registry.Entry, model: Forecaster, batches: list[Batch], teacher: Path) -> None:
    """One update's loss is finite and has a gradient, for the forecaster or what learns with it."""
    section = term(entry.name, entry.takes)
    section |= {"teacher": str(teacher)} if "teacher" in section else {}
    torch.manual_seed(2)
    put(model, {"it": section})
    model.zero_grad()
    if "code" in model.terms.companions:
        code: Any = model.terms.companions["code"]
        code.use.idle.fill_(10**6)  # features that have been silent for long
    values: list[Any] = []
    model.terms.losses["it"].register_forward_hook(lambda module, given, out: values.append(out))
    batch = batches[section["of"] == "rollout" or entry.name in SECOND_CALL]
    parts = model.training_loss(batch, 2, batch.keys)
    value = values[-1][0] if isinstance(values[-1], tuple) else values[-1]
    value.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert parts["loss"].isfinite() and parts["terms/it"].isfinite()
    assert all(g.isfinite().all() for g in gradients) and any(g.any() for g in gradients)


def test_those_apart_are_there() -> None:
    assert set(APART) <= set(registry.names()) and len(APART) <= 2
