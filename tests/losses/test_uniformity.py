import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.core.errors import ForecastError
from forecast.losses.uniformity import alignment, joint_entropy, supervised_alignment, tolerance, uniformity
from tests.losses import cases
from tests.losses.cases import Case, normal


def views(count):
    return normal(count, 3), normal(count, 3, seed=1)


OF_SETS = [
    Case(uniformity, lambda n: (normal(n, 3),), without=("reduction",)),
    Case(supervised_alignment, lambda n: (normal(n, 3), 0.2 * normal(n, seed=1)), fixed=(1,), without=("reduction",)),
]
ALL = [*OF_SETS, Case(alignment, views, without=("chunks",)), Case(joint_entropy, views, without=("weight",))]


class TestEvery(cases.Every):
    CASES = ALL


@pytest.mark.parametrize("case", ALL, ids=str)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 100))
def test_rotation_and_order_do_not_matter(case, seed):
    torch.manual_seed(seed)
    first, second = case.draw()[0], case.draw()[1:]
    turn, order = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0], torch.randperm(len(first))
    turned = [x @ turn if x.ndim == 2 else x for x in (first, *second)]
    torch.testing.assert_close(case(*turned), case(first, *second))
    torch.testing.assert_close(case(first[order], *(x[order] for x in second)), case(first, *second))


def test_by_hand():
    x, y = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[0.0, 3.0], [0.0, 1.0]])
    assert alignment(x, y).item() == pytest.approx((2 + 0) / 2)  # tau 0.5
    assert alignment(x, y, tau=1.0, normalize=False).item() == pytest.approx((10 + 1) / 2 / 2)
    assert uniformity(x).item() == pytest.approx(-4)  # one pair, squared distance 2, t 2
    assert uniformity(x, sharpness=1.0).item() == pytest.approx(-2)  # tau 0.5 of SepCLR
    # each row: itself (0) and the other (distances 2 + 2)
    assert joint_entropy(x, x).item() == pytest.approx(math.log((1 + math.exp(-4)) / 2))
    labels = torch.tensor([0.0, 0.1])
    expected = math.exp(-0.01 / 0.05) * 5
    assert supervised_alignment(x, labels).item() == pytest.approx(expected, rel=1e-5)


def test_identical_points_give_zero():
    x = torch.ones(4, 3, dtype=torch.float64)
    for case in ALL:
        second = () if case.function is uniformity else (x,)
        assert case(x, *second).item() == pytest.approx(0, abs=1e-15)


@given(seed=st.integers(0, 200))
@settings(max_examples=20, deadline=None)
def test_joint_entropy_is_between_minus_log_n_and_either_latent_alone(seed):
    c, s = normal(6, 3, seed=seed), normal(6, 4, seed=seed + 1)
    none = torch.zeros(6, 1, dtype=torch.float64)
    both = joint_entropy(c, s)
    assert -math.log(6) <= both <= 0
    assert both <= min(joint_entropy(c, none), joint_entropy(none, s))


def test_uniformity_equals_pdist():
    x = torch.nn.functional.normalize(normal(7, 3))
    expected = torch.pdist(x).square().mul(-2).exp().mean().log()
    torch.testing.assert_close(uniformity(x), expected)


@pytest.mark.parametrize("case", OF_SETS, ids=str)
def test_a_whole_weight_is_a_repeated_sample_but_for_its_own_pairs(case):
    inputs = case.draw()
    weight = torch.tensor([1.0, 0.0, 3.0, 1.0, 2.0], dtype=torch.float64)
    torch.testing.assert_close(case(*inputs, weight=2 * weight), case(*inputs, weight=weight))
    even = torch.full((5,), 0.3, dtype=torch.float64)
    torch.testing.assert_close(case(*inputs, weight=even), case(*inputs))
    torch.testing.assert_close(
        case(*inputs, weight=torch.tensor([1.0, 0, 1, 0, 0])), case(*(x[[0, 2]] for x in inputs))
    )


@pytest.mark.parametrize("case", OF_SETS, ids=str)
def test_one_sample_gives_zero(case):
    assert case(*case.draw(1)).item() == 0.0


def test_tolerance():
    x, labels = normal(9, 4), torch.tensor([0, 0, 1, 2, 2, 2, 5, 5, 0])
    unit = torch.nn.functional.normalize(x)
    same = (labels[:, None] == labels) & ~torch.eye(9, dtype=torch.bool)
    torch.testing.assert_close(tolerance(x, labels), (unit @ unit.T)[same].mean())
    assert tolerance(x, torch.arange(9)).item() == 0.0
    with pytest.raises(ForecastError, match="labels="):
        tolerance(x, labels[:3])


def test_bad_input():
    x = normal(4, 3)
    for call in (lambda: alignment(x, x, tau=0.0), lambda: joint_entropy(x, x, tau=-1.0)):
        with pytest.raises(ForecastError, match="tau="):
            call()
    with pytest.raises(ForecastError, match="sharpness=0"):
        uniformity(x, sharpness=0.0)
    with pytest.raises(ForecastError, match="salient="):
        joint_entropy(x, x[:2])
    with pytest.raises(ForecastError, match="labels="):
        supervised_alignment(x, torch.zeros(3))
