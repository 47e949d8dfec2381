"""The network of the released FuXi-ENS, built without memory; and networks of other sizes."""

import numpy as np
import pytest
import torch

from forecast.core import config, grids
from forecast.core.errors import ForecastError
from forecast.models.fields import Fields
from forecast.models.variational import VariationalNetwork, regular, wraps
from tests.models.fuxi import section
from tests.models.small import statistics


def fields_on(grid, prognostic=("z_500", "2t"), diagnostic=("tp",), static=("lsm",), forcings=("cos_latitude",)):
    names = (*prognostic, *diagnostic, *static)
    return Fields(
        prognostic=prognostic, diagnostic=diagnostic, static=static, forcings=forcings,
        latitudes=grid.latitudes, longitudes=grid.longitudes, areas=grid.areas,
        statistics={name: statistics(0.0, 1.0, 1.0) for name in names}, step=21_600,
    )  # fmt: skip


@pytest.fixture(scope="module")
def released():
    run = config.load("fuxi_ens_0p25")
    grid = grids.latlon(np.linspace(90, -90, 721), np.arange(1440) * 0.25)
    data = run.data
    with torch.device("meta"):
        return VariationalNetwork(
            run.model, fields_on(grid, data.prognostic, data.diagnostic, data.static, data.forcings), features=False
        )


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_released_network_has_exactly_the_published_parameters(released):
    assert count(released.prior) == 654_261_048
    assert count(released.decoder) == 1_820_600_910
    assert count(released.prior) + count(released.decoder) == 2_474_861_958
    assert all(p.is_meta for p in released.parameters())


BLOCK = {
    "modulation.weight": (9216, 1536), "modulation.bias": (9216,), "attention.qkv.weight": (4608, 1536),
    "attention.out.weight": (1536, 1536), "mlp_in.weight": (8192, 1536), "mlp_out.weight": (1536, 4096),
}  # fmt: skip
TIME = {"0.weight": (1536, 256), "0.bias": (1536,), "2.weight": (1536, 1536), "2.bias": (1536,)}
BACKBONE = {
    "patches.weight": (1536,), "patches.embed_state.weight": (1536, 156, 8, 8), "patches.embed_state.bias": (1536,),
    "patches.embed_forcings.weight": (1536, 6, 8, 8), "patches.embed_forcings.bias": (1536,),
    "modulation.weight": (3072, 1536), "modulation.bias": (3072,),
    **{f"time.each.{i}.{name}": shape for i in range(3) for name, shape in TIME.items()},
}  # fmt: skip


def shapes(layers, heads):
    head = {f"{name}.head.{part}": (1536, channels, 8, 8)[:: 1] if part == "weight" else (channels,)
            for name, channels in heads.items() for part in ("weight", "bias")}  # fmt: skip
    blocks = {f"layers.{i}.{j}.{name}": shape for i in range(layers) for j in range(7) for name, shape in BLOCK.items()}
    return {f"backbone.{name}": shape for name, shape in {**BACKBONE, **blocks}.items()} | head


def test_every_shape_of_the_released_network(released):
    found = {name: {n: tuple(p.shape) for n, p in getattr(released, name).named_parameters()}
             for name in ("prior", "decoder")}  # fmt: skip
    assert found["prior"] == shapes(2, {"head_mean": 156, "head_logvar": 156})
    assert found["decoder"] == shapes(6, {"head_levels": 65, "head_surface": 13})
    blocks = [count(block) for layer in released.decoder.backbone.layers for block in layer]
    assert blocks == [42_476_544] * 42
    assert [count(m) for m in released.prior.backbone.time.each] == [2_755_584] * 3


def test_geometry_of_the_released_network(released):
    """16,200 tokens, 50 windows of 324, shifted by half in odd blocks; the row of the south pole is no token."""
    assert released.geometry.tokens == (90, 180)
    assert released.geometry.covered == (91, 180)
    for network in (released.prior, released.decoder):
        for layer in network.backbone.layers:
            groups = [block.attention.groups for block in layer]
            assert groups == [((50, 324),), ((20, 162), (40, 324))] * 3 + [((50, 324),)]
            assert {block.attention.heads for block in layer} == {24}
    posterior = dict(released.posterior.named_parameters())["backbone.patches.embed_state.weight"]
    assert tuple(posterior.shape) == (1536, 3 * 78, 8, 8)
    dropout = 2 * 16_200 * 1536
    assert released.noise_shape == (721 * 1440 * 2 * 73 + dropout, 1)


GRIDS = {
    "rows and columns over": (9, 15), "divides": (8, 16), "smaller than a patch": (3, 2), "one row over": (9, 16),
}  # fmt: skip


@pytest.mark.parametrize("remainder", ["pad", "drop"])
@pytest.mark.parametrize("shape", GRIDS.values(), ids=GRIDS)
def test_any_grid_of_rows_and_columns(shape, remainder):
    grid = grids.latlon(np.linspace(80, -80, shape[0]), np.arange(shape[1]) * 360 / shape[1])
    fields, patch = fields_on(grid), (4, 4) if remainder == "pad" or min(shape) >= 4 else (2, 2)
    network = VariationalNetwork(section(patch=patch, remainder=remainder), fields, features=True)
    states, forcings = torch.randn(1, 2, grid.size, 6), torch.randn(1, grid.size, 2)
    times, noise = torch.zeros(1, 3), torch.randn(1, 2, network.noise_shape[0])
    p = network.distribution(network.prior, states, forcings, times, noise)
    assert p.mean.shape == (1, 2, grid.size, 4)
    assert not p.mean.any()  # N(0, 1) at the start
    assert not p.logvar.any()
    out, features = network.decode(states, forcings, times)
    assert out.shape == (1, 2, grid.size, 3)
    assert features.hidden.shape == (1, 2, grid.size, 8)
    out.square().sum().backward()
    weight = network.decoder.backbone.patches.embed_state.weight
    assert weight.grad.abs().sum() > 0


def test_dropped_row_is_bias_alone():
    """The released network sees no south pole and gives it the heads' biases."""
    grid = grids.latlon(np.linspace(90, -90, 9), np.arange(16) * 22.5)
    network = VariationalNetwork(section(patch=(4, 4), remainder="drop"), fields_on(grid), features=False)
    states = torch.randn(1, 1, grid.size, 6, requires_grad=True)
    out, _ = network.decode(states, torch.randn(1, grid.size, 2), torch.zeros(1, 3))
    (grad,) = torch.autograd.grad(out.square().sum(), states)
    pole = slice(8 * 16, 9 * 16)
    assert not grad[0, 0, pole].any()
    assert grad[0, 0, : 8 * 16, :2].any()
    heads = network.decoder
    biases = torch.cat([heads.head_levels.head.bias, heads.head_surface.head.bias])[heads.order]
    torch.testing.assert_close(out[0, 0, pole], biases.expand(16, -1))


def test_padded_points_count_for_nothing():
    """What lies beside the grid within a patch is zero, and no output."""
    grid = grids.latlon(np.linspace(90, -90, 9), np.arange(16) * 22.5)
    network = VariationalNetwork(section(patch=(4, 4)), fields_on(grid), features=False)
    fields = torch.randn(1, grid.size, 6)
    padded = network.decoder.backbone.patches.geometry.cut(fields)
    assert padded.shape == (1, 6, 12, 16)
    assert not padded[:, :, 9:].any()
    torch.testing.assert_close(padded[:, :, :9].flatten(2).transpose(1, 2), fields)


def test_channels_come_back_in_the_order_of_the_variables():
    """Pressure levels and the rest have a head each, whatever the order of the config."""
    grid = grids.latlon(np.linspace(80, -80, 8), np.arange(16) * 22.5)
    network = VariationalNetwork(section(), fields_on(grid, ("2t", "z_500", "msl", "t_850"), ()), features=False)
    decoder = network.decoder
    for head, values in ((decoder.head_levels, (500.0, 850.0)), (decoder.head_surface, (2.0, 1000.0))):
        torch.nn.init.zeros_(head.head.weight)
        head.head.bias.data = torch.tensor(values)
    out, _ = network.decode(torch.randn(1, 1, grid.size, 8), torch.randn(1, grid.size, 2), torch.zeros(1, 3))
    assert out[0, 0, 0].tolist() == [2.0, 500.0, 1000.0, 850.0]


def test_only_rows_and_columns():
    with pytest.raises(ForecastError, match="rows and columns into patches, and O8 is none: regrid"):
        regular(fields_on(grids.octahedral(8)))


def test_seam():
    assert wraps(grids.gaussian(8))
    assert not wraps(grids.latlon(np.linspace(60, 30, 7), np.arange(10) * 2.0))
