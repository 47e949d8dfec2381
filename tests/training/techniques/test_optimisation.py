"""Techniques of optimisation, on a quadratic whose answers are known, and at the limits where they change nothing."""

from __future__ import annotations

import itertools

import pytest
import torch

from forecast.core.errors import ForecastError
from forecast.training.techniques import adahessian, zeroth_order
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


def test_adahessian_finds_the_diagonal_of_a_quadratic(monkeypatch):
    """The mean of D over all signs is the diagonal, exactly; that of a diagonal Hessian at any signs."""
    model = bench.Quadratic(4)
    found = []
    for signs in itertools.product((-1.0, 1.0), repeat=4):
        z = torch.tensor(signs, dtype=torch.float64)
        monkeypatch.setattr(adahessian.AdaHessian, "_signs", lambda self, update, name, p, z=z: z)
        technique, slope = bench.technique(model, name="adahessian"), model.slope()
        model.w.grad = None
        technique.gradients(bench.now(), model.evaluate)
        found.append(technique.kept["diagonal.w"])
        assert torch.allclose(model.w.grad, slope)
    assert torch.allclose(torch.stack(found).mean(0), model.A.diagonal(), rtol=1e-8)
    model.A = torch.diag(torch.arange(1.0, 5.0, dtype=torch.float64))
    technique.gradients(bench.now(), model.evaluate)
    assert torch.allclose(technique.kept["diagonal.w"], model.A.diagonal(), rtol=1e-8)


def test_a_step_of_adahessian_by_hand():
    """On a diagonal quadratic the first step is Newton's, times the learning rate; the second by the formula."""
    model = bench.Quadratic(3)
    model.A = d = torch.diag(torch.tensor([1.0, 4.0, 9.0], dtype=torch.float64))
    technique = bench.technique(model, name="adahessian", eps=1e-12)
    m = torch.zeros(3, dtype=torch.float64)
    for t in (1, 2):
        model.w.grad, before, slope = None, model.w.detach().clone(), model.slope()
        technique.gradients(bench.now(t), model.evaluate)
        technique.step(bench.now(t), 0.15, lambda lr: pytest.fail("the optimiser's step is replaced"))
        m = 0.9 * m + 0.1 * slope
        newton = torch.linalg.solve(d, m / (1 - 0.9**t))  # h / (1 - b2^t) is D^2, as D stays the same
        assert torch.allclose(model.w.detach(), before - 0.15 * newton, rtol=1e-6)


def test_weights_of_many_axes_share_their_diagonal():
    d = adahessian._pooled(torch.arange(-4.0, 8.0).view(2, 2, 3))
    assert d[0, 0].tolist() == [3.0, 3.0, 3.0] and d[1, 1].tolist() == [6.0, 6.0, 6.0]


def test_normalised_steps_are_as_long_as_the_learning_rate():
    model = bench.Quadratic()
    model.evaluate()
    before, slope = model.w.detach().clone(), model.slope()
    technique = bench.technique(model, name="normalised_descent")
    technique.step(bench.now(), 0.25, lambda lr: pytest.fail("the optimiser's step is replaced"))
    assert torch.allclose(model.w.detach(), before - 0.25 * slope / slope.norm())
    model.w.grad.zero_()
    here = model.w.detach().clone()
    technique.step(bench.now(), 0.25, lambda lr: None)
    assert model.w.equal(here)


def test_a_zeroth_order_step_is_the_slope_along_keyed_noise():
    model = bench.Quadratic()
    technique = bench.technique(model, name="zeroth_order", directions=2)
    before, slope = model.w.detach().clone(), model.slope()
    technique.gradients(bench.now(7), model.evaluate)
    assert model.w.grad is None and model.w.equal(before) and model.passes == 4
    z = [technique._direction(7, 0, k)[0] for k in range(2)]
    exact = torch.stack([slope @ direction for direction in z])
    assert technique.kept["slopes"].dtype == torch.uint8 and technique.kept["slopes"].shape == (1, 2)
    assert torch.allclose(zeroth_order.decode(technique.kept["slopes"])[0], exact, rtol=0.125)
    technique.step(bench.now(7), 0.01, lambda lr: pytest.fail("the optimiser's step is replaced"))
    slopes = zeroth_order.decode(zeroth_order.encode(exact))
    expected = before - 0.01 * (slopes[0] * z[0] + slopes[1] * z[1]) / 2
    assert torch.allclose(model.w.detach(), expected, rtol=1e-12)


def test_who_knows_seed_and_byte_makes_the_same_step():
    ours, theirs = bench.Quadratic(), bench.Quadratic()
    one, other = (bench.technique(model, name="zeroth_order") for model in (ours, theirs))
    for update in range(30):
        one.gradients(bench.now(update), ours.evaluate)
        other.kept["slopes"] = torch.frombuffer(bytearray(bytes(one.kept["slopes"][0].tolist())), dtype=torch.uint8)[
            None
        ]
        one.step(bench.now(update), 0.02, lambda lr: None)
        other.step(bench.now(update), 0.02, lambda lr: None)
    assert theirs.passes == 0 and ours.w.equal(theirs.w)
    assert ours.loss().item() < 0.5 * bench.Quadratic().loss().item()


def test_bytes_are_near_and_never_infinite():
    values = torch.tensor([0.0, 1.0, -3.1, 1e9, -1e9, 1e-3])
    back = zeroth_order.decode(zeroth_order.encode(values))
    assert back.isfinite().all() and torch.allclose(back[[0, 1, 2, 5]].float(), values[[0, 1, 2, 5]], rtol=0.125)


@pytest.mark.parametrize("name", ["adahessian", "normalised_descent", "zeroth_order"])
def test_those_in_the_optimisers_place_run_stop_and_go_on(archive, tmp_path, name):
    whole = train(bench.config(tmp_path / "whole", archive, name))
    assert not any("/exp_avg." in key for key in bench.tensors(whole / "latest"))
    train(bench.config(tmp_path / "other", archive, name), until=3)
    assert bench.exactly(train(bench.config(tmp_path / "other", archive, name), resume=True), whole)
