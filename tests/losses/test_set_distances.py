import math

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import scoringrules
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.core.errors import ForecastError
from forecast.losses.registry import build
from forecast.losses.set_distances import energy_distance, frechet_distance, pulaski, sinkhorn_divergence

ALL = ("energy_distance", "sinkhorn_divergence", "frechet_distance", "pulaski")


def sets(members=4, references=3, field=(5,), seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, members, *field, dtype=dtype, generator=generator)
    return x, 0.5 + torch.randn(2, references, *field, dtype=dtype, generator=generator)


def test_energy_distance_by_hand():
    x, y = torch.tensor([[[0.0], [2.0]]]), torch.tensor([[[1.0], [5.0]]])
    # E|X - Y| = (1 + 5 + 1 + 3) / 4, E|X - X'| = 2 * 2 / 4, E|Y - Y'| = 2 * 4 / 4
    assert energy_distance(x, y, alpha=0.0).item() == pytest.approx(5 - 1 - 2)
    assert energy_distance(x, y, alpha=1.0).item() == pytest.approx(5 - 2 - 4)


def test_energy_distance_to_one_reference_is_twice_the_energy_score():
    x, y = sets(references=1)
    theirs = scoringrules.es_ensemble(y[:, 0].numpy(), x.numpy())
    np.testing.assert_allclose(energy_distance(x, y[:, 0], alpha=0.0, reduction="none").numpy(), 2 * theirs)


def test_energy_distance_in_one_dimension_is_cramers():
    x, y = sets(field=())
    grid = np.sort(np.concatenate([x[0], y[0]]))
    gap = np.searchsorted(np.sort(x[0]), grid, "right") / 4 - np.searchsorted(np.sort(y[0]), grid, "right") / 3
    cramer = 2 * (gap[:-1] ** 2 * np.diff(grid)).sum()
    assert energy_distance(x[:1], y[:1], alpha=0.0).item() == pytest.approx(cramer)


def test_only_distinct_pairs_leave_no_reward_for_little_spread():
    """Mean over samples of one distribution: 0 for alpha = 1, E|X - X'| (1/M + 1/N) for alpha = 0."""
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(40_000, m, 1, generator=generator) for m in (2, 4))
    # standard error of 40,000 values of standard deviation below 1.5: 0.008
    assert energy_distance(x, y, alpha=1.0).item() == pytest.approx(0, abs=0.04)
    assert energy_distance(x, y, alpha=0.0).item() == pytest.approx(2 / math.sqrt(math.pi) * 0.75, abs=0.04)


def test_sinkhorn_of_little_blur_is_optimal_transport():
    x, y = sets(5, 5)
    cost = (x[:, :, None] - y[:, None]).square().sum(-1) / 2
    best = [c[scipy.optimize.linear_sum_assignment(c)].mean() for c in cost.numpy()]
    ours = sinkhorn_divergence(x, y, blur=0.1, iterations=300, reduction="none")
    np.testing.assert_allclose(ours.numpy(), best, rtol=1e-4)


def test_sinkhorn_of_wide_blur_is_the_distance_of_means():
    x, y = sets()
    half = (x.mean(1) - y.mean(1)).square().sum(-1) / 2
    torch.testing.assert_close(sinkhorn_divergence(x, y, blur=1e3, reduction="none"), half, rtol=1e-4, atol=0)


@pytest.mark.parametrize(("p", "value"), [(1, 3.0), (2, 4.5)])
def test_sinkhorn_of_two_points_by_hand(p, value):
    x, y = torch.zeros(1, 1, 1), torch.full((1, 1, 1), 3.0)
    assert sinkhorn_divergence(x, y, p=p).item() == pytest.approx(value, rel=1e-5)


def test_frechet_distance_equals_its_definition():
    x, y = sets(9, 12, field=(3,))
    for a, b, ours in zip(x.numpy(), y.numpy(), frechet_distance(x, y, reduction="none"), strict=True):
        root = scipy.linalg.sqrtm(np.cov(a.T) @ np.cov(b.T)).real
        gap = ((a.mean(0) - b.mean(0)) ** 2).sum()
        assert ours.item() == pytest.approx(gap + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root))


def test_frechet_distance_in_one_dimension_by_hand():
    x, y = torch.tensor([[[0.0], [2.0]]]), torch.tensor([[[1.0], [7.0]]])  # means 1 and 4, deviations sqrt 2, sqrt 18
    assert frechet_distance(x, y).item() == pytest.approx(9 + (math.sqrt(2) - math.sqrt(18)) ** 2, rel=1e-5)


@pytest.mark.parametrize("name", ["energy_distance", "sinkhorn_divergence", "frechet_distance"])
def test_equal_sets_are_no_distance_apart(name):
    x, _ = sets()
    options = {"alpha": 0.0} if name == "energy_distance" else {}
    assert build({"name": name, **options})(x, x[:, torch.tensor([2, 0, 3, 1])]).item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("distance", ["energy", "sinkhorn", "frechet"])
def test_pulaski_adds_the_divergence(distance):
    x, y = sets()
    kl = torch.tensor([1.0, 3.0], dtype=torch.float64)
    alone = pulaski(x, y, distance=distance)
    torch.testing.assert_close(pulaski(x, y, kl, distance=distance, beta=0.5), alone + 1.0)


@pytest.mark.parametrize("name", ALL)
def test_gradient(name):
    x, y = (z.requires_grad_() for z in sets(3, 4, field=(2,)))
    loss = build({"name": name, **({"blur": 1.0} if name == "sinkhorn_divergence" else {})})
    assert torch.autograd.gradcheck(loss, (x, y), atol=1e-5, fast_mode=True)


@pytest.mark.parametrize("name", ALL)
def test_reductions_and_components(name):
    x, y = sets()
    loss = build({"name": name, "reduction": "none"})
    value = loss(x, y)
    assert value.shape == (2,)
    torch.testing.assert_close(build({"name": name})(x, y), value.mean())
    torch.testing.assert_close(build({"name": name, "reduction": "sum"})(x, y), value.sum())
    torch.testing.assert_close(build({"name": name, "reduction": "none", "ensemble_dim": 2})(x.mT, y.mT), value)
    area = torch.tensor([1.0, 4, 0, 1, 1], dtype=torch.float64)
    torch.testing.assert_close(loss(x, y, weight=area), loss(x * area.sqrt(), y * area.sqrt()))
    y[..., 2] = math.nan
    torch.testing.assert_close(loss(x, y, mask=area > 0), loss(x[..., area > 0], y[..., area > 0]))
    assert loss(x, y).isnan().all()


@pytest.mark.parametrize("name", ALL)
def test_nothing_kept_is_a_zero_with_a_graph(name):
    x, y = sets()
    loss = build({"name": name})(x.requires_grad_(), y, mask=torch.zeros(5, dtype=torch.bool))
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert x.grad.abs().sum() == 0


@pytest.mark.parametrize("name", ALL)
def test_half_precision_is_computed_in_float32(name):
    x, y = sets()
    with torch.autocast("cpu", torch.bfloat16):
        value = build({"name": name})(x.bfloat16(), y.bfloat16())
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, build({"name": name})(x.bfloat16().float(), y.bfloat16().float()))


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 50), shift=st.floats(-3, 3), name=st.sampled_from(ALL))
def test_rotations_shifts_and_order_of_members_change_nothing(seed, shift, name):
    x, y = sets(field=(3,), seed=seed)
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))).Q
    loss = build({"name": name, **({"blur": 1.0} if name == "sinkhorn_divergence" else {})})
    torch.testing.assert_close(loss((x @ turn + shift).flip(1), y @ turn + shift), loss(x, y), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "shapes", "words"),
    [
        ("energy_distance", {}, ((2, 1, 5), (2, 3, 5)), "members=1"),
        ("energy_distance", {"alpha": 2.0}, ((2, 4, 5), (2, 3, 5)), "alpha=2.0"),
        ("energy_distance", {}, ((2, 4, 5), (2, 3, 6)), r"references=\(2, 3, 6\)"),
        ("sinkhorn_divergence", {"blur": 0.0}, ((2, 4, 5), (2, 3, 5)), "blur=0.0"),
        ("sinkhorn_divergence", {"p": 3}, ((2, 4, 5), (2, 3, 5)), "p=3"),
        ("frechet_distance", {}, ((2, 4, 5), (2, 5)), "references=1"),
        ("pulaski", {"distance": "hausdorff"}, ((2, 4, 5), (2, 3, 5)), "distance='hausdorff'"),
    ],
)
def test_bad_input(name, options, shapes, words):
    with pytest.raises(ForecastError, match=words):
        build({"name": name, **options})(*[torch.zeros(shape) for shape in shapes])


def test_bad_weight_divergence_and_a_single_member():
    x, y = sets()
    with pytest.raises(ForecastError, match="weight of shape"):
        energy_distance(x, y, weight=torch.ones(4))
    with pytest.raises(ForecastError, match="divergence"):
        pulaski(x, y, torch.ones(3))
    alone = energy_distance(x[:, :1], y[:, 0], allow_deterministic=True, reduction="none")
    torch.testing.assert_close(alone, 2 * (x[:, 0] - y[:, 0]).norm(dim=-1))
