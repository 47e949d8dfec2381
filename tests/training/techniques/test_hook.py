"""The one hook: the points are met in order, state survives a stop bit by bit, and what does not fit is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from forecast.core import config as configs
from forecast.core import technique_sections as sections
from forecast.core.errors import ForecastError
from forecast.training.techniques import compose
from forecast.training.techniques.base import Technique
from forecast.training.trainer import Trainer
from pipelines.train import train
from tests import tiny
from tests.training.techniques import bench


class Wrapper(Technique[Any]):
    """Meets every point and changes nothing."""

    seen: list[str] = []  # noqa: RUF012

    def draw(self, plan, windows, make):
        return make(windows)

    def batch(self, now, batch):
        self.seen.append("batch")
        return batch

    def scores(self, now, scores, steps):
        assert scores.shape[:2] == (len(steps), len(steps[0].keys)) and steps[0].members.shape[1] == now.members
        self.seen.append("scores")
        return scores

    def terms(self, now, terms):
        self.seen.append("terms")
        return terms

    def gradients(self, now, evaluate):
        assert all(p.grad is None for p in self.run.parameters().values())
        self.seen.append("gradients")
        return evaluate()

    def step(self, now, lr, advance):
        self.seen.append("step")
        advance(lr)

    def validated(self, done, score):
        self.seen.append("validated")


class Remembers(Technique[Any]):
    """Its step depends on all steps before."""

    def step(self, now, lr, advance):
        trail = self.kept.setdefault("trail", torch.zeros(3))
        self.kept["trail"] = trail * 0.9 + next(iter(self.run.parameters().values())).detach().flatten()[:3]
        self.noted["steps"] = self.noted.get("steps", 0) + 1
        advance(lr * (1 + 0.1 * self.noted["steps"] + float(self.kept["trail"].abs().sum())))


def test_every_point_is_met_in_order_and_nothing_changes_for_it(archive, plain, tmp_path, monkeypatch):
    monkeypatch.setitem(compose.TECHNIQUES, "gradient_noise", Wrapper)
    folder = train(bench.config(tmp_path, archive, "gradient_noise"))
    assert bench.same(folder, plain)
    update = ["batch", "gradients", "scores", "terms", "step"]
    assert Wrapper.seen == update * 3 + ["validated"] + update * 2 + ["validated"]


def test_state_survives_a_stop_bit_by_bit(archive, tmp_path, monkeypatch):
    monkeypatch.setitem(compose.TECHNIQUES, "gradient_noise", Remembers)
    whole = train(bench.config(tmp_path / "whole", archive, "gradient_noise"))
    config, done = bench.config(tmp_path / "stopped", archive, "gradient_noise"), Trainer._save
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "_save", lambda self, n, *rest: (done(self, n, *rest), _stop(n)))
        train(config)
    assert bench.notes(tmp_path / "stopped/training/latest") == {"gradient_noise": {"steps": 2}}
    stopped = train(config, resume=True)
    assert bench.tensors(stopped / "latest").keys() == bench.tensors(whole / "latest").keys()
    assert "optimizer.safetensors/technique.gradient_noise.trail" in bench.tensors(stopped / "latest")
    a, b = bench.tensors(stopped / "latest"), bench.tensors(whole / "latest")
    assert all(a[name].equal(b[name]) for name in a) and bench.notes(stopped / "latest") == bench.notes(
        whole / "latest"
    )


def _stop(update: int) -> None:
    if update == 2:
        raise KeyboardInterrupt


@pytest.mark.parametrize("techniques", [["sam", "gradient_noise"], ["gradient_noise", "sam"]])
def test_a_run_with_techniques_is_the_same_stopped_or_not(archive, tmp_path, techniques):
    whole = train(bench.config(tmp_path / "whole", archive, *techniques))
    train(bench.config(tmp_path / "other", archive, *techniques), until=3)
    assert bench.exactly(train(bench.config(tmp_path / "other", archive, *techniques), resume=True), whole)


@pytest.mark.parametrize(
    ("techniques", "message"),
    [
        (["sma"], "`training.techniques.0`: unknown technique `sma`, did you mean `sam`?"),
        ([{"rho": 1}], "unknown technique ``"),
        ([{"name": "sam", "roh": 1}], "unknown key `training.techniques.0.roh`, did you mean `rho`?"),
        ([{"name": "sam", "eta": 1}], "unknown key `training.techniques.0.eta`, did you mean `name`?"),
        ([{"name": "sam", "rho": -1}], "`training.techniques.0.rho`: Input should be greater than or equal to 0"),
        (["sam", "sam"], "`sam` is named twice"),
    ],
)
def test_each_mistake_is_named(tmp_path: Path, techniques: list[Any], message: str) -> None:
    with pytest.raises(ForecastError) as error:
        tiny.config(tmp_path, techniques=techniques)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_set_reaches_an_option(tmp_path):
    config = configs.parse(
        tiny.raw(tmp_path, techniques=["sam"]), settings=("training.techniques=[{name: sam, rho: 2}]",)
    )
    assert config.training.techniques[0].rho == 2


def test_what_excludes_another_is_said():
    class Alone(sections.TechniqueSection):
        name: str = "alone"
        excludes = frozenset({"sam"})

    with pytest.raises(ValueError, match="`alone` does not combine with `sam`"):
        sections.check_together((sections.SharpnessAware(), Alone()))


def test_a_mesh_on_which_one_does_not_work_is_refused_in_a_line():
    class Local(sections.TechniqueSection):
        name: str = "local"
        mesh = frozenset({"data"})

    compose.check_mesh((Local(),), ("data",))
    with pytest.raises(ForecastError, match="`local` does not work where the grid axis of the mesh has several"):
        compose.check_mesh((sections.SharpnessAware(), Local()), ("data", "grid"))


def test_each_technique_is_in_one_table():
    assert tuple(compose.TECHNIQUES) == sections.NAMES
