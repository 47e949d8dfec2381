"""The variational network with harmonic filters in place of windows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from forecast.core import grids
from forecast.core.errors import ForecastError
from forecast.models.fuxi_blocks import Backbone, Geometry
from forecast.models.harmonic import HarmonicLayer, Waves
from forecast.models.modulation import modulated_norm
from tests.models.fuxi import HARMONIC, section, trained

GRID = grids.gaussian(8)


def backbone(**changes: Any) -> Backbone:
    torch.manual_seed(0)
    made = section(**{**HARMONIC, **changes})
    return Backbone(made, Geometry.of(made, (8, 16), True, GRID.xyz), channels=3, forcings=2, layers=1)


def given(seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(2, GRID.size, 3, generator=generator), torch.randn(2, GRID.size, 2, generator=generator),
            torch.rand(2, 3, generator=generator))  # fmt: skip


def randomised(network: nn.Module) -> nn.Module:
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network


@pytest.mark.parametrize("kind", ["windows", "harmonic"])
def test_fresh_backbones_of_both_kinds_are_the_same(kind: str) -> None:
    """Blocks begin as the identity: tokens are embedded patches, and the same normed."""
    network = backbone(backbone=kind)
    embedded = network.patches(*given()[:2])
    ones = torch.ones(2, embedded.shape[-1])
    torch.testing.assert_close(network(*given()), embedded + modulated_norm(embedded, ones, torch.zeros_like(ones)))


@pytest.mark.parametrize("patch", [(1, 1), (2, 2)])
def test_turning_the_sphere_turns_the_output(patch: tuple[int, int]) -> None:
    network = randomised(backbone(patch=patch, truncation=3))
    fields, forcings, times = given()

    def turn(x: Tensor, columns: int, by: int) -> Tensor:
        return x.unflatten(1, (-1, columns)).roll(by, dims=2).flatten(1, 2)

    turned = network(turn(fields, 16, 2), turn(forcings, 16, 2), times)
    torch.testing.assert_close(
        turned, turn(network(fields, forcings, times), 16 // patch[1], 2 // patch[1]), atol=1e-4, rtol=1e-3
    )


def test_every_token_hears_of_every_other_and_of_the_time() -> None:
    network = randomised(backbone())
    fields, forcings, times = given()
    fields.requires_grad_()
    (gradient,) = torch.autograd.grad(network(fields, forcings, times)[0, 0].sum(), fields)
    assert (gradient[0].abs().sum(dim=-1) > 0).all()
    assert not gradient[1].any()
    assert not torch.allclose(network(fields, forcings, times), network(fields, forcings, times + 0.5))


def test_the_layers_are_those_of_the_graph_transformer_and_share_their_harmonics() -> None:
    network = trained(**HARMONIC).network
    layers = [m for m in network.modules() if isinstance(m, HarmonicLayer)]
    assert len(layers) == 2 * 3  # prior, posterior, decoder
    assert sum(isinstance(m, Waves) for m in network.modules()) == 1


@pytest.mark.parametrize("remainder", ["pad", "drop"])
def test_tokens_lie_in_the_middle_of_their_patches(remainder: str) -> None:
    """Also of one that the grid does not fill; the last row of 9 is left out or a patch of its own."""
    grid = grids.latlon(np.linspace(80, -80, 9), np.arange(16) * 22.5)
    made = section(**{**HARMONIC, "patch": (2, 2), "remainder": remainder, "truncation": 2})
    centres = Geometry.of(made, (9, 16), True, grid.xyz)._centres(grid.xyz).unflatten(0, (-1, 8))
    latitudes = torch.rad2deg(torch.arcsin(centres[..., 2]))
    wanted = torch.tensor([70.0, 30, -10, -50, -80] if remainder == "pad" else [70.0, 30, -10, -50])
    torch.testing.assert_close(latitudes.mean(dim=1).float(), wanted, atol=2.5, rtol=0)
    longitudes = torch.rad2deg(torch.atan2(centres[..., 1], centres[..., 0])) % 360
    torch.testing.assert_close(longitudes[1].float(), 11.25 + 45 * torch.arange(8.0))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ForecastError, match=r"model.truncation=20 has 441 .* lower it, or take .*smaller patches"):
        backbone(truncation=20)
    regional = section(**HARMONIC)
    with pytest.raises(ForecastError, match="wants a grid that goes round the globe: set it to windows"):
        Geometry.of(regional, (8, 16), False, GRID.xyz)
    section(**HARMONIC, heads=3)  # of windows alone
