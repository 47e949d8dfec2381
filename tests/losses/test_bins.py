import math

import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.core.errors import ForecastError
from forecast.losses import bins as b
from forecast.losses.classification import cross_entropy
from forecast.losses.registry import build
from tests.losses import laws
from tests.losses.laws import Case, integers, normal

EDGES = (0.0, 1.0, 2.0, 5.0, 10.0)


def labelled(n):
    return normal(n, 3, 4), integers(4, n, 3)


def soft(n):
    return normal(n, 4), normal(n, 4, seed=3).softmax(-1)


def observed(n):
    return normal(n, 4), 5 * normal(n, seed=3).sigmoid(), normal(n, seed=4).exp()


CASES = [
    Case("ordered_bin_emd", b.ordered_bin_emd, labelled, {"class_dim": -1, "positions": (0.0, 1.0, 5.0, 20.0)}),
    Case("ordered_bin_emd", b.ordered_bin_emd, soft, {"power": 2.0}, fixed=(1,)),
    Case("ordered_bin_emd", b.ordered_bin_emd, soft, {"power": 1.5}, fixed=(1,)),
    Case("gaussian_soft_label_kl", b.gaussian_soft_label_kl, observed, {"edges": EDGES}, fixed=(1, 2)),
    Case("gaussian_soft_label_kl", b.gaussian_soft_label_kl, observed, {"edges": EDGES, "adjust": False}, fixed=(1, 2)),
]


@laws.over(CASES)
def test_laws(law, case):
    law(case)


def embedded(n):
    return normal(n, 4), integers(4, n), normal(4, 3, seed=6)


@laws.over(
    [Case("earth_mover", b.earth_mover, embedded, {"dynamic": False}, fixed=(2,))],
)
def test_laws_of_earth_mover(law, case):
    law(case)


def of(p):
    return torch.tensor([p], dtype=torch.float64).log()


def test_ordered_bins_by_hand():
    f, y = of((0.5, 0.25, 0.25)), torch.tensor([0])
    # cumulative 0.5, 0.75 against 1, 1
    assert b.ordered_bin_emd(f, y).item() == pytest.approx(0.75)
    assert b.ordered_bin_emd(f, y, positions=(0, 1, 10)).item() == pytest.approx(0.5 + 9 * 0.25)
    assert b.ordered_bin_emd(f, y, power=2).item() == pytest.approx(0.25 + 0.0625)
    assert b.ordered_bin_emd(f.exp(), y, from_logits=False).item() == pytest.approx(0.75)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 500))
def test_ordered_bins_are_scipys_wasserstein_distance(seed):
    p, q = normal(6, seed=seed).softmax(0), normal(6, seed=seed + 1).softmax(0)
    x = normal(6, seed=seed + 2).exp().cumsum(0)
    ours = b.ordered_bin_emd(p.log()[None], q[None], positions=x.tolist()).item()
    assert ours == pytest.approx(scipy.stats.wasserstein_distance(x, x, p, q), rel=1e-9)
    assert b.ordered_bin_emd(q.log()[None], p[None], positions=x.tolist()).item() == pytest.approx(ours)
    assert b.ordered_bin_emd(p.log()[None], p[None]).item() == pytest.approx(0, abs=1e-12)


def test_far_mistakes_cost_more_and_a_step_costs_its_width():
    sure = 100 * torch.eye(4, dtype=torch.float64)
    x = (0.0, 1.0, 5.0, 20.0)
    for true in range(4):
        costs = b.ordered_bin_emd(sure, torch.full((4,), true), positions=x, reduction="none")
        torch.testing.assert_close(costs, torch.tensor([abs(v - x[true]) for v in x], dtype=torch.float64))
    one_bin = b.ordered_bin_emd(torch.zeros(2, 1), torch.zeros(2).long())
    assert one_bin.item() == 0


def test_power_two_is_the_ranked_probability_score():
    probabilities = pytest.importorskip("forecast.losses.probabilities")
    f, y = normal(5, 4), integers(4, 5)
    theirs = probabilities.ranked_probability(f, y)
    torch.testing.assert_close(b.ordered_bin_emd(f, y, power=2), theirs)
    two = b.ordered_bin_emd(f[:, :2], y % 2, power=2)
    torch.testing.assert_close(two, (f[:, :2].softmax(1)[:, 1] - y % 2).square().mean())


def test_earth_mover_by_hand():
    rows = torch.tensor([[2.0, 0.0], [0.0, 1.0], [-3.0, 0.0]], dtype=torch.float64)
    f, y = of((0.5, 0.25, 0.25)), torch.tensor([0])
    # cosines with the first: 1, 0, -1
    entropy, d = math.log(2), 0.25 * 1 + 0.25 * 2
    assert b.earth_mover(f, y, rows, dynamic=False).item() == pytest.approx((entropy + d) / 2)
    assert b.earth_mover(f, y, rows).item() == pytest.approx(entropy), "brought to the size of the cross entropy"


def test_earth_mover():
    f, y, rows = embedded(5)
    grads = []
    for dynamic in (True, False):
        leaf, e = f.clone().requires_grad_(), rows.clone().requires_grad_()
        b.earth_mover(leaf, y, e, dynamic=dynamic, reduction="sum").backward()
        assert e.grad is None
        grads.append(leaf.grad)
    leaf = f.clone().requires_grad_()
    cross_entropy(leaf, y, reduction="sum").backward()
    entropy = cross_entropy(f, y, reduction="none")
    d = 2 * b.earth_mover(f, y, rows, dynamic=False, reduction="none") - entropy
    assert ((d >= 0) & (d <= 2)).all()
    from_distance = 2 * grads[1] - leaf.grad
    torch.testing.assert_close(2 * grads[0], leaf.grad + (entropy / d)[:, None] * from_distance)
    turned = torch.linalg.qr(normal(3, 3, seed=9)).Q
    torch.testing.assert_close(b.earth_mover(f, y, 5 * rows @ turned), b.earth_mover(f, y, rows))
    alone = b.earth_mover(f, y, dynamic=False)
    torch.testing.assert_close(alone, (cross_entropy(f, y) + 1 - f.softmax(1).gather(1, y[:, None]).mean()) / 2)
    fixed = build({"name": "earth_mover", "vectors": rows.tolist()})
    torch.testing.assert_close(fixed(f, y), b.earth_mover(f, y, rows))
    same = b.earth_mover(f, y, torch.ones(4, 2), dynamic=False)
    torch.testing.assert_close(same, cross_entropy(f, y) / 2)


def test_bins_of_a_gaussian_by_hand():
    phi = scipy.stats.norm.cdf
    mean, std = torch.tensor([1.5], dtype=torch.float64), torch.tensor([2.0], dtype=torch.float64)
    bounds = [phi((e - 1.5) / 2) for e in EDGES]
    share = torch.tensor([(hi - lo) / (bounds[-1] - bounds[0]) for lo, hi in zip(bounds, bounds[1:], strict=False)])
    torch.testing.assert_close(b.gaussian_bins(mean, std, EDGES, adjust=False)[0], share.double())
    open_ended = b.gaussian_bins(mean, std, (-math.inf, 1.0, math.inf), adjust=False)[0]
    assert open_ended.tolist() == pytest.approx([bounds[1], 1 - bounds[1]])
    for sign in (1, -1):  # both tails keep their digits
        far = b.gaussian_bins(0 * mean, std / 2, sorted((-math.inf, sign * 10.0, math.inf)), adjust=False)
        assert far.min().item() == pytest.approx(scipy.stats.norm.sf(10), rel=1e-9, abs=0)


@settings(max_examples=25, deadline=None)
@given(mean=st.floats(2, 4), std=st.floats(0.6, 2))
def test_adjusted_bins_keep_the_mean(mean, std):
    edges = (0.5, 1.5, 2.5, 3.5, 4.5, 5.5)
    given_ = torch.tensor([mean], dtype=torch.float64), torch.tensor([std], dtype=torch.float64)
    plain, share = b.gaussian_bins(*given_, edges, adjust=False)[0], b.gaussian_bins(*given_, edges)[0]
    centres = torch.arange(1, 6, dtype=torch.float64)
    assert share.sum().item() == pytest.approx(1) and (share >= 0).all()
    kept = (share * centres).sum().item() == pytest.approx(mean, abs=1e-9)
    assert kept or torch.equal(share, plain)
    if abs(mean - 3) < 0.25 and std > 0.8:
        assert kept


def test_without_spread_it_is_cross_entropy():
    f, y = normal(4, 4), torch.tensor([0, 1, 2, 3])
    inside = torch.tensor([0.3, 1.2, 4.9, 9.0], dtype=torch.float64)
    for std, tolerance in ((0.0, 1e-12), (1e-3, 1e-12)):
        value = b.gaussian_soft_label_kl(f, inside, torch.full_like(inside, std), edges=EDGES)
        torch.testing.assert_close(value, cross_entropy(f, y), atol=tolerance, rtol=0)
    beyond = b.gaussian_soft_label_kl(f[:2], torch.tensor([-7.0, 99.0]), torch.zeros(2), edges=EDGES, reduction="none")
    torch.testing.assert_close(beyond, cross_entropy(f[:2], torch.tensor([0, 3]), reduction="none"))


def test_its_least_value_is_zero():
    _, mean, std = observed(5)
    share = b.gaussian_bins(mean, std, EDGES)
    assert b.gaussian_soft_label_kl(share.log(), mean, std, edges=EDGES).item() == pytest.approx(0, abs=1e-12)
    f = normal(5, 4)
    both = torch.distributions.kl_divergence(
        torch.distributions.Categorical(share), torch.distributions.Categorical(logits=f)
    )
    torch.testing.assert_close(b.gaussian_soft_label_kl(f, mean, std, edges=EDGES, reduction="none"), both)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda f, y: b.ordered_bin_emd(f, y, power=0.5), "power=0.5"),
        (lambda f, y: b.ordered_bin_emd(f, y, positions=(0, 2, 1)), "positions"),
        (lambda f, y: b.ordered_bin_emd(f, y, positions=(0, 1)), "positions"),
        (lambda f, y: b.ordered_bin_emd(f, y + 3), "labels"),
        (lambda f, y: b.earth_mover(f, y, torch.zeros(2, 5)), "embeddings of shape"),
        (lambda f, y: b.gaussian_soft_label_kl(f, y * 1.0, y * 1.0, edges=(0, 1)), "edges"),
        (lambda f, y: b.gaussian_soft_label_kl(f, y * 1.0, y * 1.0, edges=(0, 1, 1, 2)), "edges"),
        (lambda f, y: b.gaussian_soft_label_kl(f, y * 1.0, y * 1.0 - 5, edges=(0, 1, 2, 3)), "target_std: -5"),
        (lambda f, y: b.gaussian_soft_label_kl(f, y * 1.0, y * 1.0, edges=(0, 1, 2, math.inf)), "finite"),
        (lambda f, y: b.gaussian_soft_label_kl(f, f, f, edges=(0, 1, 2, 3)), "target_mean of shape"),
        (lambda f, y: b.gaussian_soft_label_kl(f, y, y, edges=(0, 1, 2, 3), class_dim=3), "class_dim=3"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ForecastError, match=words):
        call(torch.zeros(2, 3), torch.tensor([0, 1]))
