import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.core.errors import ForecastError
from forecast.losses.generative import marginal_consistency, overridden, score_forgetting
from forecast.losses.registry import build

ALL = ("marginal_consistency", "score_forgetting")


def three(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, *shape, dtype=torch.float64, generator=generator).unbind()


def test_marginals_by_hand():
    joint, part, rest = torch.tensor([-3.0]), torch.tensor([-1.0]), torch.tensor([-1.5])
    assert marginal_consistency(joint, part, rest, length=4).item() == pytest.approx(4 * 0.25)
    with_ends = marginal_consistency(joint, part, rest, torch.tensor(2.0), torch.tensor([-7.0]), length=4, boundary=0.5)
    assert with_ends.item() == pytest.approx(1.0 + 7.0 + 2.0)


def test_a_gaussian_obeys_the_chain_rule():
    x, y, _ = three(50)
    normal = torch.distributions.Normal(0.0, 1.0)
    r = 0.6
    joint = torch.distributions.MultivariateNormal(
        torch.zeros(2, dtype=torch.float64), torch.tensor([[1, r], [r, 1]], dtype=torch.float64)
    )
    conditional = torch.distributions.Normal(r * x, math.sqrt(1 - r * r)).log_prob(y)
    log_joint = joint.log_prob(torch.stack([x, y], -1))
    assert marginal_consistency(log_joint, normal.log_prob(x), conditional).item() == pytest.approx(0, abs=1e-20)
    assert marginal_consistency(log_joint, normal.log_prob(x), normal.log_prob(y)).item() > 0.01


def test_scores_by_hand():
    """x_g = 0, x_p = 2, 4 (omega 3), x_f = 1, 1: 1 (2 - 1.2) + 3 (4 - 3.6) = 2."""
    g, p, f = torch.zeros(1, 2), torch.tensor([[2.0, 4.0]]), torch.ones(1, 2)
    assert score_forgetting(g, p, f).item() == pytest.approx(2 / 3)
    assert score_forgetting(g, p, p).item() == 0
    assert score_forgetting(g, g, f, floor=0.5).item() == pytest.approx(-1.2 * 2 / 0.5)


def test_gradient_passes_through_all_three():
    g, p, f = (x.requires_grad_() for x in three(2, 3))
    for x in torch.autograd.grad(score_forgetting(g, p, f), (g, p, f)):
        assert x.abs().sum() > 0


def test_labels_to_forget_are_overridden():
    assert overridden(torch.tensor([0, 3, 2, 3, 1]), [3, 1], 2).tolist() == [0, 2, 2, 2, 2]


@pytest.mark.parametrize("name", ALL)
def test_gradient(name):
    given_ = [x.requires_grad_() for x in three(2, 3)]
    if name == "score_forgetting":  # omega is taken as given: beyond a floor above it, it is a constant
        loss = build({"name": name, "floor": 100.0})
    else:
        loss = build({"name": name, "length": 5.0})
        given_ += [
            torch.tensor(0.3, dtype=torch.float64, requires_grad=True),
            given_[0].detach().clone().requires_grad_(),
        ]
    assert torch.autograd.gradcheck(loss, tuple(given_))


@pytest.mark.parametrize("name", ALL)
def test_reductions_precision_and_nothing_kept(name):
    given_, loss = three(3, 4), build({"name": name})
    value = build({"name": name, "reduction": "none"})(*given_)
    assert value.shape == ((3,) if name == "score_forgetting" else (3, 4))
    w = torch.tensor([1.0, 0, 3], dtype=torch.float64).view(3, *[1] * (value.ndim - 1))
    torch.testing.assert_close(loss(*given_), value.mean())
    torch.testing.assert_close(loss(*given_, weight=w), (value * w).sum() / w.expand_as(value).sum())
    with torch.autocast("cpu", torch.bfloat16):
        assert loss(*[x.bfloat16() for x in given_]).dtype == torch.float32
    x = given_[0].requires_grad_()
    nothing = loss(*given_, mask=torch.zeros_like(value).bool())
    nothing.backward()
    assert nothing.item() == 0 and x.grad.abs().sum() == 0


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 50), shift=st.floats(-3, 3), scale=st.floats(0.1, 10))
def test_shift_and_scale(seed, shift, scale):
    a, b, c = three(2, 5, seed=seed)
    torch.testing.assert_close(marginal_consistency(a + shift, b + shift, c), marginal_consistency(a, b, c))
    moved = score_forgetting(*[scale * x + shift for x in (a, b, c)])
    torch.testing.assert_close(moved, scale * score_forgetting(a, b, c))  # degree 2 over degree 1


def test_bad_input():
    a, b, c = three(2, 3)
    for words, call in {
        "length=0": lambda: marginal_consistency(a, b, c, length=0),
        "conditional of shape": lambda: marginal_consistency(a, b, c[:1]),
        "everything of shape": lambda: marginal_consistency(a, b, c, None, c[:1]),
        "fake of shape": lambda: score_forgetting(a, b, c[:1]),
        "floor=0": lambda: score_forgetting(a, b, c, floor=0),
    }.items():
        with pytest.raises(ForecastError, match=words):
            call()
