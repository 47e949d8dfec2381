import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Bernoulli, Categorical, kl_divergence
from torch.nn.functional import cross_entropy

from forecast.core.errors import ForecastError
from forecast.losses.distillation import (
    binary_kl,
    binary_kl_norm,
    class_mean_features,
    kl_top,
    module_distillation,
    norm_direction,
    self_distillation,
)
from forecast.losses.registry import build

LABELS = torch.tensor([0, 2, 1])
BY_LOGITS = ("soft_targets", "kl_top", "binary_kl", "binary_kl_norm")
ALL = (*BY_LOGITS, "norm_direction", "self_distillation", "module_distillation")


def numbers(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def inputs(name, seed=0):
    """Student, teacher, and what else the loss takes, for three samples."""
    s, t = 2 * numbers(3, 4, seed=seed), 2 * numbers(3, 4, seed=seed + 1)
    more = {
        "norm_direction": (LABELS, numbers(3, 4, seed=seed + 2)),
        "self_distillation": (numbers(3, 4, seed=seed + 2),),
        "module_distillation": (LABELS,),
    }
    return s, t, *more.get(name, ())


def test_by_hand():
    s, t = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, math.log(3)]])
    soft = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert build({"name": "soft_targets", "temperature": 1.0})(s, t).item() == pytest.approx(soft, abs=1e-6)
    assert build({"name": "binary_kl", "temperature": 1.0})(s, t).item() == pytest.approx(soft, abs=1e-6)
    norm = 4 * math.log(math.cosh(math.log(3) / 4))
    assert binary_kl_norm(s, t).item() == pytest.approx(norm, abs=1e-6)
    assert self_distillation(s, t, s - 1).mean().item() == pytest.approx((0.5 + 0.5 + 0.5 * math.log(3) ** 2) / 2)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_equal_torch_distributions(temperature):
    s, t = inputs("soft_targets")
    hot = {"temperature": temperature, "reduction": "none"}
    of_classes = kl_divergence(Categorical(logits=t / temperature), Categorical(logits=s / temperature))
    of_events = kl_divergence(Bernoulli(logits=t / temperature), Bernoulli(logits=s / temperature)).sum(-1)
    coin = Bernoulli(torch.full_like(s, 0.5))
    of_half = kl_divergence(coin, Bernoulli(logits=(s - t) / temperature)).sum(-1)
    for name, expected in (("soft_targets", of_classes), ("binary_kl", of_events), ("binary_kl_norm", of_half)):
        torch.testing.assert_close(build({"name": name, **hot})(s, t), temperature**2 * expected)


def test_top_classes_limits():
    s, t = inputs("kl_top")
    whole = build({"name": "soft_targets", "temperature": 1.0})(s, t)
    for k in (4, 1000):
        torch.testing.assert_close(kl_top(s, t, k=k), whole)
    torch.testing.assert_close(kl_top(s, t, k=3, other=True), whole)  # the rest is one class, itself
    assert kl_top(s, t, k=1).item() == 0
    merged = kl_top(s, t, k=2, other=True)
    assert 0 < merged < whole  # the data processing inequality
    best = t.topk(2).indices
    pairs = kl_divergence(Categorical(logits=t.gather(1, best)), Categorical(logits=s.gather(1, best)))
    torch.testing.assert_close(kl_top(s, t, k=2), pairs.mean())


def test_without_the_rest_the_tail_is_free():
    s, t = inputs("kl_top")
    last = t.argmin(1, keepdim=True)
    moved = s.scatter_add(1, last, torch.full_like(s[:, :1], 3.0))
    torch.testing.assert_close(kl_top(moved, t, k=3), kl_top(s, t, k=3))
    assert kl_top(moved, t, k=2, other=True) != kl_top(s, t, k=2, other=True)


def test_far_logits_keep_their_gradient():
    """A clamped sigmoid has none beyond |s - t| of about 37."""
    s = torch.tensor([[200.0, -300.0]], requires_grad=True)
    binary_kl_norm(s, torch.zeros(1, 2)).backward()
    torch.testing.assert_close(s.grad, torch.tensor([[1.0, -1.0]]))


def test_high_temperatures_leave_a_squared_difference():
    s, t = inputs("binary_kl")
    expected = (s - t).square().sum(-1).mean() / 8
    for loss in (binary_kl_norm, binary_kl):
        torch.testing.assert_close(loss(s, t, temperature=1e3), expected, rtol=1e-4, atol=0)


def test_norm_direction_by_hand():
    means = torch.tensor([[2.0, 0.0], [0.0, 5.0], [0.0, 0.0]])
    teacher = torch.tensor([[2.0, 0.0]]).expand(5, 2)
    student = torch.tensor([[3.0, 0.0], [1.0, 0.0], [-4.0, 0.0], [3.0, 4.0], [0.0, 0.0]])
    labels = torch.tensor([0, 0, 0, 1, 2])
    value = norm_direction(student, teacher, labels, means, reduction="none")
    torch.testing.assert_close(value, torch.tensor([0.0, 0.5, 2.0, 0.2, 1.0]))


def test_norm_direction_at_zero_has_a_finite_gradient():
    s = torch.zeros(1, 2, requires_grad=True)
    norm_direction(s, torch.zeros(1, 2), torch.tensor([0]), torch.ones(1, 2)).backward()
    assert s.grad.isfinite().all()


def test_class_means():
    features = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 0.0]])
    means = class_mean_features(features, torch.tensor([1, 1, 0]), 3)
    torch.testing.assert_close(means, torch.tensor([[5.0, 0.0], [2.0, 3.0], [0.0, 0.0]]))


def test_self_distillation_is_regression_to_a_mixture():
    f, previous, truth = inputs("self_distillation")
    mixture = 0.3 * truth + 0.7 * previous
    constant = 0.3 * 0.7 * (truth - previous).square()
    value = self_distillation(f, previous, truth, alpha=0.3, reduction="none")
    torch.testing.assert_close(value, (f - mixture).square() + constant)
    torch.testing.assert_close(self_distillation(f, previous, truth, alpha=1.0), (f - truth).square().mean())


def test_module_distillation_limits():
    s, t, labels = inputs("module_distillation")
    torch.testing.assert_close(module_distillation(s, t, labels, alpha=0.0), cross_entropy(s, labels))
    whole = build({"name": "soft_targets", "temperature": 3.0})(s, t)
    torch.testing.assert_close(module_distillation(s, t, labels, alpha=1.0, temperature=3.0), whole)
    ignored = torch.tensor([0, -100, 1])
    kept = torch.tensor([0, 2])
    expected = module_distillation(s[kept], t[kept], ignored[kept])
    torch.testing.assert_close(module_distillation(s, t, ignored), expected)


@pytest.mark.parametrize("name", ALL)
def test_gradients_reach_the_student_only(name):
    s, t, *more = inputs(name)
    loss = build({"name": name})
    assert torch.autograd.gradcheck(lambda x: loss(x, t, *more), (s.requires_grad_(),))
    t.requires_grad_()
    loss(s, t, *more).backward()
    assert t.grad is None


@pytest.mark.parametrize("name", ALL)
def test_reductions_and_masks(name):
    given_, w = inputs(name), torch.tensor([1.0, 0.0, 3.0], dtype=torch.float64)
    value = build({"name": name, "reduction": "none"})(*given_)
    assert value.shape == ((3, 4) if name == "self_distillation" else (3,))
    factor = w[:, None] if value.ndim == 2 else w
    loss = build({"name": name})
    torch.testing.assert_close(loss(*given_), value.mean())
    torch.testing.assert_close(build({"name": name, "reduction": "sum"})(*given_), value.sum())
    torch.testing.assert_close(loss(*given_, weight=factor), (value * factor).sum() / (4 * value[0].numel()))
    torch.testing.assert_close(loss(*given_, mask=factor > 0), value[w > 0].mean())
    s = given_[0].requires_grad_()
    nothing = loss(s, *given_[1:], mask=torch.zeros_like(factor).bool())
    nothing.backward()
    assert nothing.item() == 0 and s.grad.abs().sum() == 0


@pytest.mark.parametrize("name", ALL)
def test_half_precision_is_computed_in_float32(name):
    half = [x.bfloat16() if x.is_floating_point() else x for x in inputs(name)]
    with torch.autocast("cpu", torch.bfloat16):
        value = build({"name": name})(*half)
    assert value.dtype == torch.float32
    full = [x.float() if x.is_floating_point() else x for x in half]
    torch.testing.assert_close(value, build({"name": name})(*full))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 50), shift=st.floats(-5, 5), name=st.sampled_from(BY_LOGITS))
def test_never_negative_zero_when_equal_and_blind_to_order(seed, shift, name):
    s, t = inputs(name, seed)
    loss = build({"name": name})
    assert loss(s, t) >= 0
    assert loss(t, t).item() == pytest.approx(0, abs=1e-12)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(loss(s[:, order], t[:, order]), loss(s, t))
    if name in ("soft_targets", "kl_top"):
        torch.testing.assert_close(loss(s + shift, t - shift), loss(s, t))
    if name == "binary_kl_norm":
        torch.testing.assert_close(loss(s + shift, t + shift), loss(s, t))


@pytest.mark.parametrize("name", (*BY_LOGITS, "module_distillation"))
def test_classes_lie_along_any_dimension(name):
    s, t, *more = inputs(name)
    value = build({"name": name})(s, t, *more)
    torch.testing.assert_close(build({"name": name, "class_dim": 0})(s.mT, t.mT, *more), value)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("soft_targets", {"temperature": -1.0}, "temperature=-1.0"),
        ("binary_kl", {"temperature": 0.0}, "temperature=0.0"),
        ("kl_top", {"k": 0}, "k=0"),
        ("kl_top", {"class_dim": 2}, "class_dim=2"),
        ("self_distillation", {"alpha": 2.0}, "alpha=2.0"),
        ("module_distillation", {"alpha": -1.0}, "alpha=-1.0"),
    ],
)
def test_bad_options(name, options, words):
    with pytest.raises(ForecastError, match=words):
        build({"name": name, **options})(*inputs(name))


def test_bad_labels_and_shapes():
    s, t, labels, means = inputs("norm_direction")
    for words, call in {
        "teacher of shape": lambda: binary_kl(s, t[:2]),
        "4 must be a class number": lambda: module_distillation(s, t, labels + 2),
        "3 must be a class number": lambda: norm_direction(s, t, labels + 1, means),
        "class_means": lambda: norm_direction(s, t, labels, means[:, :2]),
    }.items():
        with pytest.raises(ForecastError, match=words):
            call()
