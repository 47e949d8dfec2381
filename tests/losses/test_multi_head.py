import math

import pytest
import torch

from forecast.core.errors import ForecastError
from forecast.losses.contrastive import nt_xent
from forecast.losses.multi_head import adaptive_multi_head
from tests.losses import cases
from tests.losses.cases import Case, normal


def heads(count):
    return tuple(normal(count, 2, width, seed=seed) for seed, width in enumerate((3, 3, 4, 4)))


class TestEvery(cases.Every):
    CASES = (Case(adaptive_multi_head, heads, {"low": 0.1}),)


def test_by_hand():
    """One head, two orthogonal samples, keys of zero: every temperature is the middle of its range."""
    views = torch.eye(2, dtype=torch.float64)[:, None]
    keys = torch.zeros(2, 1, 3, dtype=torch.float64)
    value = adaptive_multi_head(views, views, keys, keys, low=0.5, high=1.5, strength=0.1)
    assert value.item() == pytest.approx(math.log(math.e + 2) - 1 + 0.1 * (0 + 1))


@pytest.mark.parametrize("heads_", [1, 3])
def test_even_temperatures_are_nt_xent_of_each_head(heads_):
    a, b = normal(5, heads_, 4), normal(5, heads_, 4, seed=1)
    keys = torch.zeros(5, heads_, 2, dtype=torch.float64)
    value = adaptive_multi_head(a, b, keys, keys, low=0.2, high=0.4, strength=0.0, reduction="none")
    parts = [nt_xent(a[:, c], b[:, c], temperature=0.3, reduction="none") for c in range(heads_)]
    torch.testing.assert_close(value, sum(parts))


def test_the_regulariser_is_least_at_two_over_the_width():
    """(D / 2) log t + 1 / t of width 4: the loss with and without it, at temperatures around 1/2."""
    views = torch.eye(4, dtype=torch.float64)[:3, None]
    held = []
    for temperature in (0.4, 0.5, 0.6):
        keys = torch.zeros(3, 1, 1, dtype=torch.float64)
        at = {"low": temperature - 0.1, "high": temperature + 0.1}
        values = [adaptive_multi_head(views, views, keys, keys, strength=s, **at) for s in (1.0, 0.0)]
        held.append((values[0] - values[1]).item())
    assert held[1] == pytest.approx(2 * math.log(0.5) + 2)
    assert held[1] < min(held[0], held[2])


def test_like_keys_are_warm_and_inverse_makes_them_cold():
    views = torch.nn.functional.normalize(normal(3, 1, 4), dim=2)
    keys = 5 * torch.eye(3, dtype=torch.float64)[:, None]
    low, high = 0.5, 1.5
    for inverse, own in ((False, high), (True, low)):
        value = [
            adaptive_multi_head(views, views, keys, keys, low=low, high=high, strength=s, inverse=inverse)
            for s in (1.0, 0.0)
        ]
        assert (value[0] - value[1]).item() == pytest.approx(2 * math.log(own) + 1 / own, abs=1e-6)


def test_bad_input():
    a, b, k, m = heads(4)
    for call, words in (
        (lambda: adaptive_multi_head(a, b[:3], k, m), "second of shape"),
        (lambda: adaptive_multi_head(a, b, k, m[:, :1]), "second_key of shape"),
        (lambda: adaptive_multi_head(a, b, k[:3], m[:3]), "first_key="),
        (lambda: adaptive_multi_head(a[:, 0], b[:, 0], k, m), "first="),
        (lambda: adaptive_multi_head(*heads(1)), "2 samples"),
        (lambda: adaptive_multi_head(a, b, k, m, low=-0.1), "low=-0.1"),
        (lambda: adaptive_multi_head(a, b, k, m, low=3.0), "low=3"),
    ):
        with pytest.raises(ForecastError, match=words):
            call()
