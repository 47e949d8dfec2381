"""Stages of training: what changes at which update, with the published blocks as with the small ones."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from forecast.core import config as configs
from forecast.core.store import Store
from forecast.data.dataset import Dataset
from forecast.data.loader import load
from forecast.data.sampler import draw
from forecast.training import sinks
from forecast.training.watch import MEASURED
from pipelines.train import forecaster, train
from tests import tiny

FULL = {
    "blocks": "full", "processor": "window", "window": 9, "qk_norm": True, "trainable_edges": 2, "layers": 1,
    "mesh_refinement": 1, "width": 16, "heads": 2, "activation_checkpointing": "layer",
}  # fmt: skip
STAGES = [
    {"updates": 4, "lr": 3e-3, "warmup": 2, "schedule": "constant"},
    {"updates": 4, "rollout": [2, 3], "lr": 1e-3, "schedule": "cosine"},
]
FALLING = [1e-3 * 0.5 * (1.0 + math.cos(math.pi * k / 4)) for k in range(4)]
PLAN = [(1, 1.5e-3, 0), (1, 3e-3, 0), (1, 3e-3, 0), (1, 3e-3, 0),
        (2, FALLING[0], 4), (2, FALLING[1], 4), (3, FALLING[2], 6), (3, FALLING[3], 6)]  # fmt: skip
"""rollout and learning rate of each update, and since when the rollout is so long"""


@pytest.fixture(autouse=True)
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinks, "plot", lambda metrics, picture: None)


def config(root: Path, archive: Path, blocks: str) -> configs.Config:
    raw = tiny.raw(root, archive, stages=STAGES, validate_every=100, checkpoint_every=100)
    return configs.parse(raw | {"model": FULL} if blocks == "full" else raw)


def by_hand(config: configs.Config, archive: Path, plan: list[tuple[int, float, int]]) -> dict[str, torch.Tensor]:
    """The weights after a plain loop over a plan."""
    truth, analysis = (Store.open(archive / f"{name}.zarr") for name in ("truth", "analysis"))
    section, model = config.training, forecaster(config, truth)
    data = Dataset(config.data, config.data.train, truth, analysis, section.analysis_share)
    model.precision = section.precision
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": section.weight_decay},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=section.betas, fused=True)
    for update, (rollout, lr, since) in enumerate(plan):
        windows = len(data.windows(rollout))
        place = draw(config.seed, update, batch_size=2, windows=windows, rollout=rollout, since=since)
        batch = load(data, place)
        model.training_loss(batch, 2, batch.keys)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), section.clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        optimizer.zero_grad()
    return {name: p.detach() for name, p in model.named_parameters()}


def lines(folder: Path) -> list[dict[str, Any]]:
    """The metrics without wall time."""
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in MEASURED} for line in found]


@pytest.mark.parametrize("blocks", ["compact", "full"])
def test_a_stage_changes_at_its_update_and_the_run_is_the_plain_loop(
    blocks: str, archive: Path, tmp_path: Path
) -> None:
    settings = config(tmp_path, archive, blocks)
    folder = train(settings)
    updates = [line for line in lines(folder) if "loss" in line]
    assert [(line["rollout"], line["lr"]) for line in updates] == [(rollout, lr) for rollout, lr, _ in PLAN]
    weights = load_file(folder / "latest" / "model.safetensors")
    expected = by_hand(settings, archive, PLAN)
    assert weights.keys() == expected.keys()
    assert [name for name, weight in weights.items() if not weight.equal(expected[name])] == []
    late = by_hand(settings, archive, [*PLAN[:4], PLAN[3], *PLAN[5:]])  # the stage begins one update later
    assert any(not weight.equal(late[name]) for name, weight in weights.items())


@pytest.mark.parametrize("blocks", ["compact", "full"])
def test_a_run_stopped_in_the_middle_of_each_stage_ends_with_the_same_bits(
    blocks: str, archive: Path, tmp_path: Path
) -> None:
    whole = train(config(tmp_path / "whole", archive, blocks))
    settings = config(tmp_path / "stopped", archive, blocks)
    for until in (2, 5, 7):  # in the first stage, in the second, and after its rollout grew
        stopped = train(settings, resume=True, until=until)
    stopped = train(settings, resume=True)
    assert lines(stopped) == lines(whole)
    files = sorted(path.name for path in (whole / "latest").glob("*.safetensors"))
    assert len(files) >= 3  # weights, their average, the optimiser's moments
    for file in files:
        a, b = load_file(whole / "latest" / file), load_file(stopped / "latest" / file)
        assert a.keys() == b.keys() and [name for name in a if not a[name].equal(b[name])] == [], file
