"""Coresets, robust self-training, condensation: closed forms, and what is drawn and moved."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from forecast.core.errors import ForecastError
from forecast.data.dataset import Dataset
from forecast.training.techniques import condensation, coreset, robust_self_training
from forecast.training.techniques.window_scores import window_scores
from pipelines.train import train
from tests.training.techniques import bench
from tests.training.techniques.test_samples import made, technique

__all__ = ["made"]

ROWS = np.random.default_rng(3).gamma(2.0, size=(400, 4))


def test_coresets_of_known_rows():
    assert coreset.herding(np.array([[0.0], [0.0], [3.0], [3.0]]), 2).tolist() == [0, 2]  # the exact mean
    assert coreset.herding(np.ones((5, 3)), 3).tolist() == [0, 1, 2]
    assert coreset.herding(ROWS, 400).tolist() == list(range(400))
    one = coreset.median_of_means(np.arange(5.0)[:, None], 1, 200, 7)
    assert one.tolist() == [2]  # of single rows the middle one
    assert coreset.distance(ROWS, np.arange(400)) == 0


def test_herding_is_nearer_than_the_best_of_a_hundred_and_that_than_one():
    alone = np.mean([coreset.distance(ROWS, coreset.median_of_means(ROWS, 100, 1, key)) for key in range(50)])
    best = coreset.distance(ROWS, coreset.median_of_means(ROWS, 100, 100, 1))
    assert coreset.distance(ROWS, coreset.herding(ROWS, 100)) < best < 0.6 * alone


def test_rows_sum_to_the_loss(archive, plain, made):
    choose = technique(made, name="coreset", queries=[str(plain / "latest")])
    first = made.data.period[0]
    data = Dataset(made.config.data, (first, first + np.timedelta64(24, "h")), made.data.truth)
    few = dataclasses.replace(choose.run, data=data)
    rows = window_scores(few, str(plain / "latest"), lambda w: w)
    assert rows.shape == (len(few.data.windows(1)), len(made.model.fields.variables) + 1)
    assert (rows[:, :-1] > 0).all() and rows[:, -1].abs().max() < 1e-6  # a score alone has no further terms


@pytest.mark.parametrize("rule", ["median_of_means", "herding"])
def test_a_run_draws_its_coreset_alone_and_a_stop_changes_nothing(archive, plain, made, tmp_path, rule):
    named = {"name": "coreset", "queries": [str(plain / "latest")], "keep": 0.1, "rule": rule, "sets": 5}
    choose, count = technique(made, **named), len(made.data.windows(1))
    choose.kept["rows"] = torch.from_numpy(ROWS[np.arange(count) % 400])
    drawn = choose.draw(bench.now().plan, np.arange(count), lambda among: among)
    rows = choose.kept["rows"].numpy()
    wanted = coreset.herding(rows, len(drawn)) if rule == "herding" else coreset.median_of_means(
        rows, len(drawn), 5, choose.key("sets"))  # fmt: skip
    assert drawn.tolist() == wanted.tolist() and len(drawn) == round(0.1 * count)
    if rule == "herding":
        config = bench.config(tmp_path / "whole", archive, named)
        whole = train(config)
        assert not bench.same(whole, plain)
        train(bench.config(tmp_path / "other", archive, named), until=3)
        assert bench.exactly(train(bench.config(tmp_path / "other", archive, named), resume=True), whole)


@pytest.mark.parametrize("steps", [1, 10])
def test_the_worst_place_of_a_linear_and_a_quadratic_loss(steps):
    """g / 2c for g by mean square, whatever the steps; (2c - a)^-1 g of g z + a z^2 / 2 as steps grow."""
    g = torch.tensor([[1.0, -2.0, 0.5, 3.0]])
    found = robust_self_training.worst(lambda by: g / 4, (1, 4), 5.0, steps, torch.device("cpu"))
    assert torch.allclose(found, g / 10, rtol=1e-6)
    curved = robust_self_training.worst(lambda by: (g + 1.0 * by) / 4, (1, 4), 5.0, 200 * steps, torch.device("cpu"))
    assert torch.allclose(curved, g / 9, rtol=0.02)


def test_states_move_to_where_the_loss_is_larger(made):
    robust = technique(made, name="robust_self_training", cost=0.5, steps=3)
    moved = robust.batch(bench.now(), made.batch)
    inputs = made.batch.input_steps
    assert moved.states[:, inputs:].equal(made.batch.states[:, inputs:])
    assert float(moved.states[..., 2].min()) >= 0  # rain
    with torch.no_grad():
        loss, worse = (float(made.model.training_loss(b, 2, b.keys)["loss"]) for b in (made.batch, moved))
    by = (moved.states - made.batch.states)[:, :inputs] / robust._stdev
    assert worse - 0.5 * float(by.square().mean()) > loss
    assert robust.run.model.rescored is None and all(p.grad is None for p in made.model.parameters())
    still = technique(made, name="robust_self_training", cost=None, archives=[str(made.data.truth.path)])
    assert still.batch(bench.now(), made.batch) is made.batch


def test_unlabelled_states_are_taught_by_the_forecasters_own_member(made):
    """Of a forecaster without noise it is what every member says, which the score then does not punish."""
    robust = technique(made, name="robust_self_training", archives=[str(made.data.truth.path)], cost_unlabelled=1e30)
    guessed = robust._guessed(made.batch)
    inputs = made.batch.input_steps
    assert guessed.states[:, :inputs].equal(made.batch.states[:, :inputs])
    batch = dataclasses.replace(made.batch, starts_from_analysis=torch.ones(3, dtype=torch.bool))
    drawn = made.model.draw
    made.model.draw = lambda keys: torch.zeros(len(keys), *made.model.noise_shape)
    try:
        same = robust._guessed(batch)
        with torch.no_grad():
            loss, other = (float(made.model.training_loss(b, 2, b.keys)["loss"]) for b in (same, batch))
    finally:
        made.model.draw = drawn
    assert loss < 1e-5 < 0.01 < other
    robust.gradients(bench.now(), dict)
    assert any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in made.model.parameters())
    made.model.zero_grad()


def test_a_mixed_derivative_by_hand():
    """Of L = w A s + (w w) s b / 2 by s, along v: A v + (w v) b, with no second derivative taken."""
    generator = torch.Generator().manual_seed(1)
    A, b, w, v = (torch.randn(*size, generator=generator, dtype=torch.float64) for size in ((4, 3), (3,), (4,), (4,)))
    at = w.clone()
    found = condensation.mixed_derivative(lambda: at @ A + at @ at * b / 2, [at], [v], 1e-2)
    assert torch.allclose(found, v @ A + w @ v * b, rtol=1e-6) and at.equal(w)
    none = condensation.mixed_derivative(lambda: at @ A, [at], [torch.zeros(4, dtype=torch.float64)], 1e-2)
    assert none.equal(torch.zeros(3, dtype=torch.float64))


def evaluation(model: Any, batch: Any) -> Any:
    def evaluate(*_: Any) -> dict[str, torch.Tensor]:
        model.training_loss(batch, 2, batch.keys)["loss"].backward()
        return {}

    return evaluate


def test_samples_that_are_the_archives_stay_and_others_come_nearer(made):
    training = made.config.training.model_copy(update={"stages": made.config.training.stages[:1]})
    short = SimpleNamespace(**vars(made) | {"config": made.config.model_copy(update={"training": training})})
    condense = technique(short, name="condensation", samples=3, fresh_every=1000)
    own = condense._condensed()
    before = own.states.clone()
    terms = condense.gradients(bench.now(), evaluation(made.model, own))
    assert float(terms["techniques/apart"]) < 1e-3
    made.model.zero_grad()
    condense.kept = {"states": before, "velocity": torch.zeros_like(before)}
    apart = []
    for _ in range(12):
        terms = condense.gradients(bench.now(), evaluation(made.model, made.batch))
        apart.append(float(terms["techniques/apart"]))
        made.model.zero_grad()
    assert apart[-1] < 0.95 * apart[0], apart
    assert float(condense.kept["states"][..., 2].min()) >= 0  # rain


def test_condensed_samples_are_kept_and_trained_on(archive, plain, tmp_path):
    one = [{"updates": 4, "lr": 3e-3}]
    named = {"name": "condensation", "samples": 3, "fresh_every": 2}
    whole = train(bench.config(tmp_path / "whole", archive, named, stages=one))
    train(bench.config(tmp_path / "other", archive, named, stages=one), until=2)
    assert bench.exactly(train(bench.config(tmp_path / "other", archive, named, stages=one), resume=True), whole)
    held = bench.tensors(whole / "latest")["optimizer.safetensors/technique.condensation.states"]
    use = {"name": "condensation", "of": str(whole / "latest")}
    used = bench.tensors(train(bench.config(tmp_path / "use", archive, use, stages=one)) / "latest")
    assert used["optimizer.safetensors/technique.condensation.states"].equal(held)
    with pytest.raises(ForecastError, match="no condensed samples: name a checkpoint of a run with `condensation`"):
        train(bench.config(tmp_path / "a", archive, {**use, "of": str(plain / "latest")}, stages=one))
    with pytest.raises(ForecastError, match="`condensation` trains rollouts of one step only"):
        train(bench.config(tmp_path / "b", archive, named))
