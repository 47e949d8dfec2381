import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.core.errors import ForecastError
from forecast.losses import pairs
from tests.losses.cases import normal


def scores(rows, x, y):
    return (x[rows] @ y.T).logsumexp(1)


@pytest.mark.parametrize("rows", [1, 2, 3, 7])
def test_slices_give_the_whole_value_and_gradient(monkeypatch, rows):
    monkeypatch.setattr(pairs, "ENTRIES", rows * 4)
    x, y = normal(7, 3).requires_grad_(), normal(4, 3, seed=1).requires_grad_()
    torch.testing.assert_close(pairs.by_rows(scores, 7, 4, x, y), scores(slice(None), x, y))
    assert torch.autograd.gradcheck(lambda a, b: pairs.by_rows(scores, 7, 4, a, b), (x, y))


def test_gradient_of_one_input_alone(monkeypatch):
    monkeypatch.setattr(pairs, "ENTRIES", 4)
    x, y = normal(5, 3).requires_grad_(), normal(4, 3, seed=1)
    assert torch.autograd.gradcheck(lambda a: pairs.by_rows(scores, 5, 4, a, y), (x,))


@given(seed=st.integers(0, 50), shift=st.floats(-1e3, 1e3))
@settings(max_examples=15, deadline=None)
def test_distances_do_not_lose_their_digits_to_a_common_shift(seed, shift):
    x, y = normal(4, 3, seed=seed), normal(5, 3, seed=seed + 1)
    exact = torch.cdist(x, y).square()
    a, b = pairs.centred((x + shift).float(), (y + shift).float())
    torch.testing.assert_close(pairs.squared_distances(a, b).double(), exact, atol=2e-3, rtol=1e-3)
    assert (pairs.squared_distances(x, x) >= 0).all()


def test_shares():
    x = torch.arange(4.0)
    share, left = pairs.shares(torch.tensor([1.0, 0.0, 2.0, 5.0]), torch.tensor([True, True, True, False]), x)
    assert share.tolist() == pytest.approx([1 / 3, 2 / 3])
    assert left.tolist() == [0.0, 2.0]
    assert pairs.shares(None, None, x)[0].tolist() == [0.25] * 4
    for bad in (torch.ones(3), -torch.ones(4)):
        with pytest.raises(ForecastError, match="weight="):
            pairs.shares(bad, None, x)


def test_kept_and_spread_are_inverse():
    mask = torch.tensor([True, False, True])
    (left,) = pairs.kept(mask, torch.tensor([1.0, torch.nan, 3.0]))
    assert pairs.spread(left, mask).tolist() == [1.0, 0.0, 3.0]
    with pytest.raises(ForecastError, match="mask="):
        pairs.kept(mask, torch.zeros(4))


def test_blank_leaves_nothing_of_a_sample():
    mask = torch.tensor([True, False])
    x, y = pairs.blank(mask, torch.tensor([[1.0, 2.0], [torch.nan, 4.0]]), torch.tensor([5.0, 6.0]))
    assert x.tolist() == [[1.0, 2.0], [0.0, 0.0]]
    assert y.tolist() == [5.0, 0.0]
    assert pairs.blank(None, x)[0] is x
    with pytest.raises(ForecastError, match="mask="):
        pairs.blank(mask, torch.zeros(3, 2))


@pytest.mark.parametrize(
    ("shapes", "words"),
    [(((3, 2), (3, 4)), "2 features"), (((3,), (3, 2)), "samples, features"), (((1, 2), (3, 2)), "needs 2 samples")],
)
def test_bad_features(shapes, words):
    with pytest.raises(ForecastError, match=words):
        pairs.check_features(2, first=torch.zeros(shapes[0]), second=torch.zeros(shapes[1]))
