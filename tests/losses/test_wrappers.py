import numpy as np
import pytest
import torch
from torch import nn

from forecast.core import grids
from forecast.core.errors import ForecastError
from forecast.losses import transforms, wrappers
from forecast.losses.multivariate import energy_score
from forecast.losses.registry import build
from tests.losses import contract

GRID = grids.gaussian(4)


class Pointwise(nn.Module):
    """Almost fair CRPS of each value."""

    def __init__(self, reduction="mean"):
        super().__init__()
        self.reduction = reduction

    def forward(self, members, truth, *, weight=None, mask=None):
        given = {
            name: None if value is None else torch.atleast_1d(value).unsqueeze(-1)
            for name, value in (("weight", weight), ("mask", mask))
        }
        return energy_score(members[..., None], truth[..., None], over=(-1,), reduction=self.reduction, **given)


BASE = Pointwise()


def sample(*shape, seed=0):
    """(B, M, ..., G, V) and truth."""
    generator = torch.Generator().manual_seed(seed)
    members = torch.randn(2, 3, *shape, GRID.size, 2, dtype=torch.float64, generator=generator)
    return members, torch.randn(2, *shape, GRID.size, 2, dtype=torch.float64, generator=generator)


def wrapped():
    smoothers = [transforms.Smoothing(GRID, radius_km=3000.0), transforms.Transform()]
    return {
        "identity": (wrappers.TransformedEnsembleLoss(BASE, transforms.Transform()), sample()),
        "edges": (wrappers.TransformedEnsembleLoss(BASE, transforms.Edges(GRID)), sample()),
        "multiscale": (wrappers.MultiscaleLoss(BASE, smoothers, [0.7, 0.3]), sample()),
        "time": (wrappers.TimeAggregateLoss(BASE), sample(3)),
        "masked": (wrappers.MaskedLoss(BASE), sample()),
        "combined": (lambda *x, **k: wrappers.CombinedLoss({"a": BASE, "b": BASE}, {"b": 0.5})(*x, **k)[0], sample()),
    }


@pytest.mark.parametrize("name", wrapped())
def test_contract(name):
    loss, (x, y) = wrapped()[name]
    contract.gradient(loss, [x[:1, :2, ..., :1], y[:1, ..., :1]], fast_mode=True)
    contract.precision(loss, (x, y))
    nothing = loss(x[:0].requires_grad_(), y[:0])
    nothing.backward()
    assert nothing.item() == 0
    truth_as_members = y[:, None].expand_as(x)
    assert loss(truth_as_members, y).item() == pytest.approx(0.0, abs=1e-12)
    by_variable = torch.tensor([1.0, 3.0], dtype=torch.float64)
    apart = [loss(x[..., v : v + 1], y[..., v : v + 1]) for v in (0, 1)]
    torch.testing.assert_close(loss(x, y, weight=by_variable), (apart[0] + 3 * apart[1]) / 4)


def test_identity_is_the_base():
    x, y = sample()
    weight, mask = torch.rand(GRID.size, 1), torch.rand(GRID.size, 1) > 0.5
    loss = wrappers.TransformedEnsembleLoss(BASE, transforms.Transform())
    torch.testing.assert_close(loss(x, y, weight=weight, mask=mask), BASE(x, y, weight=weight, mask=mask))


@pytest.mark.parametrize("transform", [transforms.Edges(GRID), transforms.TimeAggregate("difference")])
def test_differences_are_blind_to_a_constant(transform):
    x, y = sample(3)
    loss = wrappers.TransformedEnsembleLoss(BASE, transform)
    torch.testing.assert_close(loss(x + 5.0, y + 5.0), loss(x, y))
    torch.testing.assert_close(loss(x + 5.0, y), loss(x, y))
    assert BASE(x + 5.0, y) > BASE(x, y) + 1


def test_edges_leave_out_pairs_with_a_masked_end():
    edges = torch.tensor([[0, 1, 2], [1, 2, 3]])
    x, y = sample()
    mask = torch.ones(GRID.size, 1, dtype=torch.bool)
    mask[3] = False
    whole = wrappers.TransformedEnsembleLoss(BASE, transforms.Edges(edges=edges))
    part = wrappers.TransformedEnsembleLoss(BASE, transforms.Edges(edges=edges[:, :2]))
    torch.testing.assert_close(whole(x, y, mask=mask), part(x, y))


def test_gradient_score_by_config():
    x, y = sample()
    spec = {"name": "transformed", "base": {"name": "energy_score", "alpha": 1.0}, "transform": {"name": "gradient"}}
    loss = build(spec, grid=GRID, variables=("u_500", "v_500"))
    gradient = loss.transform
    torch.testing.assert_close(loss(x, y), energy_score(gradient(x), gradient(y), alpha=1.0))
    torch.testing.assert_close(loss(x + 3.0, y), loss(x, y))
    spec["transform"] = {"name": "vorticity_divergence", "truncation": 2}
    assert build(spec, grid=GRID, variables=("u_500", "v_500"))(x, y).isfinite()


def test_multiscale_with_one_level_is_the_base():
    x, y = sample()
    torch.testing.assert_close(wrappers.MultiscaleLoss(BASE, [transforms.Transform()])(x, y), BASE(x, y))


def test_multiscale_levels_that_do_not_differ_are_zero():
    x, y = sample()
    smoothing = transforms.Smoothing(GRID, radius_km=2000.0)
    same = wrappers.MultiscaleLoss(BASE, [smoothing, smoothing, smoothing], [1.0, 5.0, 7.0])
    torch.testing.assert_close(same(x, y), BASE(smoothing(x), smoothing(y)))


def test_multiscale_by_hand():
    mean = transforms.Smoothing(matrix=torch.full((2, 2), 0.5))
    members, truth = torch.tensor([[[[1.0], [3.0]], [[5.0], [5.0]]]]), torch.tensor([[[0.0], [0.0]]])
    # means 2 and 5 against 0: 3.5 - 3 (1 + a) / 4; rest (-1, 1), (0, 0): 0.5 - 1 (1 + a) / 4 at both points; a = 0.95
    loss = wrappers.MultiscaleLoss(BASE, [mean, transforms.Transform()], [0.8, 0.2])
    expected = 0.8 * (3.5 - 3 * 1.95 / 4) + 0.2 * (0.5 - 1.95 / 4)
    assert loss(members, truth).item() == pytest.approx(expected, rel=1e-6)


def test_multiscale_by_config():
    spec = {
        "name": "multiscale",
        "base": {"name": "energy_score"},
        "radii_km": [3000, 1000],
        "factors": [0.5, 0.3, 0.2],
    }
    loss = build(spec, grid=GRID)
    assert len(loss.smoothers) == 3
    assert loss.smoothers[2].matrix is None
    assert loss(*sample()).isfinite()
    with pytest.raises(ForecastError, match="radii_km"):
        build(spec | {"radii_km": [1000, 3000]}, grid=GRID)
    with pytest.raises(ForecastError, match="factors"):
        build(spec | {"factors": [1.0]}, grid=GRID)
    with pytest.raises(ForecastError, match="Smoothing mixes points"):
        loss(*sample(), mask=torch.zeros(GRID.size, 1))


def test_one_lead_time_is_the_base():
    x, y = sample(1)
    for kind in ("mean", "min", "max"):
        torch.testing.assert_close(wrappers.TimeAggregateLoss(BASE, [kind])(x, y), BASE(x, y))


def test_time_aggregates_add_up():
    x, y = sample(4)
    loss = build(
        {"name": "time_aggregate", "base": {"name": "energy_score"}, "kinds": ["max", "mean"], "factors": [2, 1]}
    )
    expected = 2 * energy_score(x.amax(2), y.amax(1)) + energy_score(x.mean(2), y.mean(1))
    torch.testing.assert_close(loss(x, y), expected)


@pytest.mark.parametrize("static", [None, torch.arange(GRID.size)[:, None] < 20])
def test_gaps_leave_no_trace(static):
    x, y = sample()
    gaps = torch.rand(y.shape, generator=torch.Generator().manual_seed(3)) < 0.3
    kept = ~gaps if static is None else ~gaps & static
    broken = [x.masked_fill(~kept.unsqueeze(1), torch.nan).requires_grad_(), y.masked_fill(gaps, torch.nan)]
    value = wrappers.MaskedLoss(BASE, static)(*broken)
    value.backward()
    torch.testing.assert_close(value, BASE(x, y, mask=kept))
    assert broken[0].grad.isfinite().all()
    field = wrappers.MaskedLoss(build({"name": "mse"}), static)  # a forecast without members
    torch.testing.assert_close(field(x[:, 0], broken[1]), (x[:, 0] - y)[kept].square().mean())
    assert wrappers.MaskedLoss(BASE, nan=False)(*broken).isnan()


def test_combined_by_config():
    x, y = sample()
    spec = {
        "name": "combined",
        "terms": {
            "maps": {"name": "energy_score", "over": "both"},
            "waves": {"name": "spectral_crps", "transform": {"name": "fft"}},
        },
        "factors": {"waves": 0.25},
    }
    total, parts = build(spec, grid=GRID)(x.requires_grad_(), y)
    assert list(parts) == ["maps", "waves"]
    torch.testing.assert_close(total, parts["maps"] + 0.25 * parts["waves"])
    torch.testing.assert_close(parts["maps"], energy_score(x.detach(), y, over="both"))
    assert total.requires_grad
    assert not parts["maps"].requires_grad
    with pytest.raises(ForecastError, match="`energy_score`"):
        build({"name": "combined", "terms": {"maps": {"name": "energy_scor"}}})
    with pytest.raises(ForecastError, match=r"factors=\['points'\]"):
        build(spec | {"factors": {"points": 1.0}}, grid=GRID)
    with pytest.raises(ForecastError, match="terms"):
        build({"name": "combined", "terms": {}})


def test_parts_move_with_the_loss():
    loss = build({"name": "multiscale", "base": {"name": "energy_score"}, "radii_km": [3000]}, grid=GRID).to("meta")
    assert loss.smoothers[0].matrix.device.type == "meta"


def test_smoothed_scores_tell_scales_apart():
    """Noise at the grid scale costs at the fine level and not at the coarse one."""
    x, y = (torch.zeros_like(part) for part in sample())
    sign = torch.tensor(np.indices(GRID.shape).sum(0) % 2 * 2.0 - 1).reshape(-1, 1)
    noisy = x + sign * torch.tensor([1.0, -1.0, 0.0]).reshape(1, 3, 1, 1)
    levels = [
        wrappers.MultiscaleLoss(BASE, [transforms.Smoothing(GRID, radius_km=3000.0), transforms.Transform()], factors)
        for factors in ([1.0, 0.0], [0.0, 1.0])
    ]
    coarse, fine = (abs(level(noisy, y).item()) for level in levels)
    assert coarse < 0.1 * fine
