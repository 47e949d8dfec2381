import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.core.errors import ForecastError
from forecast.losses import regression
from forecast.losses.registry import build, entry

POINTWISE = ("mse", "mae", "huber", "log_cosh")
ALL = (*POINTWISE, "assistive_teacher_regression")


def fields(count, shape=(2, 5), seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, dtype=dtype, generator=generator) for _ in range(count)]


def inputs(name, **kwargs):
    return fields(4 if name == "assistive_teacher_regression" else 2, **kwargs)


@pytest.mark.parametrize(
    ("name", "error", "value"),
    [
        ("mse", 3.0, 9.0),
        ("mae", -3.0, 3.0),
        ("huber", 0.5, 0.125),
        ("huber", -3.0, 2.5),
        ("log_cosh", 2.0, math.log(math.cosh(2.0))),
        ("log_cosh", -200.0, 200 - math.log(2)),
    ],
)
def test_by_hand(name, error, value):
    x = torch.tensor([error + 1], dtype=torch.float64)
    assert build({"name": name})(x, torch.ones(1, dtype=torch.float64)).item() == pytest.approx(value, rel=1e-12)


def test_assistance_by_hand():
    """Truth 0; tough teacher off by 1, tolerant by 2 (below and above: mirrored to the student's side)."""
    student = torch.tensor([0.1, 0.5, 1.5, 3.0, -3.0, 0.0], dtype=torch.float64)
    truth, tough, tolerant = torch.zeros_like(student), -torch.ones_like(student), torch.full_like(student, 2.0)
    main, assist = regression.assistive_terms(student, truth, tough, tolerant)
    torch.testing.assert_close(main, torch.tensor([0.3, 1.5, 4.5, 11.0, 11.0, 0.0], dtype=torch.float64))
    by_tough = [0, -0.45 * 0.5, 1.9 * 0.5, 1.9 * 2, 1.9 * 2, 0]
    by_tolerant = [0, -0.4 * 1.5, -0.4 * 0.5, 1.8, 1.8, 0]
    expected = torch.tensor([a + b for a, b in zip(by_tough, by_tolerant, strict=True)], dtype=torch.float64)
    torch.testing.assert_close(assist, expected)
    total = regression.assistive_teacher_regression(student, truth, tough, tolerant, reduction="none")
    torch.testing.assert_close(total, 2 * main + assist)


def test_teachers_that_are_the_truth_leave_a_multiple_of_the_error():
    student, truth = fields(2)
    main, assist = regression.assistive_terms(student, truth, truth, truth)
    torch.testing.assert_close(assist, 3.7 * (student - truth).abs())
    torch.testing.assert_close(main, (student - truth).square())


def test_signed_weights_make_the_value_negative():
    """A trait of the published loss: said, and the main term never is."""
    student, truth = torch.tensor([0.2]), torch.zeros(1)
    tough, tolerant = torch.ones(1), torch.tensor([5.0])
    main, _ = regression.assistive_terms(student, truth, tough, tolerant, near=0.0)
    assert main.item() > 0
    assert regression.assistive_teacher_regression(student, truth, tough, tolerant, near=0.0).item() < 0


def test_teachers_get_no_gradient():
    student, truth, tough, tolerant = (x.requires_grad_() for x in fields(4))
    regression.assistive_teacher_regression(student, truth, tough, tolerant).backward()
    assert student.grad.abs().sum() > 0
    assert tough.grad is None and tolerant.grad is None


def test_limits():
    x, y = fields(2)
    small, large = 1e-4, 1e4
    torch.testing.assert_close(regression.huber(x, y, delta=large), 0.5 * regression.mse(x, y))
    torch.testing.assert_close(regression.log_cosh(x, y, scale=large), 0.5 * regression.mse(x, y), rtol=1e-6, atol=0)
    torch.testing.assert_close(regression.huber(x, y, delta=small) / small, regression.mae(x, y), atol=1e-4, rtol=0)
    torch.testing.assert_close(regression.log_cosh(x, y, scale=small) / small, regression.mae(x, y), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ALL)
def test_gradient(name):
    differentiable = 2 if name in POINTWISE else 1  # teachers' reach is taken as given
    given_ = [x.requires_grad_(i < differentiable) for i, x in enumerate(inputs(name, shape=(2, 3)))]
    assert torch.autograd.gradcheck(build({"name": name}), tuple(given_))


@pytest.mark.parametrize("name", ALL)
def test_reductions_weights_and_masks(name):
    made = {r: build({"name": name, "reduction": r}) for r in ("none", "mean", "sum")}
    given_ = inputs(name)
    value, area = made["none"](*given_), torch.tensor([1.0, 2, 0, 4, 1], dtype=torch.float64)
    assert value.shape == (2, 5)
    torch.testing.assert_close(made["mean"](*given_), value.sum() / 10)
    torch.testing.assert_close(made["sum"](*given_, weight=area), (value * area).sum())
    torch.testing.assert_close(made["mean"](*given_, weight=area), (value * area).sum() / 16)
    given_[1][0, 1] = math.nan
    assert made["mean"](*given_).isnan()
    kept = ~given_[1].isnan()
    torch.testing.assert_close(made["mean"](*given_, mask=kept), value[kept].mean())


@pytest.mark.parametrize("name", ALL)
def test_nothing_kept_is_a_zero_with_a_graph(name):
    given_ = inputs(name)
    x = given_[0].requires_grad_()
    loss = build({"name": name})(*given_, mask=torch.zeros(1, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0 and x.grad.abs().sum() == 0


@pytest.mark.parametrize("name", ALL)
def test_half_precision_is_computed_in_float32(name):
    given_ = [x.bfloat16() for x in inputs(name)]
    with torch.autocast("cpu", torch.bfloat16):
        value = build({"name": name})(*given_)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, build({"name": name})(*[x.float() for x in given_]))


@settings(max_examples=20, deadline=None)
@given(shift=st.floats(-5, 5), seed=st.integers(0, 50), name=st.sampled_from(ALL))
def test_only_differences_count_and_both_signs_alike(shift, seed, name):
    given_, loss = inputs(name, seed=seed), build({"name": name})
    torch.testing.assert_close(loss(*[x + shift for x in given_]), loss(*given_))
    torch.testing.assert_close(loss(*[-x for x in given_]), loss(*given_))
    if name in POINTWISE:
        assert loss(*given_) > 0
        assert loss(given_[0], given_[0]) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("huber", {"delta": 0.0}, "delta=0.0"),
        ("log_cosh", {"scale": -1.0}, "scale=-1.0"),
        ("assistive_teacher_regression", {"near": 2.0}, "near=2.0"),
        ("mse", {"reduction": "average"}, "reduction='average'"),
    ],
)
def test_bad_options(name, options, words):
    with pytest.raises(ForecastError, match=words):
        build({"name": name, **options})(*inputs(name))


@pytest.mark.parametrize("name", ALL)
def test_shapes_must_match(name):
    given_ = inputs(name)
    with pytest.raises(ForecastError, match=r"truth of shape \(2, 4\)"):
        build({"name": name})(given_[0], given_[1][:, :4], *given_[2:])
    assert entry(name).status == "verified"
