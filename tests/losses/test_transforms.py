import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from forecast.core import grids
from forecast.core.errors import ForecastError
from forecast.losses import harmonics, transforms
from tests.losses import contract

GRID = grids.gaussian(8)
LAT, LON = (np.radians(x) for x in (GRID.latitudes, GRID.longitudes))
AREA = torch.tensor(GRID.areas / (4 * np.pi))[:, None]


def fields(*columns):
    return torch.tensor(np.stack(columns, axis=-1))


def noise(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


ALL = {
    "identity": transforms.Transform(),
    "edges": transforms.Edges(GRID),
    "smoothing": transforms.Smoothing(GRID, radius_km=2000.0),
    "difference": transforms.TimeAggregate("difference"),
    "max": transforms.TimeAggregate("max"),
    "fft": harmonics.Fourier(GRID),
    "harmonics": harmonics.SphericalHarmonics(GRID, truncation=5),
    "gradient": harmonics.Gradient(GRID),
    "vorticity_divergence": harmonics.VorticityDivergence(GRID, winds=[(0, 1)]),
}
by_name = pytest.mark.parametrize("name", ALL)


@by_name
def test_works_alike_on_any_leading_dimensions(name):
    transform, x = ALL[name], noise(2, 3, 4, GRID.size, 2)  # (B, M, T, G, V)
    whole = transform(x)
    torch.testing.assert_close(whole[1, 2], transform(x[1, 2]))
    weight = torch.rand(GRID.size, 2, dtype=torch.float64)
    assert torch.broadcast_shapes(transform.weight(weight).shape, whole.shape) == whole.shape
    torch.testing.assert_close(transform.weight(torch.ones(GRID.size, 2)).unique(), torch.ones(1))
    assert transform.weight(torch.ones(2)).unique().item() == 1
    assert transform.mask(torch.ones(GRID.size, 1).bool()).all()
    assert transform(x.float()).dtype in (torch.float32, torch.complex64)


@pytest.mark.parametrize("name", [name for name in ALL if name != "identity"])
def test_gradient(name):
    def some(field):
        return ALL[name](field)[..., ::11, :]

    contract.gradient(some, [noise(2, GRID.size, 2)])


def test_edges_by_hand():
    edges = transforms.Edges(edges=torch.tensor([[0, 1], [1, 2]]), lengths=torch.tensor([1.0, 2.0]))
    x = torch.tensor([[1.0], [4.0], [9.0]])
    torch.testing.assert_close(edges(x), torch.tensor([[3.0], [2.5]]))
    torch.testing.assert_close(edges.weight(torch.tensor([[1.0], [2.0], [5.0]])), torch.tensor([[1.5], [3.5]]))
    assert edges.mask(torch.tensor([[True], [True], [False]])).tolist() == [[True], [False]]


def test_neighbours_are_the_nearest():
    first, second = transforms.nearest_neighbours(GRID, 3)
    distance = cdist(GRID.xyz, GRID.xyz)
    nearest = np.sort(distance + 9 * np.eye(GRID.size))[:, :3]
    joined = distance[first, second]
    for point in range(0, GRID.size, 17):
        at = joined[(first == point) | (second == point)]
        assert np.isin(nearest[point].round(9), at.round(9)).all()
    assert (first < second).all()


def test_smoothing_keeps_constants_and_damps_small_scales_most():
    smoothing = transforms.Smoothing(GRID, radius_km=1500.0)
    torch.testing.assert_close(smoothing(torch.ones(GRID.size, 1).double()), torch.ones(GRID.size, 1).double())
    waves = fields(np.cos(LAT) * np.cos(LON), np.cos(LAT) ** 4 * np.cos(4 * LON))
    wide, narrow = ((smoothing(waves) ** 2 * AREA).sum(0) / (waves**2 * AREA).sum(0)).tolist()
    assert 1 > wide > 0.8 > 0.6 > narrow
    torch.testing.assert_close(transforms.Smoothing(radius_km=0.0)(waves), waves)
    matrix = torch.tensor([[0.5, 0.5], [0.0, 1.0]])
    torch.testing.assert_close(transforms.Smoothing(matrix=matrix)(torch.eye(2)), matrix)


def test_time_aggregates_by_hand():
    x = torch.tensor([1.0, 4.0, 2.0])[:, None, None]
    expected = {"difference": [3.0, -2.0], "mean": [7 / 3], "min": [1.0], "max": [4.0], "sum": [7.0]}
    for kind, values in expected.items():
        torch.testing.assert_close(transforms.TimeAggregate(kind)(x).flatten(), torch.tensor(values))
    weight = torch.tensor([1.0, 2.0, 6.0])[:, None, None]
    assert transforms.TimeAggregate("difference").weight(weight).flatten().tolist() == [1.5, 4.0]
    assert transforms.TimeAggregate("max").weight(weight).flatten().tolist() == [3.0]
    mask = torch.tensor([True, True, False])[:, None, None]
    assert transforms.TimeAggregate("difference").mask(mask).flatten().tolist() == [True, False]
    assert transforms.TimeAggregate("mean").mask(mask).flatten().tolist() == [False]


def test_parseval():
    """Sums of squares: over the grid for Fourier, area means of what is resolved for harmonics."""
    x = noise(GRID.size, 2)
    torch.testing.assert_close(ALL["fft"](x).square().sum(0), x.square().sum(0))
    smooth = fields(np.sin(LAT) ** 3 + np.cos(LAT) * np.sin(LON), np.cos(LAT) ** 5 * np.cos(5 * LON))
    torch.testing.assert_close(ALL["harmonics"](smooth).square().sum(0), (smooth**2 * AREA).sum(0))
    odd = harmonics.Fourier(shape=(3, 5))
    torch.testing.assert_close(odd(x[:15]).square().sum(), x[:15].square().sum())


def test_harmonics_by_hand():
    """sqrt(3) sin(lat) is Y_10; sin^2 has n = 0 and 2 alone."""
    spherical = ALL["harmonics"]
    found = spherical.coefficients(fields(np.sqrt(3) * np.sin(LAT), np.sin(LAT) ** 2)).abs()
    one = (spherical.degree == 1) & (spherical.zonal == 0)
    torch.testing.assert_close(found[one, 0], torch.ones(1).double())
    assert found[~one, 0].max() < 1e-13
    torch.testing.assert_close(found[(spherical.zonal == 0) & (spherical.degree == 0), 1], torch.ones(1).double() / 3)
    assert found[(spherical.zonal > 0) | ~torch.isin(spherical.degree, torch.tensor([0, 2])), 1].max() < 1e-13
    assert spherical.degrees == 6


def test_fourier_degree():
    fourier = harmonics.Fourier(shape=(4, 6))
    assert fourier.degree.reshape(4, 4).tolist() == [[0, 1, 2, 3], [1, 1, 2, 3], [2, 2, 3, 4], [1, 1, 2, 3]]
    assert fourier.multiplicity.reshape(4, 4)[1].tolist() == [1, 2, 2, 1]


def test_derivatives_by_hand():
    x = fields(np.sin(LAT), np.cos(LAT) * np.cos(LON))
    east, north = ALL["gradient"](x).split(GRID.size)
    torch.testing.assert_close(east, fields(0 * LAT, -np.sin(LON)), atol=1e-12, rtol=0)
    torch.testing.assert_close(north, fields(np.cos(LAT), -np.sin(LAT) * np.cos(LON)), atol=1e-12, rtol=0)


def test_vorticity_and_divergence_by_hand():
    """Solid rotation has vorticity 2 sin(lat); the slope of sin(lat) has divergence -2 sin(lat)."""
    twice, none = 2 * np.sin(LAT), 0 * LAT
    transform = harmonics.VorticityDivergence(GRID, variables=("z_500", "u_500", "v_500", "10u", "10v"))
    x = fields(none, np.cos(LAT), none, none, np.cos(LAT))
    expected = fields(twice, none, none, -twice)  # vorticity of both pairs, then divergence
    torch.testing.assert_close(transform(x), expected, atol=1e-12, rtol=0)
    assert transform.weight(torch.tensor([9.0, 1.0, 3.0, 1.0, 1.0])).tolist() == [2, 1, 2, 1]


def test_poles_give_finite_derivatives():
    grid = grids.latlon(np.arange(90, -91, -15.0), np.arange(0, 360, 15.0))
    x = noise(grid.size, 2)
    for transform in (harmonics.Gradient(grid), harmonics.VorticityDivergence(grid, winds=[(0, 1)])):
        assert transform(x).isfinite().all()


def test_columns_that_run_westward():
    x = np.sin(LAT) + np.cos(LAT) * np.cos(LON)
    flip = np.arange(GRID.size).reshape(GRID.shape)[:, ::-1].ravel()
    flipped = grids.Grid("west", GRID.latitudes[flip], GRID.longitudes[flip], GRID.areas[flip], GRID.shape)
    east = ALL["gradient"](fields(x))[: GRID.size]
    torch.testing.assert_close(harmonics.Gradient(flipped)(fields(x[flip]))[: GRID.size], east[flip])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: transforms.Edges(), "needs `grid` or `edges`"),
        (lambda: transforms.Edges(edges=torch.zeros(3, 2).long()), "edges"),
        (lambda: transforms.Edges(edges=torch.zeros(2, 2).long(), lengths=torch.zeros(2)), "lengths"),
        (lambda: transforms.Edges(GRID, neighbours=0), "neighbours=0"),
        (lambda: transforms.Smoothing(GRID), "radius_km"),
        (lambda: transforms.Smoothing(GRID, radius_km=-1.0), "radius_km=-1"),
        (lambda: transforms.TimeAggregate("median"), "kind=median"),
        (lambda: transforms.TimeAggregate(dim=1), "dim=1"),
        (lambda: harmonics.Fourier(grids.octahedral(4)), "rectilinear"),
        (lambda: harmonics.SphericalHarmonics(grids.octahedral(4)), "rectilinear"),
        (lambda: harmonics.SphericalHarmonics(GRID, truncation=8), "truncation=8"),
        (lambda: harmonics.VorticityDivergence(GRID, variables=("z_500", "u_500")), "no pair of winds"),
        (lambda: ALL["fft"](torch.zeros(5, 2)), "field"),
        (lambda: ALL["fft"].mask(torch.zeros(GRID.size, 1)), "Fourier mixes points"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ForecastError, match=words):
        call()
