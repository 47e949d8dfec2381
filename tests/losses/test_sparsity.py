import itertools
import math

import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.core.errors import ForecastError
from forecast.losses import sparsity
from forecast.losses.registry import build
from forecast.losses.sparsity import FeatureUse, aux_k, group_sparse_envelope, group_sparse_prox


def numbers(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_envelope_by_hand():
    """Norms 5, 1, 1 and k = 2: r = 0, t = 1 + 1 < 5, so (25 + 4) / 2."""
    rows = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, -1.0]])
    assert group_sparse_envelope(rows, k=2).item() == pytest.approx(14.5)
    assert group_sparse_envelope([rows[:1], rows[1:]], k=2).item() == pytest.approx(14.5)


@pytest.mark.parametrize("seed", range(4))
def test_envelope_limits(seed):
    w = numbers(6, 3, seed=seed)
    norms, half = w.norm(dim=1), w.square().sum() / 2
    torch.testing.assert_close(group_sparse_envelope(w, k=1), norms.sum().square() / 2)
    torch.testing.assert_close(group_sparse_envelope(w, k=6), half)
    values = [group_sparse_envelope(w, k=k).item() for k in range(1, 7)]
    assert values == sorted(values, reverse=True) and values[-1] >= half.item() - 1e-9
    sparse = w * torch.tensor([1, 0, 0, 1, 0, 0.0])[:, None]
    torch.testing.assert_close(group_sparse_envelope(sparse, k=2), sparse.square().sum() / 2)


def test_envelope_is_the_biconjugate():
    """sup_u <u, g> - s, where s is at least half the sum of squares of any k components of u: a general solver."""
    g = np.array([1.5, 1.2, 0.7, 0.1])
    for k in (1, 2, 3):
        chosen = [list(c) for c in itertools.combinations(range(4), k)]
        found = scipy.optimize.minimize(
            lambda z: z[4] - z[:4] @ g,
            [*g, 9.0],
            constraints=[{"type": "ineq", "fun": lambda z, c=c: z[4] - (z[c] ** 2).sum() / 2} for c in chosen],
            options={"ftol": 1e-12, "maxiter": 500},
        )
        assert found.success
        assert group_sparse_envelope(torch.from_numpy(g), k=k).item() == pytest.approx(-found.fun, rel=1e-6)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_prox_is_the_minimum(k):
    w, strength = numbers(5, 2, seed=k), 0.7
    x = group_sparse_prox(w, k=k, strength=strength).requires_grad_()
    kept = x.detach().norm(dim=1) > 0
    ((x - w).square().sum() / 2 + strength * group_sparse_envelope(x, k=k)).backward()
    torch.testing.assert_close(x.grad[kept], torch.zeros_like(x.grad[kept]), atol=1e-6, rtol=0)
    for row in range(5):  # no step from zero is downhill either: the envelope has a kink there
        step = torch.zeros_like(w)
        step[row] = 1e-4 * w[row]
        y = x.detach()
        here, there = ((z - w).square().sum() / 2 + strength * group_sparse_envelope(z, k=k) for z in (y, y + step))
        assert there >= here - 1e-9


def test_prox_zeroes_rows_and_keeps_few():
    w = torch.tensor([[3.0], [0.1], [-0.2], [2.0]])
    x = group_sparse_prox(w, k=2, strength=1.0)
    assert x[1].item() == 0 and x[2].item() == 0
    torch.testing.assert_close(x[[0, 3]], w[[0, 3]] / 2)
    torch.testing.assert_close(group_sparse_prox(w, k=2, strength=0.0), w)
    torch.testing.assert_close(group_sparse_prox(torch.zeros(3, 2), k=1, strength=1.0), torch.zeros(3, 2))


def test_envelope_gradient_and_zero_rows():
    w = numbers(5, 2).requires_grad_()
    for k in (1, 3, 5):
        assert torch.autograd.gradcheck(lambda x, k=k: group_sparse_envelope(x, k=k), (w,))
    zero = torch.zeros(3, 2, requires_grad=True)
    group_sparse_envelope(zero, k=1).backward()
    assert zero.grad.abs().sum() == 0
    assert group_sparse_envelope([], k=1).item() == 0


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99), scale=st.floats(0.01, 100), k=st.integers(1, 5))
def test_envelope_is_homogeneous_and_blind_to_order(seed, scale, k):
    w = numbers(5, 2, seed=seed)
    value = group_sparse_envelope(w, k=k)
    torch.testing.assert_close(group_sparse_envelope(scale * w.flip(0), k=k), scale**2 * value)
    torch.testing.assert_close(group_sparse_envelope(w, k=k, by_size=True), 2 * value)


def code(batch=3, features=6, width=4, dtype=torch.float64):
    x, f, w = numbers(batch, width), numbers(batch, features, seed=1), numbers(features, width, seed=2)
    return [z.to(dtype) for z in (x, 0.5 * x, f)], torch.tensor([1, 0, 1, 1, 0, 0]).bool(), w.to(dtype)


def test_aux_k_by_hand():
    features = torch.tensor([[9.0, 1.0, 2.0, -1.0]])
    dead, decoder = (
        torch.tensor([False, True, True, True]),
        torch.eye(4, 2) + torch.tensor([[0.0, 0], [0, 0], [1, 1], [5, 5]]),
    )
    # the dead 2 (row 1, 1) and 1 (row 0, 1) explain (2, 2) + (0, 1); what is left is (4, 4) - (1, 1)
    loss = aux_k(torch.full((1, 2), 4.0), torch.ones(1, 2), features, dead, decoder, k=2, coefficient=0.5)
    assert loss.item() == pytest.approx(0.5 * (1.0 + 0.0) / 2)
    # the third is negative: the rectifier drops it
    assert aux_k(torch.full((1, 2), 4.0), torch.ones(1, 2), features, dead, decoder, k=3) * 32 == pytest.approx(0.5)


def test_aux_k_without_dead_features_or_with_nan_is_zero():
    (x, y, f), dead, decoder = code()
    f.requires_grad_()
    loss = aux_k(x, y, f, torch.zeros_like(dead), decoder)
    loss.backward()
    assert loss.item() == 0 and f.grad.abs().sum() == 0
    y[1] = math.nan
    f.grad = None
    value = aux_k(x, y, f, dead, decoder, reduction="none")
    value.sum().backward()
    assert value[1].item() == 0 and f.grad.isfinite().all() and f.grad[0].abs().sum() > 0
    assert aux_k(x[:0], y[:0], f[:0], dead, decoder).item() == 0


def test_aux_k_gradient_reduction_and_precision():
    (x, y, f), dead, decoder = code()
    assert torch.autograd.gradcheck(
        lambda a, b: aux_k(x, y, a, dead, b, k=2), (f.requires_grad_(), decoder.requires_grad_())
    )
    assert torch.autograd.grad(aux_k(x, y.requires_grad_(), f, dead, decoder), y, allow_unused=True)[0] is None
    value, w = aux_k(x, y, f, dead, decoder, reduction="none"), torch.tensor([1.0, 2, 0], dtype=torch.float64)
    torch.testing.assert_close(aux_k(x, y, f, dead, decoder), value.mean())
    torch.testing.assert_close(aux_k(x, y, f, dead, decoder, weight=w), (value * w).sum() / 3)
    (x, y, f), dead, decoder = code(dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert aux_k(x, y, f, dead, decoder).dtype == torch.float32
        assert group_sparse_envelope(decoder, k=2).dtype == torch.float32
        assert group_sparse_envelope([decoder], k=2).dtype == torch.float32


def test_use_of_features_is_counted_kept_and_reset():
    use = FeatureUse(3, decay=0.5)
    for _ in range(2):
        use(torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 2.0]]))
    use(torch.tensor([[0.0, 1.0, 0.0]]))
    assert use.idle.tolist() == [5, 0, 1]
    assert use.dead(5).tolist() == [True, False, False]
    assert use.density.tolist() == pytest.approx([0, 0.25 * 0.75 + 0.5, 0.25 * 0.75])
    again = FeatureUse(3)
    again.load_state_dict(use.state_dict())
    assert again.idle.tolist() == use.idle.tolist()
    again.reset_state()
    assert again.idle.sum() == 0 and again.density.sum() == 0


@pytest.mark.parametrize("k", [0, 6])
def test_bad_number_of_groups(k):
    for call in (
        lambda: group_sparse_envelope(numbers(5, 2), k=k),
        lambda: group_sparse_prox(numbers(5, 2), k=k, strength=1),
    ):
        with pytest.raises(ForecastError, match=f"k={k}"):
            call()


def test_bad_input():
    (x, y, f), dead, decoder = code()
    for words, call in {
        "reconstruction of shape": lambda: aux_k(x, y[:2], f, dead, decoder),
        "decoder": lambda: aux_k(x, y, f, dead, decoder.mT),
        "dead": lambda: aux_k(x, y, f, dead[:2], decoder),
        "k=0": lambda: aux_k(x, y, f, dead, decoder, k=0),
        "strength=-1": lambda: group_sparse_prox(x, k=1, strength=-1),
        "weights": lambda: group_sparse_envelope(torch.zeros(3, dtype=torch.long), k=1),
        "needs `k`": lambda: build({"name": "group_sparse_envelope"}),
        "decay=1": lambda: FeatureUse(3, decay=1),
        "activations": lambda: FeatureUse(3)(x),
    }.items():
        with pytest.raises(ForecastError, match=words):
            call()
    assert sparsity.GroupSparseEnvelope(k=2)(x) == group_sparse_envelope(x, k=2)
