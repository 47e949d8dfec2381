"""The average of the weights against its closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from forecast.training.ema import Average


def walk(decay: float, updates: int) -> tuple[list[np.ndarray], Average, nn.Linear]:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    average = Average(model, decay)
    path = [model.weight.detach().double().numpy().copy()]
    for n in range(1, updates + 1):
        with torch.no_grad():
            model.weight.add_(torch.randn(2, 3))
        average.update(n)
        path.append(model.weight.detach().double().numpy().copy())
    return path, average, model


@pytest.mark.parametrize("decay", [0.9, 0.999])
def test_equal_to_the_weighted_sum_of_all_weights(decay: float) -> None:
    """a_N = w_0 prod d_n + sum_n (1 - d_n) w_n prod_{m > n} d_m."""
    path, average, _ = walk(decay, 40)
    d = [min(decay, (1 + n) / (10 + n)) for n in range(1, 41)]
    expected = path[0] * np.prod(d) + sum((1 - d[n]) * path[n + 1] * np.prod(d[n + 1 :]) for n in range(40))
    np.testing.assert_allclose(average.weights["weight"].numpy(), expected, rtol=2e-5, atol=1e-5)  # 40 float32 sums


def test_without_decay_it_is_the_weights() -> None:
    path, average, _ = walk(0.0, 5)
    np.testing.assert_array_equal(average.weights["weight"].numpy(), path[-1].astype(np.float32))


def test_the_start_is_forgotten_in_short_runs_too() -> None:
    """With d_n = (1 + n) / (10 + n) the initial weights keep 10! N! / (N + 10)!-like shares: below 1e-6 after 50."""
    d = [min(0.9999, (1 + n) / (10 + n)) for n in range(1, 51)]
    assert np.prod(d) < 1e-6


def test_averages_are_in_the_model_within_the_block_only() -> None:
    path, average, model = walk(0.9, 10)
    before = average.weights["weight"].clone()
    with pytest.raises(RuntimeError), average.applied():
        assert model.weight.equal(before)
        raise RuntimeError
    np.testing.assert_array_equal(model.weight.detach().numpy(), path[-1].astype(np.float32))
    assert average.weights["weight"].equal(before)
