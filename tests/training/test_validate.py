"""Validation scores against their formulae, written out."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from forecast.core.config import Config
from forecast.core.store import Store
from forecast.data.dataset import Dataset
from forecast.data.loader import collate
from forecast.models.forecaster import Forecaster
from forecast.training.validate import METRICS, Validation, rollout
from forecast.verification.scores import statistics_of
from forecast.verification.sums import Sums
from pipelines.train import forecaster
from tests import tiny

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    root = tmp_path_factory.mktemp("run")
    tiny.stores(root)
    return tiny.config(root, members=3)


@pytest.fixture(scope="module")
def data(config: Config) -> Dataset:
    truth, analysis = (Store.open(config.path(name)) for name in ("truth.zarr", "analysis.zarr"))
    return Dataset(config.data, config.data.validation, truth, analysis)


@pytest.fixture(scope="module")
def model(config: Config, data: Dataset) -> Forecaster:
    """A forecaster with spread: every weight moved off its start."""
    model = forecaster(config, data.truth)
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def test_scores_are_those_of_their_formulae(config: Config, data: Dataset, model: Forecaster) -> None:
    validation = Validation(data, config.training, config.seed)
    got = validation(model, CPU)
    crps, squares, variances, unbiased = (np.zeros((3, 2)) for _ in range(4))
    area = data.truth.grid.areas / data.truth.grid.areas.sum()
    for first in validation.firsts:
        sample = data.read(int(first), 2, int(first))
        assert sample.from_analysis
        batch = collate([sample], 2)
        for s, members in enumerate(rollout(model, batch, 3, config.seed)):
            x, y = members.astype(float), batch.targets[0, s].double().numpy()
            pairs = np.abs(x[:, None] - x[None]).sum(axis=(0, 1)) / (2 * 3 * 2)
            variance, square = x.var(axis=0, ddof=1), (x.mean(axis=0) - y) ** 2
            crps[:, s] += area @ (np.abs(x - y).mean(axis=0) - pairs) / len(validation.firsts)
            squares[:, s] += area @ square / len(validation.firsts)
            variances[:, s] += area @ variance
            unbiased[:, s] += area @ (square - variance / 3)
    stdev = data.truth.statistics["stdev"][:3, None]
    for v, name in enumerate(data.variables):
        assert got["fair_crps"][name] == pytest.approx(crps[v] / stdev[v], rel=1e-5)  # truth subtracted in float32
        assert got["rmse"][name] == pytest.approx(np.sqrt(squares[v]) / stdev[v], rel=1e-5)
        assert got["spread_skill"][name] == pytest.approx(np.sqrt(variances[v] / unbiased[v]), rel=1e-4)
    assert got["score"] == pytest.approx((crps / stdev).mean(), rel=1e-5)


def test_starts_are_spread_over_the_period_and_never_repeat(config: Config, data: Dataset) -> None:
    windows = data.windows(2)
    firsts = Validation(data, config.training.model_copy(update={"validation_starts": 5}), 1).firsts
    assert firsts[0] == windows[0] and firsts[-1] == windows[-1] and len(firsts) == 5
    assert np.ptp(np.diff(firsts)) <= 1
    many = Validation(data, config.training.model_copy(update={"validation_starts": 1000}), 1).firsts
    np.testing.assert_array_equal(many, windows)


def test_the_same_model_gets_the_same_scores(config: Config, data: Dataset, model: Forecaster) -> None:
    validation = Validation(data, config.training, config.seed)
    assert validation(model, CPU) == validation(model, CPU)


def test_members_differ_and_depend_on_the_seed_alone(config: Config, data: Dataset, model: Forecaster) -> None:
    batch = collate([data.read(int(data.windows(2)[0]), 2, 1)], 2)
    a, b, other = (list(rollout(model, batch, 3, seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert np.abs(a[0][0] - a[0][1]).max() > 0 and np.abs(a[0] - other[0]).max() > 0


def test_a_forecaster_that_blows_up_scores_none(config: Config, data: Dataset) -> None:
    model = forecaster(config, data.truth)
    with torch.no_grad():
        model.network.decoder.head.bias.fill_(float("inf"))
    scores = Validation(data, config.training, config.seed)(model, CPU)
    assert scores["score"] is None and scores["fair_crps"]["z_500"][0] is None


def test_gaps_of_masked_variables_are_left_out(config: Config, data: Dataset) -> None:
    """As if these points had no area."""
    rng, where, scores = np.random.default_rng(1), slice(30, 60), []
    members, truth = rng.standard_normal((3, 128, 3)), rng.standard_normal((128, 3))
    for gaps in (True, False):
        some = copy.copy(data)
        some.data = data.data.model_copy(update={"masked": ("t_850",) if gaps else ()})
        validation = Validation(some, config.training, 1)
        if gaps:
            truth[where, 1] = np.nan
        else:
            truth[where, 1] = 0.0
            validation._weights[where] = 0
            validation._weights /= validation._weights.sum()
        steps = np.array([config.data.step])
        sums = Sums.zeros(statistics_of(METRICS), {}, data.variables, data.truth.dates[:1], steps, ["globe"], members=3)
        validation._add(sums, 0, 0, members, truth, True)
        scores.append(validation._scores(sums))
    for metric in ("fair_crps", "rmse", "spread_skill"):
        assert scores[0][metric]["t_850"] == pytest.approx(scores[1][metric]["t_850"], rel=1e-6)
    assert scores[0]["score"] is not None
