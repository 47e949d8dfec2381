import math

import pytest
import torch

from forecast.core.errors import ForecastError
from forecast.losses.unlearning import forgetting_contrast, representation_gap
from tests.losses import cases
from tests.losses.cases import Case, normal


def four(count):
    return *(normal(count, 3, seed=seed) for seed in (0, 1)), *(normal(4, 3, seed=seed) for seed in (2, 3))


class TestEvery(cases.Every):
    CASES = (
        Case(representation_gap, four, without=("reduction", "mask", "chunks", "empty")),
        Case(forgetting_contrast, four, {"temperature": 0.5}, fixed=(1, 3), without=("mask", "chunks")),
    )


def test_gap_by_hand():
    kept, bad = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0], [0.0, 0.0]])
    value = representation_gap(kept, 0 * kept, bad, 0 * bad)
    expected = math.exp(1 / 2) - (math.exp(4 / 5) + 1) / 2
    assert value.item() == pytest.approx(expected)
    summed = representation_gap(kept, 0 * kept, bad, 0 * bad, reduction="sum")
    assert summed.item() == pytest.approx(math.exp(1 / 2) - math.exp(4 / 5) - 1)


def test_gap_is_bounded_and_pulls_the_right_way():
    kept, rebuilt, bad, bad_rebuilt = four(5)
    assert abs(representation_gap(1e6 * kept, rebuilt, bad, bad)) <= math.e - 1
    kept.requires_grad_(), bad.requires_grad_()
    representation_gap(kept, rebuilt, bad, bad_rebuilt).backward()
    assert ((kept.grad * (kept - rebuilt).detach()).sum(1) > 0).all()  # descent goes towards the rebuilt
    assert ((bad.grad * (bad - bad_rebuilt).detach()).sum(1) < 0).all()


def test_contrast_by_hand():
    east, north = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 5.0]])
    bad, old = torch.cat([east, east, east]), torch.cat([2 * east, -east, -east])
    value = forgetting_contrast(east, north, bad, old, temperature=0.5)
    assert value.item() == pytest.approx(1 - math.log(1 + 2 * math.exp(2 / 0.5)))


def test_old_model_has_no_gradient():
    inputs = [x.requires_grad_() for x in four(3)]
    forgetting_contrast(*inputs).backward()
    assert inputs[0].grad is not None and inputs[2].grad is not None
    assert inputs[1].grad is None and inputs[3].grad is None


def test_empty_sets():
    kept, old, bad, bad_old = four(3)
    none = bad[:0].requires_grad_()
    near = 1 - torch.nn.functional.cosine_similarity(kept, old)
    torch.testing.assert_close(forgetting_contrast(kept, old, none, none), near.mean())
    assert forgetting_contrast(none, none, bad, bad_old).item() == 0.0
    assert representation_gap(none, none, none, none).item() == 0.0
    torch.testing.assert_close(representation_gap(kept, old, none, none), representation_gap(kept, old, bad, bad) + 1)


def test_bad_input():
    kept, old, bad, bad_old = four(3)
    for call, words in (
        (lambda: representation_gap(kept, old[:2], bad, bad_old), "retained_rebuilt of shape"),
        (lambda: representation_gap(kept, old, bad[:, :2], bad_old[:, :2]), "3 features"),
        (lambda: representation_gap(kept, old, bad, bad_old, reduction="none"), "reduction=none"),
        (lambda: forgetting_contrast(kept, old, bad, bad_old[:2]), "forgotten_old of shape"),
        (lambda: forgetting_contrast(kept, old, bad, bad_old, temperature=0.0), "temperature=0"),
    ):
        with pytest.raises(ForecastError, match=words):
            call()
