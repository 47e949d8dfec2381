import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.core.errors import ForecastError
from forecast.losses import imbalanced as i
from tests.losses import laws
from tests.losses.laws import Case, normal


def maps(n):
    return normal(n, 6), laws.binary(n, 6).double()


CASES = [
    Case("dice", i.dice, maps, {"decay": 0.6, "squared": True}, fixed=(1,), sets=True),
    Case("dice", i.dice, maps, {"event_dim": 1, "batch": True, "smooth": 0.1}, fixed=(1,), sets=True),
    Case("tversky", i.tversky, maps, fixed=(1,), sets=True),
    Case("focal_tversky", i.focal_tversky, maps, {"ignore_empty": True}, fixed=(1,), sets=True),
    Case("self_adjusting_dice", i.self_adjusting_dice, maps, {"decay": 0.5}, fixed=(1,)),
]
SETS = (i.dice, i.tversky, i.focal_tversky)


@laws.over(CASES)
def test_laws(law, case):
    law(case)


def given_probabilities(p, y, function, **options):
    p, y = torch.tensor(p, dtype=torch.float64), torch.tensor(y, dtype=torch.float64)
    return function(p, y, from_logits=False, **options).item()


def test_by_hand():
    p, y = [[0.5, 1.0, 0.25]], [[1.0, 1.0, 0.0]]
    # overlap 1.5, sizes 1.75 and 2; squares 1.3125 and 2; misses 0.5, false alarms 0.25
    assert given_probabilities(p, y, i.dice) == pytest.approx(1 - 4 / 4.75)
    assert given_probabilities(p, y, i.dice, smooth=0, squared=True) == pytest.approx(1 - 3 / 3.3125)
    assert given_probabilities(p, y, i.dice, smooth=0, decay=1) == pytest.approx(1 - 0.5 / (0.25 + 0.1875 + 2))
    assert given_probabilities(p, y, i.tversky) == pytest.approx(1 - 2.5 / (1.5 + 0.7 * 0.5 + 0.3 * 0.25 + 1))
    assert given_probabilities(p, y, i.focal_tversky, smooth=0, miss=0.5, exponent=2) == pytest.approx(
        (1 - 1.5 / 1.875) ** 2
    )
    # each on its own: q = (0.5 * 0.5, 0, 0.75 * 0.25)
    each = [1 - 1.5 / 2.25, 1 - 1 / 2, 1 - 1 / 1.1875]
    assert given_probabilities(p, y, i.self_adjusting_dice) == pytest.approx(sum(each) / 3)


def test_dice_of_decisions_is_one_less_f1():
    p, y = (normal(1, 40) > 0).double(), (normal(1, 40, seed=1) > 0.5).double()
    hits, false, missed = (p * y).sum(), (p * (1 - y)).sum(), ((1 - p) * y).sum()
    f1 = 2 * hits / (2 * hits + false + missed)
    torch.testing.assert_close(i.dice(p, y, from_logits=False, smooth=0), 1 - f1)
    torch.testing.assert_close(i.dice(p, y, from_logits=False, smooth=0, squared=True), 1 - f1)


@pytest.mark.parametrize("function", SETS)
@pytest.mark.parametrize("smooth", [0.0, 1.0, 30.0])
def test_ends(function, smooth):
    y = laws.binary(2, 6).double()
    right = function(y, y, from_logits=False, smooth=smooth)
    assert right.item() == pytest.approx(0, abs=1e-8)
    nothing = function(torch.zeros_like(y), y, from_logits=False, smooth=0.0)
    assert nothing.item() == pytest.approx(1)
    none_at_all = function(torch.zeros_like(y), torch.zeros_like(y), from_logits=False, smooth=smooth)
    assert none_at_all.item() == 0


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 200), scale=st.floats(1e-6, 1e3), smooth=st.floats(0, 5))
def test_invariances(seed, scale, smooth):
    f, y = normal(2, 7, seed=seed), (normal(2, 7, seed=seed + 1) > 0).double()
    area, order = normal(7, seed=seed + 2).exp(), torch.randperm(7, generator=torch.Generator().manual_seed(seed))
    for function in SETS:
        value = function(f, y, smooth=smooth, weight=area)
        torch.testing.assert_close(function(f[:, order], y[:, order], smooth=smooth, weight=area[order]), value)
        torch.testing.assert_close(function(f, y, smooth=smooth, weight=scale * area), value)
        torch.testing.assert_close(function(f, y, weight=torch.full((7,), scale)), function(f, y))
        f = f.detach().requires_grad_()
        function(f, y, smooth=smooth, weight=area, reduction="sum").backward()
        assert (f.grad[y == 1] <= 0).all() and (f.grad[y == 0] >= 0).all()
    torch.testing.assert_close(i.tversky(f, y, miss=0.5, smooth=smooth / 2), i.dice(f, y, smooth=smooth))
    torch.testing.assert_close(i.focal_tversky(f, y, exponent=1.0, smooth=smooth), i.tversky(f, y, smooth=smooth))


@pytest.mark.parametrize("function", SETS)
def test_a_cell_of_twice_the_area_is_two_cells(function):
    f, y = maps(3)
    area = torch.ones(6, dtype=torch.float64)
    area[2] = 2.0
    doubled = [torch.cat((x, x[:, 2:3]), 1) for x in (f, y)]
    torch.testing.assert_close(function(f, y, smooth=0.0, weight=area), function(*doubled, smooth=0.0))
    # areas are scaled to mean one, so that 7 cells of weight count as 6 points, and so does what smooths them
    torch.testing.assert_close(function(f, y, smooth=6.0, weight=area), function(*doubled, smooth=7.0))
    gone = torch.ones(6, dtype=torch.bool)
    gone[2] = False
    torch.testing.assert_close(function(f, y, mask=gone), function(f[:, gone], y[:, gone]))


def test_sets():
    f, y = normal(2, 3, 5), (normal(2, 3, 5, seed=1) > 0).double()
    for options, shape, rows in (
        ({}, (2,), [f[0], f[1]]),
        ({"batch": True}, (), [f]),
        ({"event_dim": 1}, (2, 3), [x for sample in f for x in sample]),
        ({"event_dim": -2, "batch": True}, (3,), list(f.unbind(1))),
    ):
        value = i.dice(f, y, reduction="none", **options)
        truths = [y] if len(rows) == 1 else list(y) if shape == (2,) else list(y.unbind(1)) if shape == (3,) else None
        truths = truths or [x for sample in y for x in sample]
        alone = [i.dice(a[None], b[None]) for a, b in zip(rows, truths, strict=True)]
        assert value.shape == shape
        torch.testing.assert_close(value.reshape(-1), torch.stack(alone))


def test_each_class_has_its_own_denominator():
    """The official multi-class branch divides numerators of elements by a sum over all."""
    p = normal(2, 3, 5).softmax(1)
    labels = torch.nn.functional.one_hot(laws.integers(3, 2, 5), 3).movedim(-1, 1).double()
    value = i.dice(p, labels, from_logits=False, event_dim=1, batch=True)
    by_class = [i.dice(p[:, k], labels[:, k], from_logits=False, batch=True) for k in range(3)]
    torch.testing.assert_close(value, torch.stack(by_class).mean())


@pytest.mark.parametrize("function", SETS)
def test_sets_without_events(function):
    f, y = maps(3)
    y[1] = 0
    kept = function(f[[0, 2]], y[[0, 2]])
    torch.testing.assert_close(function(f, y, ignore_empty=True), kept)
    f = f.requires_grad_()
    function(f, y, smooth=1.0).backward()
    assert (f.grad[1] > 0).all(), "probabilities are pushed down"
    f.grad = None
    function(f, torch.zeros_like(y), ignore_empty=True).backward()
    assert (f.grad == 0).all()


def test_hardest_negatives():
    p = torch.tensor([[0.9, 0.1, 0.8, 0.3, 0.2, 0.6]], dtype=torch.float64)
    y = torch.tensor([[1, 0, 0, 0, 0, 0]])
    options = {"from_logits": False, "reduction": "none"}
    every = i.self_adjusting_dice(p, y, **options)
    some = i.self_adjusting_dice(p, y, hard_negatives=2, **options)
    torch.testing.assert_close(some, every * torch.tensor([[1, 0, 1, 0, 0, 1]]))
    torch.testing.assert_close(i.self_adjusting_dice(p, y, hard_negatives=9, **options), every)
    torch.testing.assert_close(i.self_adjusting_dice(p, 0 * y, hard_negatives=1, **options), 1 - 1 / (p * (1 - p) + 1))


@pytest.mark.parametrize(
    ("function", "options", "words"),
    [
        (i.dice, {"smooth": -1.0}, "smooth=-1.0"),
        (i.dice, {"decay": 2.0}, "decay=2.0"),
        (i.dice, {"event_dim": 2}, "event_dim=2"),
        (i.dice, {"reduction": "max"}, "reduction='max'"),
        (i.dice, {"weight": torch.ones(3)}, "weight of shape"),
        (i.tversky, {"miss": 1.5}, "miss=1.5"),
        (i.focal_tversky, {"exponent": 0.0}, "exponent=0.0"),
        (i.self_adjusting_dice, {"smooth": 0.0}, "smooth=0.0"),
        (i.self_adjusting_dice, {"hard_negatives": 0.0}, "hard_negatives=0.0"),
    ],
)
def test_bad_input(function, options, words):
    with pytest.raises(ForecastError, match=words):
        function(torch.zeros(2, 2), torch.zeros(2, 2), **options)
