"""Techniques of samples and data: closed forms, and what is drawn."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from forecast.core.store import Store
from forecast.data.dataset import Dataset
from forecast.data.loader import load
from forecast.data.sampler import draw
from forecast.losses.reweighting import loss_weights
from forecast.models.forecaster import Forecaster
from forecast.training.mesh import Mesh
from forecast.training.techniques import archive_bandit, cluster_batches, compose, date_selection
from forecast.training.techniques.base import Run
from pipelines.train import forecaster
from tests.training.techniques import bench


@pytest.fixture(scope="module")
def made(archive, tmp_path_factory) -> Any:
    """A forecaster whose head says something, its data and a batch."""
    config = bench.config(tmp_path_factory.mktemp("made"), archive)
    truth, analysis = (Store.open(getattr(config.store, name)) for name in ("path", "analysis"))
    model = forecaster(config, truth)
    with torch.no_grad():
        model.network.decoder.head.weight.normal_(std=0.1, generator=torch.Generator().manual_seed(2))
    data = Dataset(config.data, config.data.train, truth, analysis, 0.5)
    batch = load(data, draw(1, 3, batch_size=3, windows=50, rollout=1))
    return SimpleNamespace(config=config, model=model, data=data, batch=batch)


def technique(made: Any, **section: Any) -> Any:
    average = SimpleNamespace(weights={n: p.detach().clone() for n, p in made.model.named_parameters()})
    run = Run(made.config, made.model, average, made.data, torch.device("cpu"), Mesh())  # type: ignore[arg-type]
    parsed = bench.parsed(section)
    return compose.TECHNIQUES[parsed.name](parsed, run)


def scored(model: Forecaster, batch: Any, rescored: Any = None) -> tuple[torch.Tensor, Any]:
    """Scores of a pass, and its steps."""
    seen: list[Any] = []

    def note(scores, steps):
        seen[:] = [scores, steps]
        return scores if rescored is None else rescored(scores, steps)

    model.rescored = note
    model.training_loss(batch, 2, batch.keys)
    model.rescored = None
    return seen[0], seen[1]


def test_samples_weigh_by_their_losses(made):
    scores, steps = scored(made.model, made.batch)
    found = technique(made, name="reweighting").scores(bench.now(), scores, steps)
    losses = (scores[0] * made.model.weights).flatten(1).sum(1)
    weights = loss_weights(losses)
    assert torch.allclose(found, scores * weights[:, None, None]) and weights.sum() == pytest.approx(3)
    alike = scores[:, :1].expand(-1, 3, -1, -1)
    assert technique(made, name="reweighting").scores(bench.now(), alike, steps).equal(alike)


def test_dropout_masks_average_to_the_score_of_a_head_without_weights(made):
    """And a mask keeps 1 - p of the features, scaled so that their mean stays."""
    dropout = technique(made, name="multi_sample_dropout", rate=0.3, masks=3)
    scores, steps = scored(made.model, made.batch)
    mask = dropout._mask(steps[0], steps[0].features.hidden, 0, 0)
    assert (mask > 0).float().mean() == pytest.approx(0.7, abs=0.01) and mask.max() == pytest.approx(1 / 0.7)
    assert not mask.equal(dropout._mask(steps[0], steps[0].features.hidden, 0, 1))
    away = dropout.scores(bench.now(), scores, steps)
    assert away.shape == scores.shape and not torch.allclose(away, scores)
    head = made.model.network.decoder.head
    with torch.no_grad():
        kept = head.weight.clone()
        head.weight.zero_()
        scores, steps = scored(made.model, made.batch)
        assert torch.allclose(dropout.scores(bench.now(), scores, steps), scores, rtol=1e-5, atol=1e-7)
        head.weight.copy_(kept)


def test_almost_no_dropout_is_almost_none(made):
    scores, steps = scored(made.model, made.batch)
    dropout = technique(made, name="multi_sample_dropout", rate=1e-12)
    assert torch.allclose(dropout.scores(bench.now(), scores, steps), scores, rtol=1e-4, atol=1e-6)


def test_instance_noise_falls_to_none(made):
    noise = technique(made, name="instance_noise", sigma=0.2, until=0.8)  # of 5 updates
    states, stdev = made.batch.states, noise._stdev
    first = noise.batch(bench.now(0), made.batch).states
    change = (first - states)[..., :2] / stdev[:2]
    assert change.std() == pytest.approx(0.2, rel=0.05) and abs(change.mean()) < 0.02
    half = noise.batch(bench.now(2), made.batch).states
    assert torch.allclose((half - states)[..., :2] * 2, (first - states)[..., :2], rtol=1e-2, atol=0.02)
    assert float(first[..., 2].min()) >= 0.0  # rain
    assert noise.batch(bench.now(4), made.batch) is made.batch
    alone = dataclasses.replace(made.batch, **{n: getattr(made.batch, n)[1:2] for n in
                                ("states", "forcings", "dates", "starts_from_analysis", "keys", "places")})  # fmt: skip
    assert noise.batch(bench.now(0), alone).states[0].equal(first[1])


def test_easy_regions_are_left_out_and_the_mean_weight_stays(made):
    hard = technique(made, name="hard_regions", ratio=0.5, across=2)
    scores, steps = scored(made.model, made.batch)
    assert hard.scores(bench.now(5), scores, steps) is scores  # nothing is known yet
    hard.step(bench.now(5), 0.1, lambda lr: None)
    area, score = hard._area, hard.kept["score"]
    total = torch.einsum("sbgv,gv->", scores, made.model.weights) / 3
    assert torch.allclose((score * area).sum(), total, rtol=1e-5)
    mask = hard.mask(0.5)
    assert float((mask * area).sum() / area.sum()) == pytest.approx(1, rel=1e-6)
    out = mask == 0
    assert 0.3 < float(area[out].sum() / area.sum()) <= 0.5 and score[out].max() <= score[~out].min()
    assert hard.mask(0.999999).count_nonzero() >= 1 and hard.mask(0.0) is None
    found = hard.scores(bench.now(5), scores, steps)
    assert torch.allclose(found, scores * mask[hard._cells][:, None])


def test_dates_of_most_gain_are_kept(made, monkeypatch, tmp_path):
    """Conditional losses that fall most on known windows: those, and only those, are drawn; the choice is saved."""
    assert date_selection.best(np.array([0.0, 3.0, 1.0, 3.0]), 0.5).tolist() == [1, 3]
    assert date_selection.best(np.zeros(4), 0.01).tolist() == [0]
    count = len(made.data.windows(1))
    rows = {"prior": torch.ones(count, 2), "conditional": torch.full((count, 2), 2.0)}
    rows["conditional"][[4, 7, 11]] = 0.0
    monkeypatch.setattr(date_selection, "window_scores", lambda run, folder, key: rows[folder])
    choose = technique(made, name="date_selection", prior="prior", conditional="conditional", keep=3 / count)
    drawn = choose.draw(bench.now().plan, np.arange(count), lambda among: among)
    assert drawn.tolist() == [4, 7, 11] and choose.kept["gain"].shape == (count,)


def test_gain_of_a_forecaster_over_itself_is_zero(archive, plain, made):
    choose = technique(made, name="date_selection", prior=str(plain / "latest"), conditional=str(plain / "latest"))
    choose.run.data.windows.cache_clear()
    few = dataclasses.replace(choose.run, data=Dataset(made.config.data, (made.data.period[0], made.data.period[0]
                              + np.timedelta64(24, "h")), made.data.truth))  # fmt: skip
    choose.run = few
    assert choose._gain().abs().max() == 0


def test_clusters_are_kept_apart():
    labels = np.array([0] * 4 + [1] * 4 + [2] * 4)
    order = cluster_batches.apart(np.random.default_rng(1).permutation(12), labels, 3)
    assert sorted(order) == list(range(12))
    assert all(len(set(labels[order[i : i + 3]])) == 3 for i in range(0, 12, 3))
    same = cluster_batches.apart(np.arange(6)[::-1], np.zeros(6, int), 3)
    assert same.tolist() == [5, 4, 3, 2, 1, 0]  # one label: as it was
    rows = np.concatenate([np.random.default_rng(2).normal(at, 0.1, (20, 3)) for at in (-5, 0, 5)])
    found = cluster_batches.clusters(rows, 3, 4)
    assert all(len(set(found[i : i + 20])) == 1 for i in (0, 20, 40)) and len(set(found)) == 3


def test_every_window_comes_once_an_epoch(archive, made):
    batches = technique(made, name="cluster_batches", clusters=4)
    count = len(made.data.windows(1))
    seen = []
    for update in range(count // 2):
        plan = dataclasses.replace(bench.now().plan)
        place = batches.draw(
            plan, np.arange(count), lambda among, u=update: draw(1, u, batch_size=2, windows=count, rollout=1)
        )
        seen += place.windows.tolist()
        labels = batches.kept["labels"][place.windows]
        apart = labels[0] != labels[1]
        assert apart or update > count // 4
    assert len(set(seen)) == len(seen)


def test_bandits_by_hand():
    assert archive_bandit.ucb1([1, 0, 0], [1.0, 0.0, 0.0]) == 1
    assert archive_bandit.ucb1([2, 2], [1.0, 1.5]) == 1
    assert archive_bandit.ucb1([50, 1], [25.0, 0.4]) == 1  # hardly tried
    assert archive_bandit.exp3([0.0, 0.0, 0.0], 1) == pytest.approx([1 / 3] * 3)
    assert archive_bandit.exp3([7.0], 9) == pytest.approx([1.0])
    e = (np.log(2) / 200) ** 0.5
    better = np.exp(e * 30) / (np.exp(e * 30) + 1)
    assert archive_bandit.exp3([30.0, 0.0], 100) == pytest.approx(
        [(1 - 2 * e) * better + e, (1 - 2 * e) * (1 - better) + e]
    )


def test_an_archive_that_is_the_runs_own_agrees(made, monkeypatch):
    """Reward 1 and the gradient times 1 + beta, where the auxiliary samples are those of the update."""
    bandit = technique(made, name="archive_bandit", archives=[str(made.data.truth.path)], beta=0.5)

    def evaluate(*_: Any) -> dict[str, torch.Tensor]:
        made.model.training_loss(made.batch, 2, made.batch.keys)["loss"].backward()
        return {}

    made.model.zero_grad()
    evaluate()
    own = {name: p.grad.clone() for name, p in made.model.named_parameters() if p.grad is not None}
    made.model.zero_grad()
    monkeypatch.setattr(archive_bandit, "load", lambda *_: made.batch)
    terms = bandit.gradients(bench.now(), evaluate)
    assert float(terms["techniques/archive_reward"]) == pytest.approx(1, rel=1e-5)
    assert all(torch.allclose(made.model.get_parameter(n).grad, 1.5 * g, rtol=1e-4, atol=1e-8) for n, g in own.items())
    assert bandit.noted["plays"] == [1]
    made.model.zero_grad()


def test_a_batch_in_pieces_is_refused_by_what_needs_it_whole(archive, tmp_path):
    with pytest.raises(Exception, match="`reweighting` takes a batch in one piece: set training.accumulate to 1"):
        bench.config(tmp_path, archive, "reweighting", accumulate=2)
    with pytest.raises(Exception, match="`sam` needs whole weights: set training.mesh.parameters to replicated"):
        bench.config(tmp_path, archive, "sam", mesh={"parameters": "sharded"})
