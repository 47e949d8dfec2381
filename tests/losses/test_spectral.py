import math

import numpy as np
import pytest
import torch

from forecast.core import grids
from forecast.core.errors import ForecastError
from forecast.losses import multivariate, spectral
from forecast.losses.harmonics import Fourier, SphericalHarmonics
from forecast.losses.registry import build
from tests.losses import contract

GRID = grids.gaussian(4)
FFT, SHT = Fourier(GRID), SphericalHarmonics(GRID)


def drawn(*shape, seed=0):
    return torch.randn(*shape, GRID.size, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


MEMBERS, TRUTH, OTHER = drawn(2, 3), drawn(2, seed=1), drawn(2, seed=2)
LOSSES = {
    "crps": (lambda *x, **k: spectral.spectral_crps(*x, **{"transform": FFT} | k), (MEMBERS, TRUTH)),
    "amplitude": (lambda *x, **k: spectral.spectral_crps(*x, transform=SHT, amplitude=True, **k), (MEMBERS, TRUTH)),
    "amse": (lambda *x, **k: spectral.amse(*x, **{"transform": SHT} | k), (OTHER, TRUTH)),
    "distance": (lambda *x, **k: spectral.log_spectral_distance(*x, transform=SHT, **k), (OTHER, TRUTH)),
    "each": (
        lambda *x, **k: spectral.log_spectral_distance(*x, transform=FFT, per_degree=False, **k), (OTHER, TRUTH)
    ),
    "correlation": (lambda *x, **k: spectral.fourier_correlation(*x, transform=SHT, **k), (OTHER, TRUTH)),
}  # fmt: skip
by_loss = pytest.mark.parametrize("name", LOSSES)


@by_loss
def test_contract(name):
    loss, inputs = LOSSES[name]
    contract.precision(loss, inputs)
    nothing = loss(*(x[:0].clone().requires_grad_() for x in inputs))
    nothing.backward()
    assert nothing.item() == 0
    small = [x[:1, ..., :1] for x in inputs]
    contract.gradient(loss, small)
    each = loss(*inputs, reduction="none")
    torch.testing.assert_close(loss(*inputs, reduction="sum"), each.sum())
    by_variable = torch.tensor([1.0, 3.0], dtype=torch.float64)
    apart = [loss(*(x[..., v : v + 1] for x in inputs)) for v in (0, 1)]
    torch.testing.assert_close(loss(*inputs), (apart[0] + apart[1]) / 2)
    torch.testing.assert_close(loss(*inputs, weight=by_variable), (apart[0] + 3 * apart[1]) / 4)
    on_grid = torch.rand(GRID.size, 1, dtype=torch.float64) * by_variable  # only its mean over the grid counts
    torch.testing.assert_close(loss(*inputs, weight=on_grid), (apart[0] + 3 * apart[1]) / 4)


@by_loss
def test_a_perfect_forecast_scores_zero(name):
    loss, (x, y) = LOSSES[name]
    perfect = (y[:, None].expand_as(x) if x.ndim > y.ndim else y).clone().requires_grad_()
    value = loss(perfect, y)
    value.backward()
    assert value.item() == pytest.approx(0.0, abs=1e-8)
    assert perfect.grad.isfinite().all()


def test_registered():
    for name, inputs in (
        ("spectral_crps", (MEMBERS, TRUTH)),
        ("amse", (OTHER, TRUTH)),
        ("log_spectral_distance", (OTHER, TRUTH)),
        ("fourier_correlation", (OTHER, TRUTH)),
    ):
        loss = build({"name": name, "transform": {"name": "harmonics", "truncation": 2}}, grid=GRID)
        coarse = SphericalHarmonics(GRID, truncation=2)
        torch.testing.assert_close(loss(*inputs), loss.function(*inputs, transform=coarse))
        assert "transform" in dict(loss.named_children())  # so that it moves with the loss


def test_crps_by_hand():
    """A grid of one row and two columns: coefficients (a + b) / sqrt(2) and (a - b) / sqrt(2), both real."""
    pair = Fourier(shape=(1, 2))
    members = torch.tensor([[[[1.0], [1.0]], [[2.0], [0.0]]]])
    truth = torch.zeros(1, 2, 1)
    # coefficients of the members: (s, 0), (s, s) with s = sqrt(2); errors s, s; s, 0 and distances 0; s
    score = spectral.spectral_crps(members, truth, transform=pair, alpha=1.0, reduction="none").flatten()
    torch.testing.assert_close(score, torch.tensor([math.sqrt(2), 0.5 * math.sqrt(2) - 0.5 * math.sqrt(2)]))


def test_parseval_joins_spectral_and_grid_energy():
    """The norm over all coefficients is the norm over the grid, so the energy score is one."""
    spread = multivariate.energy_score(FFT(MEMBERS), FFT(TRUTH), reduction="none")
    torch.testing.assert_close(spread, multivariate.energy_score(MEMBERS, TRUTH, reduction="none"))


def test_crps_of_real_coefficients_is_the_crps():
    """Without columns all coefficients of an even field are real, and the score is the pointwise one of them."""
    row = Fourier(shape=(1, 4))
    x, y = MEMBERS[..., :4, :].clone(), TRUTH[..., :4, :].clone()
    for field in (x, y):
        field[..., 3, :] = field[..., 1, :]  # even around the first point
    ours = spectral.spectral_crps(x, y, transform=row, alpha=0.95, reduction="none")
    real = [row.coefficients(field).real[..., None] for field in (x, y)]
    plain = multivariate.energy_score(*real, over=(-1,), reduction="none")
    torch.testing.assert_close(ours, plain * row.multiplicity[:, None])


@pytest.mark.parametrize("dim", [0, -1])
def test_members_on_any_axis(dim):
    ours = spectral.spectral_crps(MEMBERS.movedim(1, dim), TRUTH, transform=FFT, ensemble_dim=dim)
    torch.testing.assert_close(ours, spectral.spectral_crps(MEMBERS, TRUTH, transform=FFT))


def test_amplitude_is_blind_to_shifts_along_a_row():
    moved = MEMBERS.unflatten(-2, GRID.shape).roll(3, dims=-2).flatten(-3, -2)
    loss = LOSSES["amplitude"][0]
    torch.testing.assert_close(loss(moved, TRUTH), loss(MEMBERS, TRUTH))
    distance = LOSSES["distance"][0]
    torch.testing.assert_close(distance(moved[:, 0], TRUTH), distance(MEMBERS[:, 0], TRUTH))


def test_amse_is_the_squared_error_but_for_the_maximum():
    a, b, cross = spectral.spectra(SHT, OTHER, TRUTH)
    identity = (a.sqrt() - b.sqrt()).square() + 2 * (a * b).sqrt() * (1 - cross / (a * b).sqrt())
    squares = SHT(OTHER - TRUTH).square().sum(-2)
    torch.testing.assert_close(identity.sum(-2), squares)
    extra = 2 * (torch.maximum(a, b) - (a * b).sqrt()) * (1 - cross / (a * b).sqrt())
    ours = spectral.amse(OTHER, TRUTH, transform=SHT, eps=0.0, reduction="none").squeeze(-2)
    torch.testing.assert_close(ours, squares + extra.sum(-2))


def test_amse_does_not_reward_smoothing():
    """For an uncorrelated wave the squared error is least for none at all; the AMSE for one of full strength."""
    lat, lon = np.radians(GRID.latitudes), np.radians(GRID.longitudes)
    truth, wave = (torch.tensor(np.cos(lat) * f(lon))[None, :, None] for f in (np.cos, np.sin))
    damped = [spectral.amse(s * wave, truth, transform=SHT).item() for s in (0.0, 0.5, 1.0)]
    squares = [(s * wave - truth).square().mean().item() for s in (0.0, 0.5, 1.0)]
    assert squares[0] < squares[1] < squares[2]
    assert damped[0] > damped[1]
    assert damped[2] == pytest.approx(2 * SHT(truth).square().sum().item())


def test_log_spectral_distance_by_hand():
    """Twice the amplitude at every degree: log 4."""
    for per_degree in (True, False):
        value = spectral.log_spectral_distance(2 * TRUTH, TRUTH, transform=FFT, per_degree=per_degree, eps=1e-12)
        assert value.item() == pytest.approx(math.log(4), abs=1e-6)


def test_correlation_sees_phases_alone():
    loss = LOSSES["correlation"][0]
    torch.testing.assert_close(loss(3 * OTHER, TRUTH), loss(OTHER, TRUTH))
    assert loss(-TRUTH, TRUTH).item() == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: spectral.spectral_crps(MEMBERS[:, :1], TRUTH, transform=FFT), "at least 2"),
        (lambda: spectral.spectral_crps(MEMBERS[..., :5, :], TRUTH[..., :5, :], transform=FFT), "field"),
        (lambda: spectral.amse(OTHER[:1], TRUTH, transform=FFT), "shape"),
        (lambda: spectral.amse(OTHER, TRUTH, transform=FFT, mask=torch.zeros(1)), "mixes points"),
        (lambda: spectral.log_spectral_distance(OTHER, TRUTH, transform=FFT, eps=0.0), "eps=0"),
        (lambda: build({"name": "amse"}), "needs `transform`"),
        (lambda: build({"name": "amse", "transform": {"name": "harmonic"}}, grid=GRID), "`harmonics`"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ForecastError, match=words):
        call()
