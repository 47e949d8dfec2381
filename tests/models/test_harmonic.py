"""Spherical harmonics as a layer of the network: exact where mathematics says so."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from forecast.core import grids
from forecast.core.errors import ForecastError
from forecast.core.model_sections import GraphTransformerSection
from forecast.core.sections import LossSection
from forecast.core.sphere import Harmonics
from forecast.models.forecaster import build
from forecast.models.harmonic import HarmonicLayer, Waves, harmonics
from forecast.models.noise import ConditionalLayerNorm
from tests.models.small import SMALL, batch, fields


class Unconditional(nn.Module):
    def forward(self, x, condition):
        return x


def xyz(grid):
    return torch.tensor(grid.xyz, dtype=torch.float32)


@pytest.fixture(scope="module")
def gaussian():
    return grids.gaussian(16)


def test_harmonics_are_orthonormal_with_the_known_energy_of_gradients(gaussian):
    basis, degrees = harmonics(10, gaussian.latitudes, gaussian.longitudes)
    weights = (gaussian.areas / gaussian.areas.sum())[:, None]
    np.testing.assert_allclose(basis[0].T @ (weights * basis[0]), np.eye(121), atol=1e-12)
    energy = sum(part.T @ (weights * part) for part in basis[1:])  # integral of |grad Y|^2 = n (n + 1)
    np.testing.assert_allclose(energy, np.diag(degrees * (degrees + 1.0)), atol=1e-9)


def test_gradients_are_the_planets_winds(gaussian):
    """Against the other implementation: u cos(lat) = -cos dY/dlat, v cos(lat) = dY/dlon."""
    sphere = Harmonics(10, gaussian)
    basis, _ = harmonics(10, gaussian.latitudes, gaussian.longitudes)
    rng = np.random.default_rng(0)
    field, east, north = basis @ rng.standard_normal(121)
    u, v = (sphere.to_rows(wind) for wind in sphere.wind(sphere.to_spectral(sphere.from_rows(field))))
    cosine = np.cos(np.radians(gaussian.latitudes))
    np.testing.assert_allclose(v, cosine * east, atol=1e-9)
    np.testing.assert_allclose(u, -cosine * north, atol=1e-9)


@pytest.mark.parametrize("grid", [grids.gaussian(16), grids.named("O8"), grids.named("ico2")], ids=lambda g: g.name)
def test_waves_return_what_the_truncation_holds(grid):
    """Exactly on a Gaussian grid, and as the least-squares fit on any other."""
    waves = Waves(7, xyz(grid))
    basis, degrees = harmonics(7, grid.latitudes, grid.longitudes)
    coefficients = np.random.default_rng(1).standard_normal((64, 3)) / (1 + degrees[:, None])
    x = torch.tensor(basis[0] @ coefficients, dtype=torch.float32)[None]
    gain = (torch.arange(8.0) + 1)[:, None, None].expand(-1, 1, 3)
    found = waves(x, gain)[0, :, :3].numpy()
    np.testing.assert_allclose(found, basis[0] @ ((degrees[:, None] + 1) * coefficients), atol=2e-5)


def test_a_layer_can_be_an_advection(gaussian):
    """One layer with the right weights is the Jacobian of a streamfunction, made by its filter, and a tracer."""
    waves = Waves(10, xyz(gaussian))
    layer = HarmonicLayer(8, 2, 2, waves, Unconditional())
    n = torch.arange(11.0)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        layer.choose.weight[:, :2] = torch.eye(2)
        layer.gain[1:, 0, 0], layer.gain[:, 0, 1] = -1 / (n * (n + 1))[1:], 1.0
        east, north = 8 + 2, 8 + 4  # after the features and the filtered fields
        layer.inner.weight[0, east], layer.inner.weight[1, north] = 1.0, -1.0  # psi_x, -psi_y
        layer.inner.weight[2, north + 1], layer.inner.weight[3, east + 1] = 1.0, 1.0  # q_y, q_x
        layer.outer.weight[7] = 1.0
    basis, degrees = harmonics(10, gaussian.latitudes, gaussian.longitudes)
    vorticity, tracer = np.random.default_rng(2).standard_normal((2, 121)) * (degrees <= 5)
    x = torch.zeros(1, gaussian.size, 8)
    x[0, :, :2] = torch.tensor(basis[0] @ np.stack([vorticity, tracer], axis=1))
    found = (layer(x, x[..., :4]) - x)[0, :, 7].detach().numpy()
    psi = np.where(degrees > 0, -vorticity / np.maximum(degrees * (degrees + 1), 1), 0)
    _, psi_x, psi_y = basis @ psi
    _, q_x, q_y = basis @ tracer
    scale = max(1.0, (10 * 11 / 2) ** 0.5 / 2) ** 2  # of the derivatives that the layer sees
    np.testing.assert_allclose(found * scale, psi_x * q_y - psi_y * q_x, atol=1e-4)


def test_a_layer_commutes_with_turning_the_sphere(gaussian):
    torch.manual_seed(0)
    layer = HarmonicLayer(16, 32, 4, Waves(5, xyz(gaussian)), ConditionalLayerNorm(16, 4))
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3)
    x, condition = torch.randn(2, gaussian.size, 16), torch.randn(2, 1, 4).expand(-1, gaussian.size, -1)

    def turn(field):
        return field.unflatten(1, gaussian.shape).roll(3, dims=2).flatten(1, 2)

    torch.testing.assert_close(turn(layer(x, condition)), layer(turn(x), condition), atol=2e-4, rtol=2e-4)


def test_half_precision_is_close(gaussian):
    torch.manual_seed(0)
    waves, x = Waves(10, xyz(gaussian)), torch.randn(2, gaussian.size, 3)
    gain = torch.ones(11, 1, 3)
    exact, half = waves(x, gain), waves(x.bfloat16(), gain)
    assert half.dtype == torch.bfloat16
    assert (half - exact).norm() < 0.01 * exact.norm()  # numbers of 8 bits, and products summed in float32


def test_truncation_beyond_the_nodes_is_refused(gaussian):
    with pytest.raises(ForecastError, match=r"model.truncation=40 .* lower it"):
        Waves(40, xyz(gaussian))
    with pytest.raises(ForecastError, match="tell apart"):
        Waves(20, xyz(gaussian))  # 16 rows


def test_direct_blocks_want_the_datas_mesh():
    with pytest.raises(ValidationError, match=r"set model.mesh to data"):
        GraphTransformerSection(blocks="direct")


@pytest.mark.parametrize("blocks", ["direct", "compact", "full"])
@pytest.mark.parametrize("recomputed", ["none", "layer", "both"])
def test_forecaster_of_harmonic_layers_learns_in_all_its_parts(blocks, recomputed):
    """Every parameter gets a gradient over two steps, and recomputing changes none."""
    mesh = {"mesh": "data"} if blocks == "direct" else {"mesh": None, "mesh_refinement": 1}
    shared = SMALL.model_dump() | {"blocks": blocks, "processor": "harmonic", "truncation": 4, "filters": 3, **mesh}
    gradients = []
    for checkpointing in {"none", recomputed}:
        torch.manual_seed(0)
        model = build(GraphTransformerSection(**shared | {"activation_checkpointing": checkpointing}), fields(),
                      LossSection(name="almost_fair_crps"))  # fmt: skip
        for name, parameter in model.named_parameters():
            if "head" in name or "outer" in name or "norm" in name:
                nn.init.normal_(parameter, std=0.1)
        given = batch(fields(), samples=2, steps=2)
        model.training_loss(given, 2, given.keys)["loss"].backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    assert all(g is not None and g.abs().max() > 0 for g in gradients[0].values())
    for name, gradient in gradients[-1].items():
        torch.testing.assert_close(gradient, gradients[0][name], atol=1e-6, rtol=1e-4)
