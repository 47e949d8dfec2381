import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.core import grids
from forecast.core.errors import ForecastError
from forecast.losses.experimental.gradients import GraphGradientLoss, gradient_field, graph_gradient
from forecast.losses.registry import build
from forecast.losses.transforms import Edges
from tests.losses import laws
from tests.losses.laws import Case, normal

pytestmark = pytest.mark.filterwarnings("ignore:.*from memory")

LATITUDES = torch.tensor([60.0, 20.0, -20.0])
MAP = {"latitudes": LATITUDES, "longitude_step": 90.0}
SQUARE = Edges(edges=torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]]))


def maps(n):
    return normal(n, 3, 4), normal(n, 3, 4, seed=1)


def points(n):
    return normal(n, 4, 2), normal(n, 4, 2, seed=1)


CASES = [
    Case("gradient_field", gradient_field, maps, MAP),
    Case("graph_gradient", graph_gradient, points, {"edges": SQUARE}),
]


@laws.over(CASES, without=("masked_is_not_looked_at", "reduces", "module_is_the_function"))
def test_laws(law, case):
    law(case)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_reductions_and_masked_points(case):
    x, y = case.inputs(3)
    value, w = case(x, y, reduction="none"), torch.rand(3, 1, 1, dtype=torch.float64)
    torch.testing.assert_close(case(x, y), value.mean())
    torch.testing.assert_close(case(x, y, weight=w), (value * w).sum() / w.expand_as(value).sum())
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[1, 1] = False
    spoilt = x.masked_fill(~mask, math.nan).requires_grad_()
    kept = case(spoilt, y, mask=mask, reduction="none")
    kept.sum().backward()
    assert kept.isfinite().all() and spoilt.grad.isfinite().all()
    torch.testing.assert_close(kept[0], value[0])
    assert (kept[1, 1] == 0).all() and (kept[1, 0] == 0).all()  # its neighbour's differences reach it


def test_by_hand_on_the_equator():
    """Two rows at 10 and -10 degrees, three columns 30 degrees apart that do not wrap; x rises by 1 eastward."""
    x = torch.tensor([[0.0, 1.0, 2.0], [0.0, 1.0, 2.0]])[None]
    latitudes = torch.tensor([10.0, -10.0])
    value = gradient_field(x, 0 * x, latitudes=latitudes, longitude_step=30.0, periodic=False, reduction="none")
    slope = 1 / (math.radians(30) * math.cos(math.radians(10)))
    torch.testing.assert_close(value, torch.tensor([[slope, slope, 0.0]] * 2)[None])
    turned = x.flip(-1)
    value = gradient_field(turned, x, latitudes=latitudes, longitude_step=30.0, periodic=False, reduction="none")
    torch.testing.assert_close(value[..., :2], torch.full((1, 2, 2), 2.0))  # as steep, the other way


def test_southward_and_polar():
    x = torch.tensor([[1.0, 9.0], [2.0, 2.0], [4.0, 4.0]])[None]
    latitudes = torch.tensor([90.0, 45.0, 0.0])
    value = gradient_field(x, 0 * x, latitudes=latitudes, longitude_step=180.0, reduction="none")
    quarter = math.radians(45)
    torch.testing.assert_close(value[0, 0], torch.tensor([1 / quarter, 7 / quarter]))  # none eastward at the pole
    torch.testing.assert_close(value[0, 1], torch.tensor([2 / quarter, 2 / quarter]))
    assert (value[0, 2] == 0).all()


def test_graph_by_hand():
    """A line of three points: differences 1, 1 against 2, 0."""
    line = Edges(edges=torch.tensor([[0, 1], [1, 2]]))
    x, y = torch.tensor([[[0.0], [1.0], [2.0]]]), torch.tensor([[[0.0], [2.0], [2.0]]])
    value = graph_gradient(x, y, edges=line, direction=0.5, reduction="none")[0, :, 0]
    middle = abs(1 - math.sqrt(2)) + 0.5 * (1 - 2 / (math.sqrt(2) * 2))
    torch.testing.assert_close(value, torch.tensor([1.0, middle, 1.0]))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 50), shift=st.floats(-5, 5), scale=st.floats(0.1, 5))
def test_constants_and_factors(seed, shift, scale):
    for case in CASES:
        x, y = (z + 0.0 for z in case.inputs(2))
        x = x + normal(*x.shape, seed=seed)
        torch.testing.assert_close(case(x + shift, y - shift), case(x, y))
        assert case(x, x + shift).item() == pytest.approx(0, abs=1e-9)
        assert case(x, y) > 0
        plain = Case(case.name, case.function, case.inputs, {**case.settings, "direction": 0.0})
        angle = case(x, y) - plain(x, y)
        torch.testing.assert_close(case(scale * x, y) - plain(scale * x, y), angle)


def test_flat_fields_have_no_angle_and_a_finite_gradient():
    flat = torch.zeros(1, 3, 4, requires_grad=True)
    value = gradient_field(flat, normal(1, 3, 4).float(), **MAP)
    value.backward()
    assert flat.grad.isfinite().all() and value > 0
    assert gradient_field(torch.zeros(1, 3, 4), torch.ones(1, 3, 4), **MAP).item() == 0


def test_module_joins_the_points_of_a_grid():
    grid = grids.gaussian(4)
    loss = build({"name": "graph_gradient"}, grid=grid)
    x, y = normal(2, grid.size, 3), normal(2, grid.size, 3, seed=1)
    assert loss(x, y) > 0 and loss(x, x + 1).item() == pytest.approx(0, abs=1e-9)
    rise = torch.from_numpy(grid.xyz[:, 2].copy())[None, :, None]
    slopes = GraphGradientLoss(grid, reduction="none")(rise, 0 * rise)
    assert slopes.max() <= 1.0 + 1e-9  # sin(latitude) rises by at most 1 a radian
    given_ = build({"name": "graph_gradient", "edges": SQUARE.edges})
    torch.testing.assert_close(given_(*points(2)), graph_gradient(*points(2), edges=SQUARE))
    torch.testing.assert_close(build({"name": "gradient_field", **MAP})(*maps(2)), gradient_field(*maps(2), **MAP))


def test_module_takes_the_fields_of_a_grid():
    grid = grids.gaussian(4)
    x, y = normal(2, grid.size, 3), normal(2, grid.size, 3, seed=1)
    maps_x, maps_y = (z.movedim(-1, 1).unflatten(-1, (4, 8)) for z in (x, y))
    known = {"latitudes": torch.from_numpy(grid.rows.copy()), "longitude_step": 45.0}
    area = torch.from_numpy(grid.areas)
    loss = build({"name": "gradient_field"}, grid=grid)
    torch.testing.assert_close(loss(x, y), gradient_field(maps_x, maps_y, **known))
    weighted = gradient_field(maps_x, maps_y, **known, weight=area.view(4, 8))
    torch.testing.assert_close(loss(x, y, weight=area[:, None]), weighted)
    each = build({"name": "gradient_field", "reduction": "none"}, grid=grid)(x, y)
    torch.testing.assert_close(each, gradient_field(maps_x, maps_y, **known, reduction="none").flatten(2).mT)
    part = grids.latlon(torch.linspace(40, 50, 3).numpy(), torch.linspace(0, 20, 4).numpy())
    assert not build({"name": "gradient_field"}, grid=part).options["periodic"]


def test_bad_input():
    x, y = maps(2)
    for words, call in {
        "latitudes": lambda: gradient_field(x, y, latitudes=LATITUDES[:2], longitude_step=90.0),
        "within -90..90": lambda: gradient_field(x, y, latitudes=2 * LATITUDES, longitude_step=90.0),
        "floor=0": lambda: gradient_field(x, y, **MAP, floor=0),
        "truth of shape": lambda: graph_gradient(x, y[:1], edges=SQUARE),
        "needs `grid` or `edges`": lambda: build({"name": "graph_gradient"}),
        "needs `grid`, or `latitudes`": lambda: build({"name": "gradient_field"}),
        "must have rows": lambda: build({"name": "gradient_field"}, grid=grids.octahedral(4)),
    }.items():
        with pytest.raises(ForecastError, match=words):
            call()
