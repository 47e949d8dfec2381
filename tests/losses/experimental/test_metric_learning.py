import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.core.errors import ForecastError
from forecast.losses.experimental.metric_learning import class_means, icnn, proto_triplet
from tests.losses import cases
from tests.losses.cases import Case, normal

pytestmark = pytest.mark.filterwarnings("ignore:.*was built from memory")


def labelled(count):
    return normal(count, 3), torch.arange(count) % 2


class TestEvery(cases.Every):
    CASES = (
        Case(proto_triplet, lambda n: (*labelled(n), normal(3, 3, seed=1)), {"margin": 2.0}, without=("chunks",)),
        Case(icnn, labelled, {"neighbours": 3}, samples=6),
    )


def test_proto_triplet_by_hand():
    x, labels = torch.tensor([[0.0, 0.0]]), torch.tensor([0])
    prototypes = torch.tensor([[3.0, 4.0], [0.0, 2.0], [0.0, 10.0]])  # 5, 2 and 10 away
    assert proto_triplet(x, labels, prototypes, margin=1.0).item() == pytest.approx((5 - 2 + 1 + 0) / 2)
    assert proto_triplet(x, labels, prototypes[:1]).item() == 0.0


def test_class_means():
    means = class_means(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([2, 2, 0]), 3)
    assert means.tolist() == [[5.0], [0.0], [2.0]]


def test_icnn_by_hand():
    """Of the sample at 0: own class at 1, another at 2, both among 2 neighbours."""
    x, labels = torch.tensor([[0.0], [1.0], [-2.0]], dtype=torch.float64), torch.tensor([0, 0, 1])
    closeness, farness, share = 1 - 1 / 2, 2 / 2, 1 / 2
    expected = -math.log(((closeness + farness) / 2 + share) / 2)
    assert icnn(x, labels, neighbours=2, reduction="none")[0].item() == pytest.approx(expected)
    # the sample of the other class has no neighbour of its own: closeness 0, farness (2 + 3) / 2 / 3, share 0
    alone = -math.log((0 + 2.5 / 3) / 2 / 2)
    assert icnn(x, labels, neighbours=2, reduction="none")[2].item() == pytest.approx(alone)


def test_icnn_of_separate_classes_is_zero_and_neighbours_are_capped():
    x = torch.tensor([[0.0, 0.0], [0.1, 0.0], [9.0, 9.0], [9.1, 9.0]])
    labels = torch.tensor([0, 0, 1, 1])
    assert icnn(x, labels, neighbours=1).item() == 0.0
    torch.testing.assert_close(icnn(x, labels, neighbours=3), icnn(x, labels, neighbours=99))
    assert icnn(torch.zeros(4, 2), labels, neighbours=2).isfinite()


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 100), scale=st.floats(0.1, 10))
def test_icnn_sees_ratios_of_distances_alone(seed, scale):
    x, labels = normal(7, 3, seed=seed), torch.arange(7) % 3
    turn = torch.linalg.qr(normal(3, 3, seed=seed))[0]
    torch.testing.assert_close(icnn(scale * x @ turn + 1, labels), icnn(x, labels))
    assert icnn(x, labels) >= 0


def test_bad_input():
    x, labels = labelled(4)
    for call, words in (
        (lambda: proto_triplet(x, labels + 2, x[:3]), "labels=.*0 .. 2"),
        (lambda: proto_triplet(x, labels, x[:3, :2]), "3 features"),
        (lambda: proto_triplet(x, labels, x, margin=-1.0), "margin=-1"),
        (lambda: icnn(x, labels[:2]), "labels="),
        (lambda: icnn(x[:1], labels[:1]), "2 samples"),
        (lambda: icnn(x, labels, neighbours=0), "neighbours=0"),
    ):
        with pytest.raises(ForecastError, match=words):
            call()
