"""Techniques of optimisation, on a quadratic whose answers are known, and at the limits where they change nothing."""

from __future__ import annotations

import pytest
import torch

from forecast.core.errors import ForecastError
from pipelines.train import train
from tests.training.techniques import bench


def test_gradient_noise_has_the_published_variance_and_none_at_zero():
    model = torch.nn.Linear(300, 300, bias=False)
    noise = bench.technique(model, name="gradient_noise", eta=0.3)

    def evaluate():
        model.weight.grad = torch.zeros_like(model.weight)
        return {}

    for update in (0, 50):
        noise.gradients(bench.now(update), evaluate)
        assert float(model.weight.grad.var()) == pytest.approx(0.3 / (1 + update) ** 0.55, rel=0.02)
        assert abs(float(model.weight.grad.mean())) < 4 * (0.3 / 90000) ** 0.5
    first = model.weight.grad.clone()
    noise.gradients(bench.now(50), evaluate)
    assert model.weight.grad.equal(first)  # keyed by the update


@pytest.mark.parametrize("technique", [{"name": "gradient_noise", "eta": 0.0}, {"name": "sam", "rho": 0.0}])
def test_at_the_limit_training_is_plain(archive, plain, tmp_path, technique):
    assert bench.same(train(bench.config(tmp_path, archive, technique)), plain)


def test_sam_on_a_quadratic():
    model = bench.Quadratic()
    sam = bench.technique(model, name="sam", rho=0.3)
    slope, before = model.slope(), model.w.detach().clone()
    sam.gradients(bench.now(), model.evaluate)
    expected = model.slope(before + 0.3 * slope / slope.norm())
    assert torch.allclose(model.w.grad, expected, rtol=1e-6) and model.w.equal(before) and model.passes == 2


def test_sam_where_the_slope_is_zero():
    model = bench.Quadratic()
    model.w.data.copy_(model.c)
    bench.technique(model, name="sam").gradients(bench.now(), model.evaluate)
    assert model.w.grad.abs().max() == 0


def test_groups_of_sam(archive, tmp_path):
    """One group of everything is SAM; groups at rho 0 add up to the plain gradient."""
    everything = {"name": "sam", "rho": 0.1, "groups": [["z", "t_850", "tp"]]}
    stages = [{"updates": 2, "lr": 1e-3}]
    one = train(bench.config(tmp_path / "one", archive, everything, stages=stages))
    sam = train(bench.config(tmp_path / "sam", archive, {"name": "sam", "rho": 0.1}, stages=stages))
    assert bench.same(one, sam)
    first = {"stages": [{"updates": 1, "lr": 1e-3}]}
    parts = {"name": "sam", "rho": 0.0, "groups": [["z"], ["t_850"]]}
    split = bench.tensors(train(bench.config(tmp_path / "split", archive, parts, **first)) / "latest")
    whole = bench.tensors(train(bench.config(tmp_path / "whole", archive, **first)) / "latest")
    moments = [name for name in whole if "/exp_avg." in name]
    assert moments and all(torch.allclose(split[n], whole[n], rtol=1e-4, atol=1e-8) for n in moments)


@pytest.mark.parametrize(("groups", "says"), [([["q"]], "`q`, which is not"), ([["z"], ["z_500"]], "in two groups")])
def test_groups_that_make_no_sense(archive, tmp_path, groups, says):
    with pytest.raises(ForecastError, match=says):
        train(bench.config(tmp_path, archive, {"name": "sam", "groups": groups}))
