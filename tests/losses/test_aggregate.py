import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.core.errors import ForecastError
from forecast.losses.aggregate import aggregate
from tests.losses import laws
from tests.losses.laws import Case, normal


def bags(n):
    return normal(n, 4), normal(n, seed=3)


def fields(n):
    return normal(n, 2, 4), normal(n, 2, seed=3)


CASES = [
    Case("aggregate", aggregate, bags, {"instance_part": 0.4}, sets=True),
    Case("aggregate", aggregate, fields, {"bag_dim": -1, "aggregator": "sum", "pointwise": "huber"}, sets=True),
]


@laws.over(CASES, without=("masked_is_not_looked_at",))  # the mask is of instances; tested below
def test_laws(law, case):
    law(case)


def test_by_hand():
    f, y = torch.tensor([[1.0, 4.0]]), torch.tensor([2.0])
    assert aggregate(f, y).item() == pytest.approx(0.25)
    assert aggregate(f, y, instance_part=1.0).item() == pytest.approx((1 + 4) / 2)
    assert aggregate(f, y, instance_part=0.2, pointwise="absolute").item() == pytest.approx(0.8 * 0.5 + 0.2 * 1.5)
    area = torch.tensor([3.0, 1.0])
    assert aggregate(f, y, weight=area).item() == pytest.approx(0.25**2)
    # the sum 3 * 1 + 1 * 4 = 7 against 2; instances times 4: 4 and 16, weighing 3 to 1
    assert aggregate(f, y, weight=area, aggregator="sum").item() == pytest.approx(25)
    instances = aggregate(f, y, weight=area, aggregator="sum", instance_part=1.0)
    assert instances.item() == pytest.approx((3 * 4 + 196) / 4)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 300), part=st.floats(0, 1), aggregator=st.sampled_from(["mean", "sum"]))
def test_identities(seed, part, aggregator):
    f, y, w = normal(3, 5, seed=seed), normal(3, seed=seed + 1), normal(5, seed=seed + 2).exp()
    options = {"weight": w, "aggregator": aggregator}
    bag, instance, between = (aggregate(f, y, instance_part=r, **options) for r in (0.0, 1.0, part))
    torch.testing.assert_close(between, (1 - part) * bag + part * instance)
    scaled = f * w.sum() if aggregator == "sum" else f
    mean = (scaled * w).sum(1, keepdim=True) / w.sum()
    within = ((scaled - mean).square() * w).sum(1) / w.sum()
    torch.testing.assert_close(instance, bag + within.mean())
    order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(
        aggregate(f[:, order], y, instance_part=part, weight=w[order], aggregator=aggregator), between
    )


def test_bags_by_number_are_bags_along_a_dimension():
    f, y, w = normal(3, 4, 2), normal(3, 2, seed=3), normal(3, 4, 2, seed=4).exp()
    index = torch.arange(3).repeat_interleave(4)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    flat = [x.reshape(12, 2)[order] for x in (f, w)]
    for options in ({}, {"instance_part": 0.3}, {"aggregator": "sum", "instance_part": 0.5}):
        by_number = aggregate(flat[0], y, weight=flat[1], index=index[order], reduction="none", **options)
        torch.testing.assert_close(by_number, aggregate(f, y, weight=w, reduction="none", **options))
    ragged = aggregate(torch.tensor([1.0, 2.0, 9.0]), torch.tensor([0.0, 9.0, 5.0]), index=torch.tensor([0, 0, 1]))
    assert ragged.item() == pytest.approx(1.5**2 / 2), "the bag without instances is left out"
    leaf = flat[0].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: aggregate(x, y, index=index[order], instance_part=0.3), leaf)


def test_mask_leaves_out_instances():
    f, y = bags(3)
    mask = torch.ones(3, 4, dtype=torch.bool)
    mask[:, 2] = False
    expected = aggregate(f[:, [0, 1, 3]], y, instance_part=0.5)
    f[:, 2] = torch.nan
    f = f.requires_grad_()
    value = aggregate(f, y, instance_part=0.5, mask=mask)
    value.backward()
    torch.testing.assert_close(value.detach(), expected)
    assert f.grad.isfinite().all()
    mask[1] = False
    both = aggregate(f[[0, 2]], y[[0, 2]], mask=mask[[0, 2]])
    torch.testing.assert_close(aggregate(f, y, mask=mask), both)


def test_one_instance_a_bag_and_a_function_of_ones_own():
    f, y = normal(3, 1), normal(3, seed=2)
    parts = [aggregate(f, y, instance_part=r, pointwise=lambda a, b: (a - b) ** 4) for r in (0.0, 1.0)]
    torch.testing.assert_close(*parts)
    torch.testing.assert_close(parts[0], ((f[:, 0] - y) ** 4).mean())


@pytest.mark.parametrize(
    ("options", "target", "words"),
    [
        ({"instance_part": 1.5}, (2,), "instance_part=1.5"),
        ({"aggregator": "max"}, (2,), "aggregator='max'"),
        ({"pointwise": "cubic"}, (2,), "pointwise='cubic'"),
        ({"bag_dim": 2}, (2,), "bag_dim=2"),
        ({}, (3,), "target of shape"),
        ({"index": torch.tensor([0, 2])}, (2, 3), "index=0 to 2"),
        ({"index": torch.tensor([0, 1])}, (2, 2), "target of shape"),
        ({"index": torch.tensor([0])}, (2, 3), "index="),
        ({"weight": torch.ones(4)}, (2,), "weight of shape"),
    ],
)
def test_bad_input(options, target, words):
    with pytest.raises(ForecastError, match=words):
        aggregate(torch.zeros(2, 3), torch.zeros(target), **options)
