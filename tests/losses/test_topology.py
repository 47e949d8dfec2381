import importlib.util

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.core.errors import ForecastError
from forecast.losses.registry import build
from forecast.losses.topology import betti_matching, multi_persistence

without_gudhi = importlib.util.find_spec("gudhi") is None


def maps(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(*shape, dtype=torch.float64, generator=generator)
    return x, (torch.rand(*shape, dtype=torch.float64, generator=generator) > 0.5).double()


def blobs(*peaks, shape=(3, 9)):
    f = torch.zeros(1, *shape, dtype=torch.float64)
    for row, column, height in peaks:
        f[0, row, column] = height
    return f


def matching(x, y, **options):
    return betti_matching(x, y, from_logits=False, **options)


def test_matched_pieces_by_hand():
    """The highest of each never dies: 2 (1 - 0.9)^2; the others match: 2 ((0.6 - 0.8)^2 + 0)."""
    x, y = blobs((1, 1, 0.9), (1, 6, 0.6)), blobs((1, 1, 1.0), (1, 6, 0.8))
    assert matching(x, y).item() == pytest.approx(2 * 0.01 + 2 * 0.04)


def test_a_piece_elsewhere_is_not_matched():
    """0.6 and 0.8 are each alone: (0.6 - 0)^2 + (0.8 - 0)^2, though as bars they are near."""
    x, y = blobs((1, 1, 0.9), (1, 4, 0.6)), blobs((1, 1, 1.0), (1, 7, 0.8))
    assert matching(x, y).item() == pytest.approx(0.02 + 0.36 + 0.64)


def test_a_hole_that_is_not_there_by_hand():
    ring = torch.full((1, 4, 4), 0.0, dtype=torch.float64)
    ring[0, :3, :3] = 0.8
    ring[0, 1, 1] = 0.1
    filled = ring.clone()
    filled[0, 1, 1] = 0.8
    assert matching(ring, filled).item() == pytest.approx((0.8 - 0.1) ** 2)
    assert matching(filled, ring).item() == pytest.approx((0.8 - 0.1) ** 2)
    deeper = ring.clone()
    deeper[0, 1, 1] = 0.0
    assert matching(ring, deeper).item() == pytest.approx(2 * 0.1**2)


def test_equal_or_constant_maps():
    x, y = maps(2, 6, 7)
    assert matching(x, x).item() == pytest.approx(0, abs=1e-12)
    assert matching(y, y).item() == 0
    flat = torch.full((1, 4, 4), 0.25)
    assert matching(flat, torch.ones(1, 4, 4)).item() == pytest.approx(2 * 0.75**2)


def test_symmetric_and_never_negative():
    x, y = maps(3, 6, 6)
    value = matching(x, y, reduction="none")
    torch.testing.assert_close(value, matching(y, x, reduction="none"))
    assert (value > 0).all()


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 99), scale=st.floats(0.1, 1))
def test_scales_shifts_and_turns(seed, scale):
    x, y = maps(1, 5, 6, seed=seed)[0], maps(1, 5, 6, seed=seed + 1000)[0]
    torch.testing.assert_close(matching(scale * x, scale * y), scale**2 * matching(x, y))
    joint, other = torch.stack([x, y], 1), torch.stack([y, x.flip(1)], 1)
    value = multi_persistence(joint, other, directions=[[1.0, 1.0]])
    torch.testing.assert_close(multi_persistence(joint.mT + 1, other.mT + 1, directions=[[1.0, 1.0]]), value)
    swapped = [[3.0, 1.0]], [[1.0, 3.0]]
    values = [
        multi_persistence(a, b, directions=d)
        for a, b, d in ((joint, other, swapped[0]), (joint.flip(1), other.flip(1), swapped[1]))
    ]
    torch.testing.assert_close(*values)


def test_persistence_of_one_field_by_hand():
    """Bars (0.6, 0) and (0.8, 0) match at 0.04; the highest differ by 0.1; one more of 0.2 goes to the diagonal."""
    x = blobs((1, 1, 0.9), (1, 6, 0.6))[:, None]
    y = blobs((1, 1, 1.0), (1, 4, 0.8), (1, 7, 0.2))[:, None]
    assert multi_persistence(x, y).item() == pytest.approx(0.01 + 0.04 + 0.2**2 / 2)
    assert multi_persistence(x, y, keep=1).item() == pytest.approx(0.01 + 0.04)
    assert multi_persistence(x, y, dimensions=(1,)).item() == 0


def test_persistence_of_two_fields_sees_where_both_are_high():
    """The same two peaks in each field; in the truth they lie in one place."""
    wind, rain = blobs((1, 1, 1.0)), blobs((1, 7, 1.0))
    apart, together = torch.stack([wind, rain], 1), torch.stack([wind, wind], 1)
    assert multi_persistence(apart, together, directions=[[1.0, 1.0]]).item() == pytest.approx(1.0)
    alone = [multi_persistence(apart[:, i : i + 1], together[:, i : i + 1]).item() for i in (0, 1)]
    assert alone == [0, 0]


@pytest.mark.parametrize("name", ["betti_matching", "multi_persistence"])
def test_gradient_reduction_and_precision(name):
    x, y = maps(2, 4, 5)
    y = maps(2, 4, 5, seed=9)[0]
    if name == "multi_persistence":
        x, y = x[:, None], y[:, None]
    loss = build({"name": name})
    assert torch.autograd.gradcheck(loss, (x.requires_grad_(), y.requires_grad_()))
    value, w = build({"name": name, "reduction": "none"})(x, y), torch.tensor([1.0, 3.0], dtype=torch.float64)
    assert value.shape == (2,)
    torch.testing.assert_close(loss(x, y), value.mean())
    torch.testing.assert_close(loss(x, y, weight=w), (value * w).sum() / 4)
    nothing = loss(x, y, mask=torch.zeros(2).bool())
    assert nothing.item() == 0 and torch.autograd.grad(nothing, x)[0].abs().sum() == 0
    none = loss(x[:0], y[:0])
    assert none.item() == 0 and none.requires_grad
    with torch.autocast("cpu", torch.bfloat16):
        assert loss(x.bfloat16(), y.bfloat16()).dtype == torch.float32


def test_logits_and_leading_dimensions():
    x, y = maps(2, 3, 4, 5)
    torch.testing.assert_close(betti_matching(x.logit(), y), matching(x, y))
    assert matching(x, y, reduction="none").shape == (2, 3)


@pytest.mark.skipif(without_gudhi, reason="gudhi is not installed: pip install 'forecast[losses-extra]'")
def test_volumes():
    x, y = maps(1, 2, 3, 4, 4)[0], maps(1, 2, 3, 4, 4, seed=5)[0]
    assert multi_persistence(x, x).item() == pytest.approx(0, abs=1e-12)
    flat = multi_persistence(x[:, :1, :1].expand(-1, -1, 2, -1, -1), y[:, :1, :1].expand(-1, -1, 2, -1, -1))
    torch.testing.assert_close(flat, multi_persistence(x[:, :1, 0], y[:, :1, 0]))
    assert torch.autograd.gradcheck(multi_persistence, (x.requires_grad_(), y), fast_mode=True)


def test_bad_input():
    x, y = maps(2, 4, 5)
    for words, call in {
        "labels of shape": lambda: betti_matching(x, y[:1]),
        r"logits=\(4, 5\)": lambda: betti_matching(x[0], y[0]),
        "must be maps": lambda: betti_matching(x[:, :1], y[:, :1]),
        r"forecast=\(2, 4, 5\)": lambda: multi_persistence(x, y),
        "keep=0": lambda: multi_persistence(x[:, None], y[:, None], keep=0),
        "directions": lambda: multi_persistence(x[:, None], y[:, None], directions=[[0.0]]),
        r"\(S, 1\)": lambda: multi_persistence(x[:, None], y[:, None], directions=[[1.0, 1.0]]),
    }.items():
        with pytest.raises(ForecastError, match=words):
            call()
