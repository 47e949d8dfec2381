import pytest
import torch
from torch import nn

from forecast.core.errors import ForecastError
from forecast.losses.autoencoding import (
    contractive_reconstruction,
    denoising_reconstruction,
    reconstruction_score,
)
from tests.losses import cases
from tests.losses.cases import Case, normal

MATRIX = normal(3, 3, seed=7)


def curved(x):
    return torch.tanh(x @ MATRIX.to(x.dtype))


def with_network(count):
    return curved, normal(count, 3)


def seeded(function):
    """The same draws at every call."""

    def inner(network, inputs, **at_call):
        return function(network, inputs, generator=torch.Generator().manual_seed(3), **at_call)

    inner.__name__ = function.__name__
    return inner


class TestEvery(cases.Every):
    CASES = (
        Case(contractive_reconstruction, with_network, {"probes": None}, without=("chunks",)),
        Case(seeded(contractive_reconstruction), with_network, {"probes": 2}, without=("chunks", "module", "mask")),
        Case(seeded(denoising_reconstruction), with_network, without=("chunks", "module", "mask")),
    )


def test_contraction_by_hand():
    """r(x) = 3 x in two dimensions: |2 x|^2 and a Jacobian of squared norm 18."""
    x = torch.tensor([[1.0, 2.0]])
    for probes in (None, 1, 4):  # Hutchinson is exact for a multiple of the identity
        assert contractive_reconstruction(lambda z: 3 * z, x, strength=0.5, probes=probes).item() == 20 + 9


def test_exact_contraction_is_the_jacobian():
    x = normal(4, 3)
    jacobian = torch.autograd.functional.jacobian(lambda z: curved(z).sum(0), x).movedim(1, 0)
    expected = (curved(x) - x).square().sum(1) + 0.3 * jacobian.square().sum((1, 2))
    value = contractive_reconstruction(curved, x, strength=0.3, probes=None, reduction="none")
    torch.testing.assert_close(value, expected)


def test_probes_estimate_it():
    x = normal(1, 3).expand(4000, 3)
    exact = contractive_reconstruction(curved, x[:1], strength=1.0, probes=None)
    estimate = contractive_reconstruction(curved, x, strength=1.0, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(estimate, exact, rtol=0.05, atol=0)


def test_contraction_trains_the_network_and_works_without_gradient():
    network = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 2))
    x = normal(6, 2, dtype=torch.float32)
    contractive_reconstruction(network, x).backward()
    assert all(p.grad.abs().sum() > 0 for p in network[0].parameters())
    with torch.no_grad():
        assert contractive_reconstruction(network, x).isfinite()


def test_linear_optimum_and_score():
    """Gaussian states of variance 4, noise of variance 1: the best r is 4 / 5 x, and its score tends to -x / 5."""
    x = 2 * normal(20_000, 1)
    a = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    for noise in (1.0, 0.5):
        value = denoising_reconstruction(lambda z: a * z, x, noise=noise, generator=torch.Generator().manual_seed(1))
        (grad,) = torch.autograd.grad(value, a)
        best = 4 / (4 + noise**2)
        # d/da mean (a z - x)^2 = 2 (a - best) (4 + noise^2)
        assert grad.item() == pytest.approx(2 * (0.8 - best) * (4 + noise**2), abs=0.1)
    for noise in (1.0, 0.5):
        score = reconstruction_score(lambda z, s=noise: 4 / (4 + s**2) * z, x, noise=noise)
        torch.testing.assert_close(score, -x / (4 + noise**2))


def test_contractive_optimum_is_the_denoising_one():
    """min_a (a - 1)^2 s^2 + lambda a^2: s^2 / (s^2 + lambda)."""
    a = torch.tensor(4 / 4.25, dtype=torch.float64, requires_grad=True)
    x = torch.tensor([[2.0], [-2.0]], dtype=torch.float64)
    (grad,) = torch.autograd.grad(contractive_reconstruction(lambda z: a * z, x, strength=0.25), a)
    assert grad.item() == pytest.approx(0.0, abs=1e-12)


def test_a_masked_sample_may_be_missing():
    x = normal(3, 3)
    spoilt = x.clone()
    spoilt[1] = torch.nan
    mask = torch.tensor([True, False, True])
    value = contractive_reconstruction(curved, spoilt, probes=None, mask=mask)
    torch.testing.assert_close(value, contractive_reconstruction(curved, x[mask], probes=None))
    assert denoising_reconstruction(curved, spoilt, mask=mask).isfinite()


def test_bad_input():
    x = normal(3, 3)
    for call, words in (
        (lambda: contractive_reconstruction(lambda z: z[:, :2], x), "network="),
        (lambda: contractive_reconstruction(curved, x, strength=-1.0), "strength=-1"),
        (lambda: contractive_reconstruction(curved, x, probes=0), "probes=0"),
        (lambda: denoising_reconstruction(curved, x, noise=0.0), "noise=0"),
        (lambda: reconstruction_score(curved, x, noise=-1.0), "noise=-1"),
    ):
        with pytest.raises(ForecastError, match=words):
            call()
