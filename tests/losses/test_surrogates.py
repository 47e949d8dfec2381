import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.core.errors import ForecastError
from forecast.losses import surrogates as s
from tests.losses import laws
from tests.losses.laws import Case, normal


def maps(n):
    return normal(n, 8), laws.binary(n, 8).double()


CASES = [
    *(
        Case("any_metric", s.any_metric, maps, {"metric": name, "steepness": 5, "batch": False}, fixed=(1,), sets=True)
        for name in s.METRICS
    ),
    Case("any_metric", s.any_metric, maps, {"metric": "f_beta", "beta": 2.0, "smooth": 1.0}, fixed=(1,), sets=True),
    Case("any_metric", s.any_metric, maps, {"metric": s.csi, "steepness": 3.0, "event_dim": 1}, fixed=(1,), sets=True),
]


@laws.over(CASES)
def test_laws(law, case):
    law(case)


# 3 hits, 1 miss, 2 false alarms, 4 correct rejections
HIT_RATE, FALSE_RATE, CHANCE = 3 / 4, 2 / 6, 4 * 5 / 10
BY_HAND = {
    "accuracy": 7 / 10,
    "f_beta": 6 / 9,
    "g_mean": math.sqrt(HIT_RATE * 4 / 6),
    "balanced_accuracy": (HIT_RATE + 4 / 6) / 2,
    "csi": 3 / 6,
    "ets": (3 - CHANCE) / (6 - CHANCE),
    "hss": 2 * (12 - 2) / (4 * 5 + 5 * 6),
    "pss": HIT_RATE - FALSE_RATE,
}
P = torch.tensor([1, 1, 1, 0, 1, 1, 0, 0, 0, 0], dtype=torch.float64)
Y = torch.tensor([1, 1, 1, 1, 0, 0, 0, 0, 0, 0], dtype=torch.float64)


@pytest.mark.parametrize("name", s.METRICS)
def test_steep_limit_is_the_score_itself(name):
    near = 0.5 + 0.1 * (P - 0.5)
    value = s.any_metric(near, Y, metric=name, steepness=1e4, from_logits=False)
    assert value.item() == pytest.approx(1 - BY_HAND[name], abs=1e-8)
    right = s.any_metric(Y, Y, metric=name, steepness=1e4, from_logits=False)
    assert right.item() == pytest.approx(0, abs=1e-8)


def test_f_beta_by_hand():
    value = s.any_metric(P, Y, metric="f_beta", beta=2.0, from_logits=False)
    assert value.item() == pytest.approx(1 - 5 * 3 / (5 * 3 + 4 * 1 + 2), abs=1e-8)


def test_soft_decision_at_the_papers_steepness():
    p = torch.tensor([0.49, 0.5, 0.51], dtype=torch.float64)
    hits = [s.soft_counts(x[None], torch.ones(1, dtype=torch.float64), from_logits=False)[0].item() for x in p]
    assert hits == pytest.approx([0.325, 0.5, 0.675], abs=5e-4)


def test_areas_count():
    f, y = maps(3)
    area = torch.rand(8, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) + 0.1
    counts = s.soft_counts(f, y, weight=area)
    yes = (73 * (f.sigmoid() - 0.5)).sigmoid()
    scale = 8 / area.sum()
    for count, part in zip(counts, (yes * y, (1 - yes) * y, yes * (1 - y), (1 - yes) * (1 - y)), strict=True):
        torch.testing.assert_close(count, scale * (part * area).sum())
    torch.testing.assert_close(sum(counts), torch.tensor(24.0, dtype=torch.float64))
    for name in s.METRICS:
        value = s.any_metric(f, y, metric=name, weight=area)
        torch.testing.assert_close(s.any_metric(f, y, metric=name, weight=1e-5 * area), value)


def test_counts_of_batches_can_be_added():
    f, y = maps(4)
    parts = [s.soft_counts(f[rows], y[rows]) for rows in (slice(0, 1), slice(1, 4))]
    added = [sum(part) for part in zip(*parts, strict=True)]
    torch.testing.assert_close(1 - s.ets(*added), s.any_metric(f, y, metric="ets"))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 500), steepness=st.floats(1, 200))
def test_bounds_and_symmetry(seed, steepness):
    f, y = normal(12, seed=seed), (normal(12, seed=seed + 1) > 0.3).double()
    for name in s.METRICS:
        value = s.any_metric(f, y, metric=name, steepness=steepness).item()
        assert -1e-9 <= value <= {"ets": 4 / 3, "hss": 2.0, "pss": 2.0}.get(name, 1.0) + 1e-9
        if name in ("accuracy", "balanced_accuracy", "g_mean", "hss", "pss"):
            swapped = s.any_metric(-f, 1 - y, metric=name, steepness=steepness).item()
            assert swapped == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("name", s.METRICS)
@pytest.mark.parametrize("label", [0.0, 1.0])
def test_one_class(name, label):
    f, y = normal(2, 5).requires_grad_(), torch.full((2, 5), label, dtype=torch.float64)
    value = s.any_metric(f, y, metric=name)
    value.backward()
    needs = s.METRICS[name].needs
    left_out = needs == "both" or (needs == "events" and not label)
    assert (value.item() == 0) == left_out
    assert f.grad.isfinite().all() and (f.grad.abs().sum() == 0) == left_out
    y[1, 2] = 1 - label
    mixed = s.any_metric(f, y, metric=name, batch=False)
    alone = s.any_metric(f[1:], y[1:], metric=name)
    if left_out:
        torch.testing.assert_close(mixed, alone)


def test_g_mean_without_a_hit_has_a_finite_gradient():
    f = torch.tensor([-40.0, -40.0, 40.0], requires_grad=True)
    value = s.any_metric(f, torch.tensor([1.0, 1.0, 0.0]), metric="g_mean")
    value.backward()
    assert value.item() == pytest.approx(1, abs=1e-3) and f.grad.isfinite().all()


def test_a_function_of_ones_own():
    f, y = maps(3)
    odds = s.any_metric(f, y, metric=lambda tp, fn, fp, tn: tp * tn / (tp * tn + fn * fp))
    tp, fn, fp, tn = s.soft_counts(f, y)
    torch.testing.assert_close(odds, fn * fp / (tp * tn + fn * fp))
    empty = s.any_metric(f, 0 * y, metric=lambda tp, fn, fp, tn: tp + fn + 1, needs="events")
    assert empty.item() == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"metric": "auc"}, "metric='auc': must be one of accuracy, f_beta"),
        ({"steepness": 0.0}, "steepness=0.0"),
        ({"beta": -1.0}, "beta=-1.0"),
        ({"smooth": -1.0}, "smooth=-1.0"),
    ],
)
def test_bad_input(options, words):
    with pytest.raises(ForecastError, match=words):
        s.any_metric(torch.zeros(2, 2), torch.zeros(2, 2), **options)
