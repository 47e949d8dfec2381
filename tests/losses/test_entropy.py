import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.core.errors import ForecastError
from forecast.losses.entropy import ManifoldEntropyLoss, disomap, dlle, manifold_entropy
from forecast.losses.registry import build
from tests.losses import cases
from tests.losses.cases import Case, normal


def against(count):
    return normal(count, 3), normal(40, 3, seed=1)


def mixes(count):
    return *(normal(count, 3, seed=seed) for seed in range(3)), torch.linspace(-1, 2, count, dtype=torch.float64)


class TestEvery(cases.Every):
    CASES = (
        Case(manifold_entropy, against, {"strength": 1.0}, fixed=(1,), without=("reduction", "module")),
        Case(dlle, lambda n: (normal(n, 3), normal(n, 3, seed=1)), fixed=(1,), without=("chunks",)),
        Case(disomap, mixes, {"noise": 0.0}, fixed=(1, 2, 3), without=("chunks",)),
    )


def test_by_hand():
    codes, memory = torch.tensor([[0.0, 0.0], [3.0, 0.0]]), torch.tensor([[1.0, 1.0], [3.0, 2.0]])
    # nearest: 2 / 2 and 4 / 2
    assert manifold_entropy(codes, memory, strength=2.0).item() == pytest.approx(-2 * math.log(1.5))
    assert dlle(codes, memory).item() == pytest.approx((1 + 2) / 2)
    share = torch.tensor([0.5, 2.0])
    # mixes (0.5, 0.5) and (3, -2)
    assert disomap(codes, codes, memory, share, noise=0.0).item() == pytest.approx((0.25 + 2) / 2)


def test_duplicates_are_finite_and_the_reward_is_bounded():
    codes = normal(4, 3).requires_grad_()
    value = manifold_entropy(codes, codes.detach(), strength=1.0)
    assert value.item() == pytest.approx(-math.log(1e-12), rel=0.05)
    value.backward()
    assert codes.grad.isfinite().all()
    far = 1e6 * normal(4, 3)
    assert manifold_entropy(far, normal(2, 3), strength=1.0).item() == pytest.approx(-math.log(4))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 100), shift=st.floats(-50, 50))
def test_spread_lowers_it_and_rigid_motions_do_not_matter(seed, shift):
    codes, memory = normal(5, 3, seed=seed), normal(6, 3, seed=seed + 1)
    value = manifold_entropy(codes, memory, limit=1e9)
    turn = torch.linalg.qr(normal(3, 3, seed=seed))[0]
    torch.testing.assert_close(manifold_entropy(codes @ turn + shift, memory @ turn + shift, limit=1e9), value)
    torch.testing.assert_close(
        manifold_entropy(2 * codes, 2 * memory, limit=1e9, strength=1.0),
        manifold_entropy(codes, memory, limit=1e9, strength=1.0) - math.log(4),
    )


def test_noise_is_drawn_and_targets_have_no_gradient():
    draw = lambda seed: disomap(*mixes(5), generator=torch.Generator().manual_seed(seed))  # noqa: E731
    assert draw(1) == draw(1) != draw(2)
    zero = torch.zeros(4000, 2)
    noisy = disomap(zero, zero, zero, zero[:, 0], noise=0.3, generator=torch.Generator().manual_seed(0))
    assert noisy.item() == pytest.approx(0.09, rel=0.06)  # standard error 0.0014
    codes, augmented = (x.requires_grad_() for x in (normal(3, 2), normal(3, 2, seed=1)))
    dlle(codes, augmented).backward()
    assert augmented.grad is None


def test_memory():
    loss = build({"name": "manifold_entropy", "width": 2, "size": 3, "strength": 1.0})
    first, second = torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([[5.0, 0.0], [0.0, 1.0]])
    assert loss(first.requires_grad_()).item() == 0.0  # nothing to be far from
    value = loss(second)
    torch.testing.assert_close(value, manifold_entropy(second, first, strength=1.0))
    assert loss.memory.tolist() == [[1.0, 0.0], [5.0, 0.0], [0.0, 1.0]]
    assert int(loss.stored) == 3
    other = ManifoldEntropyLoss(2, 3)
    other.load_state_dict(loss.state_dict())
    assert torch.equal(other.memory, loss.memory)
    loss.eval()(first)
    assert torch.equal(other.memory, loss.memory)
    loss.train()(torch.zeros(7, 2), mask=torch.arange(7) > 5)
    assert loss.memory.tolist() == [[5.0, 0.0], [0.0, 1.0], [0.0, 0.0]]
    loss(normal(5, 2, dtype=torch.float32))
    assert torch.equal(loss.memory, normal(5, 2, dtype=torch.float32)[-3:])
    loss.reset_state()
    assert int(loss.stored) == 0 and loss(first).item() == 0.0


def test_ramp():
    loss = ManifoldEntropyLoss(2, size=2, strength=1.0, ramp=4)
    codes = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    values = [loss(codes + 3 * step).item() for step in range(6)]
    full = manifold_entropy(codes + 3, codes, strength=1.0).item()
    assert values == pytest.approx([0.0, 0.5 * full, 0.75 * full, full, full, full])


def test_bad_input():
    codes, memory = against(4)
    a, b, c, share = mixes(4)
    for call, words in (
        (lambda: manifold_entropy(codes, memory[:, :2]), "3 features"),
        (lambda: manifold_entropy(codes, memory, strength=-1.0), "strength=-1"),
        (lambda: manifold_entropy(codes, memory, limit=0.0), "limit=0"),
        (lambda: dlle(a, b[:2]), "augmented of shape"),
        (lambda: disomap(a, b, c, share[:2]), "share="),
        (lambda: disomap(a, b, c, share, noise=-0.1), "noise=-0.1"),
        (lambda: ManifoldEntropyLoss(0), "width=0"),
        (lambda: ManifoldEntropyLoss(3, ramp=-1), "ramp=-1"),
    ):
        with pytest.raises(ForecastError, match=words):
            call()
