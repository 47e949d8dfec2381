import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from forecast.core.errors import ForecastError
from forecast.losses.prototypes import (
    deviation,
    kmeans_layer,
    nearest_prototypes,
    prototype_contrast,
    reseed_empty,
)
from forecast.losses.registry import build
from tests.losses import cases
from tests.losses.cases import Case, normal


def four(count):
    return tuple(normal(count, 3, seed=seed) for seed in range(4))


def with_prototypes(count):
    return normal(count, 3), normal(4, 3, seed=1)


class TestEvery(cases.Every):
    CASES = (
        Case(deviation, four, fixed=(0, 1), without=("chunks",)),
        Case(prototype_contrast, with_prototypes, {"margin": 1.0}, fixed=(0,), without=("chunks", "module")),
        Case(kmeans_layer, with_prototypes, {"straight_through": False}, without=("chunks", "module")),
    )


def test_deviation_by_hand():
    q, a = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]])  # apart by 3
    p, r = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 0.0]])  # apart by 1
    assert deviation(q, a, p, r).item() == 2.0
    assert deviation(q, q, p, p).item() == 0.0


def test_deviation_of_many_points_is_that_of_each():
    inputs = [normal(2, 3, 4, seed=seed) for seed in range(4)]
    each = deviation(*inputs, reduction="none")
    l1 = [(x - y).abs().sum(-1) for x, y in (inputs[:2], inputs[2:])]
    torch.testing.assert_close(each, (l1[0] - l1[1]).abs())
    mask = torch.tensor([[True, False, True], [False, True, True]])
    torch.testing.assert_close(deviation(*inputs, mask=mask), each[mask].mean())


def test_deviation_leaves_queries_alone():
    q, a, p, r = (x.requires_grad_() for x in four(3))
    deviation(q, a, p, r).backward()
    assert q.grad is None and p.grad is not None


def test_prototype_contrast_is_the_triplet_loss_of_torch():
    q, prototypes = with_prototypes(6)
    own, other = nearest_prototypes(q, prototypes)
    expected = F.triplet_margin_loss(q, own, other, margin=0.5)
    torch.testing.assert_close(prototype_contrast(q, prototypes), expected)
    assert ((q * own).sum(1) >= (q * other).sum(1)).all()
    assert ((q @ prototypes.T).amax(1) == (q * own).sum(1)).all()


def test_modules_learn_their_prototypes():
    z = normal(6, 3, dtype=torch.float32)
    for spec, function in (
        ({"name": "prototype_contrast", "width": 3, "count": 4}, prototype_contrast),
        ({"name": "kmeans_layer", "width": 3, "clusters": 4}, kmeans_layer),
    ):
        loss = build(spec)
        (learnt,) = loss.parameters()
        assert learnt.shape == (4, 3)
        torch.testing.assert_close(loss(z), function(z, learnt))
        weight = torch.arange(6.0)
        torch.testing.assert_close(loss(z, weight=weight), function(z, learnt, weight=weight))
        loss(z).backward()
        assert learnt.grad.isfinite().all() and learnt.grad.any()


def test_one_prototype_is_skipped_and_two_are_not():
    two = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    value = prototype_contrast(torch.tensor([[2.0, 0.0]]), two)
    assert value.item() == 0.0
    near = prototype_contrast(torch.tensor([[0.6, 0.5]]), two).item()
    assert near == pytest.approx(math.hypot(0.4, 0.5) - math.hypot(0.6, 0.5) + 0.5, abs=1e-5)
    q, prototypes = normal(3, 2), normal(1, 2).requires_grad_()
    value = prototype_contrast(q, prototypes)
    assert value.item() == 0.0
    value.backward()
    assert prototype_contrast(q, prototypes, reduction="none").shape == (3,)


def test_kmeans_by_hand():
    z, w = torch.tensor([[3.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0, 1.0], [5.0, 0.0]])
    each = kmeans_layer(z, w, strength=1.0, reduction="none")
    assert each.tolist() == pytest.approx([0.0, 2 - 2**0.5])  # |z - w|^2 = 2 - 2 cos 45 deg


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 100), scale=st.floats(0.1, 10))
def test_kmeans_is_the_squared_distance_to_the_nearest(seed, scale):
    z, w = normal(6, 3, seed=seed), normal(4, 3, seed=seed + 1)
    nearest = torch.cdist(F.normalize(z), F.normalize(w)).square().amin(1)
    torch.testing.assert_close(kmeans_layer(scale * z, w, strength=2.0, reduction="none"), 2 * nearest)
    assert kmeans_layer(w, w).item() == pytest.approx(0, abs=1e-15)


def test_straight_through_changes_the_gradient_and_not_the_value():
    z, w = normal(5, 3).requires_grad_(), normal(4, 3, seed=1)
    values = [kmeans_layer(z, w, temperature=0.5, straight_through=on) for on in (False, True)]
    torch.testing.assert_close(*values)
    hard, soft = (torch.autograd.grad(value, z)[0] for value in values)
    assert not torch.allclose(hard, soft)


def test_empty_clusters_are_reseeded():
    features = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    moved = reseed_empty(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), features)
    torch.testing.assert_close(moved, torch.tensor([[1.0, 0.0], [0.0, 1.0]]))


def test_bad_input():
    z, w = with_prototypes(4)
    for call, words in (
        (lambda: deviation(z, z, z, w[:2]), "reference_prototype of shape"),
        (lambda: prototype_contrast(z, w[:, :2]), "prototypes="),
        (lambda: prototype_contrast(z, w, margin=-1.0), "margin=-1"),
        (lambda: kmeans_layer(z, w[:0]), "centroids="),
        (lambda: kmeans_layer(z, w, temperature=0.0), "temperature=0"),
        (lambda: nearest_prototypes(z, w[:1]), "prototypes="),
        (lambda: reseed_empty(w, z[:2]), "features="),
    ):
        with pytest.raises(ForecastError, match=words):
            call()
