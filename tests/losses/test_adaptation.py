import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from forecast.core.errors import ForecastError
from forecast.losses.adaptation import AlphaBatchNorm, alpha_norm, follow, mix_statistics, petal, restore, swag_diagonal
from forecast.losses.registry import build


def numbers(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_mixed_statistics_by_hand():
    """Batch mean 2, variance 1; training 0 and 3; halves: 1 and 2."""
    x = torch.tensor([[1.0], [3.0]])
    value = alpha_norm(x, torch.zeros(1), torch.tensor([3.0]), alpha=0.5, eps=0.0)
    torch.testing.assert_close(value, torch.tensor([[0.0], [2.0]]) / math.sqrt(2))


@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 5), (2, 3, 4, 5)])
def test_mixed_statistics_limits(shape):
    x, mean, variance = numbers(*shape), numbers(3, seed=1), numbers(3, seed=2).exp()
    plain = nn.functional.batch_norm(x, mean, variance)
    torch.testing.assert_close(alpha_norm(x, mean, variance, alpha=1.0), plain)
    torch.testing.assert_close(
        alpha_norm(x, mean, variance, alpha=0.0), nn.functional.batch_norm(x, None, None, training=True)
    )
    assert torch.autograd.gradcheck(lambda z: alpha_norm(z, mean, variance), (x.requires_grad_(),), fast_mode=True)


@settings(max_examples=15, deadline=None)
@given(shift=st.floats(-3, 3), scale=st.floats(0.2, 5))
def test_statistics_of_the_batch_alone_forget_shift_and_scale(shift, scale):
    x = numbers(8, 3)
    z = [
        alpha_norm(v, torch.zeros(3).double(), torch.ones(3).double(), alpha=0.0, eps=0.0)
        for v in (x, scale * x + shift)
    ]
    torch.testing.assert_close(*z)


def test_a_model_is_changed_in_place_and_keeps_its_weights():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(2, 3, 1), nn.Sequential(nn.BatchNorm1d(3)), nn.BatchNorm1d(3, affine=False))
    model(torch.randn(4, 2, 5))
    model.eval()
    x = 2 + torch.randn(4, 2, 5)
    before, state = model(x), {k: v.clone() for k, v in model.state_dict().items()}
    torch.testing.assert_close(mix_statistics(copy.deepcopy(model), alpha=1.0)(x), before)
    changed = mix_statistics(model, alpha=0.5)
    assert (changed(x) - before).abs().max() > 0.01
    assert sorted(map(str, state)) == sorted(k.replace(".trained", "") for k in changed.state_dict())
    assert isinstance(mix_statistics(nn.BatchNorm1d(3)), AlphaBatchNorm)
    with pytest.raises(ForecastError, match="nothing to mix"):
        AlphaBatchNorm(nn.BatchNorm1d(3, track_running_stats=False))


def test_petal_by_hand():
    student, teacher = torch.zeros(1, 2), torch.tensor([[0.0, math.log(3)]])
    prior = ([torch.tensor([1.0, 3.0])], [torch.tensor([0.0, 1.0])], [torch.tensor([0.5, 2.0])])
    expected = math.log(2) + 0.1 * (1 / 1 + 4 / 4)
    assert petal(student, teacher, *prior, strength=0.1).item() == pytest.approx(expected, rel=1e-6)


def test_without_a_prior_it_is_self_training():
    s, t = numbers(3, 4), numbers(3, 4, seed=1)
    expected = nn.functional.cross_entropy(s, t.softmax(-1))
    torch.testing.assert_close(petal(s, t), expected)
    torch.testing.assert_close(petal(s, t, [s], [t], [s.exp()], strength=0.0), expected)
    torch.testing.assert_close(petal(s.mT, t.mT, class_dim=0), expected)


def test_petal_gradient_reduction_and_precision():
    s, t, w = numbers(3, 4), numbers(3, 4, seed=1).requires_grad_(), numbers(2, seed=2).requires_grad_()
    prior = [torch.zeros(2).double()], [torch.ones(2).double()]
    assert torch.autograd.gradcheck(
        lambda a, b: petal(a, t.detach(), [b], *prior, strength=0.3), (s.requires_grad_(), w)
    )
    petal(s, t).backward()
    assert t.grad is None
    value, factor = petal(s, t, reduction="none"), torch.tensor([1.0, 0, 3], dtype=torch.float64)
    torch.testing.assert_close(petal(s, t), value.mean())
    torch.testing.assert_close(petal(s, t, weight=factor), (value * factor).sum() / 4)
    nothing = petal(s, t, mask=torch.zeros(3).bool())
    assert nothing.item() == 0 and torch.autograd.grad(nothing, s)[0].abs().sum() == 0
    with torch.autocast("cpu", torch.bfloat16):
        assert build({"name": "petal"})(s.bfloat16(), t.bfloat16()).dtype == torch.float32
        assert build({"name": "alpha_norm"})(s.bfloat16(), torch.zeros(4), torch.ones(4)).dtype == torch.float32


def test_snapshots_give_mean_and_variance():
    snapshots = [[torch.tensor([0.0, 5.0])], [torch.tensor([2.0, 5.0])]]
    means, variances = swag_diagonal(snapshots, floor=0.01)
    assert means[0].tolist() == [1.0, 5.0]
    assert variances[0].tolist() == pytest.approx([1.0, 0.01])


def test_teacher_follows():
    teacher, student = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    nn.init.constant_(student.weight, 3.0)
    student.running_mean.fill_(7.0)
    follow(teacher, student, decay=0.75)
    assert teacher.weight.tolist() == [1.5, 1.5]
    assert teacher.running_mean.tolist() == [7.0, 7.0]


def test_the_least_relevant_weights_go_back():
    weights, source = [torch.ones(3), torch.ones(1)], [torch.zeros(3), torch.zeros(1)]
    fisher = [torch.tensor([0.1, 5.0, 0.3]), torch.tensor([0.2])]
    restore(weights, source, fisher, quantile=0.5)
    assert weights[0].tolist() == [0.0, 1.0, 1.0] and weights[1].tolist() == [0.0]
    restore(weights, source, fisher, quantile=0.0)
    assert weights[0].tolist() == [0.0, 1.0, 1.0]


def test_bad_input():
    x, s = numbers(4, 3), numbers(2, 3)
    for words, call in {
        "alpha=2": lambda: alpha_norm(x, s[0], s[0].exp(), alpha=2),
        "alpha=-1": lambda: mix_statistics(nn.Identity(), alpha=-1),
        "variance": lambda: alpha_norm(x, s[0], s.exp()),
        "teacher of shape": lambda: petal(s, x),
        "strength=-1": lambda: petal(s, s, strength=-1),
        "variances=0": lambda: petal(s, s, [s], [s], [s * 0]),
        "same shapes": lambda: petal(s, s, [s], [s], []),
        "snapshots=0": lambda: swag_diagonal([]),
        "quantile=2": lambda: restore([s], [s], [s], quantile=2),
        "fisher=0": lambda: restore([s], [s], []),
        "decay=2": lambda: follow(nn.Identity(), nn.Identity(), decay=2),
    }.items():
        with pytest.raises(ForecastError, match=words):
            call()
