"""Population based training: who becomes whom, what is varied, and that a stopped population goes on."""

from __future__ import annotations

import json

import pytest

from forecast.core.errors import ForecastError
from forecast.models.serialise import load_forecaster
from forecast.training.techniques import exchange as exchanges
from forecast.training.techniques.population import exchanged, explored, vary
from pipelines.population import population
from pipelines.train import train
from tests.training.techniques import bench

SECTION = {"name": "population", "runs": 3, "every": 2, "share": 0.34, "vary": ["lr", "alpha"]}


def config(root, archive):
    return bench.config(root, archive, SECTION, validate_every=2)


def test_the_worst_become_the_best():
    assert exchanged([3.0, 1.0, None, 2.0, 5.0], 0.2, 1) == {2: 1}
    assert exchanged([3.0, 1.0, 4.0, 2.0, 5.0], 0.2, 1) == {4: 1}
    many = exchanged([float(i) for i in range(10)], 0.2, 7)
    assert set(many) == {8, 9} and set(many.values()) <= {0, 1}
    assert exchanged([1.0, 1.0], 0.2, 1) == {1: 0}


def test_values_are_varied_by_published_factors():
    for key in range(20):
        new = explored({"lr": 2.0, "terms.rain": 1.0, "alpha": 0.95}, (0.8, 1.2), key)
        assert new["lr"] in (1.6, 2.4) and new["terms.rain"] in (0.8, 1.2)
        assert new["alpha"] == pytest.approx(0.96) or new["alpha"] == pytest.approx(0.94)
    assert vary({"lr": 1.0}, 0, 2.0, 5) == {"lr": 1.0}
    assert all(0.5 <= vary({"lr": 1.0}, run, 2.0, run)["lr"] <= 2.0 for run in range(1, 20))


def test_a_population_goes_on_to_the_same_end(archive, tmp_path, monkeypatch):
    whole = population(config(tmp_path / "whole", archive))
    log = json.loads(whole.read_text())
    assert len(log) == 2 and all(len(entry["became"]) == 1 for entry in log)
    copied, stopping = exchanges._copy, {"now": True}

    def stop(*arguments):
        if stopping.pop("now", False):
            raise KeyboardInterrupt
        copied(*arguments)

    monkeypatch.setattr(exchanges, "_copy", stop)
    with pytest.raises(KeyboardInterrupt):
        population(config(tmp_path / "other", archive))
    again = population(config(tmp_path / "other", archive))
    assert json.loads(again.read_text()) == log
    for run in range(3):
        assert bench.exactly(*(folder.parent / f"run-{run}" / "training" for folder in (whole, again)))
    loser = next(iter(log[-1]["became"]))
    held = bench.notes(whole.parent / f"run-{loser}" / "training" / "latest")["population"]
    assert held["exchanges"] == 2 and held["values"] == log[-1]["values"][int(loser)]
    rates = [line["lr"] for run in (0, 1) for line in _lines(whole.parent / f"run-{run}")]
    assert rates
    load_forecaster(whole.parent / f"run-{loser}" / "training" / "latest")


def _lines(root):
    lines = (root / "training" / "metrics.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if "loss" in line]


def test_weights_of_terms_are_varied(archive, tmp_path, monkeypatch):
    """A factor of 2 on a term is the term with twice its weight."""
    from forecast.training.techniques import population as file

    def run(root, weight, *techniques):
        made = bench.config(root, archive, *techniques, stages=[{"updates": 2, "lr": 1e-3}])
        term = {"mean": {"loss": "mae", "of": "members", "weight": weight}}
        loss = made.loss.model_validate({"terms": term})
        return train(made.model_copy(update={"loss": loss}))

    monkeypatch.setattr(file, "vary", lambda values, *rest: {name: 2.0 for name in values})
    doubled = run(tmp_path / "a", 0.1, {"name": "population", "vary": ["terms.mean"], "run": 1})
    assert bench.same(doubled, run(tmp_path / "b", 0.2))


@pytest.mark.parametrize("name", ["terms.rain", "beta", "width"])
def test_what_a_run_does_not_have_is_not_varied(archive, tmp_path, name):
    with pytest.raises(ForecastError, match=f"can't vary {name}; this run has lr, alpha"):
        train(bench.config(tmp_path, archive, {"name": "population", "vary": [name]}))


def test_a_population_needs_its_technique(archive, tmp_path):
    with pytest.raises(ForecastError, match="name `population` there"):
        population(bench.config(tmp_path, archive))
