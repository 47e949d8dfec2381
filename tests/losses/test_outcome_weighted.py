import numpy as np
import pytest
import scoringrules
import torch

from forecast.core.errors import ForecastError
from forecast.losses import registry
from forecast.losses.ensemble import crps, threshold_weighted_crps
from forecast.losses.outcome_weighted import outcome_weighted_crps, vertically_rescaled_crps
from tests.losses import contract

WEIGHTS = {
    "above": {"above": -0.25},
    "below": {"below": 0.5},
    "interval": {"above": -0.75, "below": 1.0},
    "smooth": {"centre": 0.25, "width": 0.5},
}
each_weight = pytest.mark.parametrize("options", WEIGHTS.values(), ids=WEIGHTS)
each_loss = pytest.mark.parametrize("loss", [outcome_weighted_crps, vertically_rescaled_crps])


def sample(members=6, points=9, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, members, points, dtype=torch.float64, generator=generator)
    x[:, 0], x[:, 1] = 0.2, 0.3  # inside every weight, so that no point is without members
    return x.to(dtype), torch.randn(2, points, dtype=torch.float64, generator=generator).to(dtype)


def weigh(z, above=-np.inf, below=np.inf, centre=None, width=None):
    if centre is None:
        return ((z >= above) & (z <= below)) * 1.0
    return torch.distributions.Normal(centre, width).cdf(torch.as_tensor(z)).numpy()


@each_weight
@pytest.mark.parametrize(
    ("loss", "theirs"),
    [
        (outcome_weighted_crps, scoringrules.owcrps_ensemble),
        (vertically_rescaled_crps, scoringrules.vrcrps_ensemble),
    ],
)
def test_equals_scoringrules(loss, theirs, options):
    x, y = sample()
    flat = y.flatten().numpy(), x.movedim(1, -1).flatten(0, 1).numpy()  # it mixes up axes of more dimensions
    expected = theirs(*flat, w_func=lambda z: weigh(z, **options), backend="numpy")
    np.testing.assert_allclose(loss(x, y, reduction="none", **options).numpy().ravel(), expected, atol=1e-12)


def test_by_hand():
    x, y = torch.tensor([[[1.0], [2.0], [-3.0]]]), torch.tensor([[4.0]])
    # of 1 and 2 against 4: (3 + 2) / 2 - 1 / 4
    assert outcome_weighted_crps(x, y, above=0.0).item() == pytest.approx(2.25)
    assert outcome_weighted_crps(x, -y, above=0.0).item() == 0.0
    # (3 + 2) / 3 - 1 / 9 + ((1 + 2) / 3 - 4) (2 / 3 - 1)
    assert vertically_rescaled_crps(x, y, above=0.0).item() == pytest.approx(5 / 3 - 1 / 9 + 1)


def test_a_weight_of_one_is_the_plain_score():
    x, y = sample()
    for loss in (outcome_weighted_crps, vertically_rescaled_crps):
        torch.testing.assert_close(loss(x, y, above=-1e3), crps(x, y))


def test_rescaled_from_its_threshold_is_threshold_weighted():
    x, y = sample()
    ours = vertically_rescaled_crps(x, y, above=0.25, origin=0.25)
    torch.testing.assert_close(ours, threshold_weighted_crps(x, y, above=0.25, alpha=0.0))


@each_loss
def test_where_no_member_has_weight(loss):
    x, y = sample(dtype=torch.float32)
    x.requires_grad_()
    score = loss(x, y, above=1e3)
    score.backward()
    assert score.item() == 0
    assert (x.grad == 0).all()
    score = loss(x, y + 1e4, above=1e3, reduction="none")  # the outcome alone: |y|, or nothing to compare it with
    torch.testing.assert_close(score, y + 1e4 if loss is vertically_rescaled_crps else torch.zeros_like(y))


@each_loss
@each_weight
def test_what_every_loss_keeps(loss, options):
    inputs = sample(4, 3)
    contract.gradient(loss, inputs, **options)
    for dtype in (torch.float64, torch.float32):
        single = [x.to(dtype) for x in inputs]
        contract.reductions(lambda *a, **k: loss(*a, **options, **k), single)
        contract.masked_nan(lambda *a, **k: loss(*a, **options, **k), single)
        contract.empty(lambda *a, **k: loss(*a, **options, **k), single)
    contract.precision(lambda *a, **k: loss(*a, **options, **k), inputs)
    name = loss.__name__
    torch.testing.assert_close(registry.build({"name": name, **options})(*inputs), loss(*inputs, **options))


@each_loss
def test_members_on_any_axis_and_bad_input(loss):
    x, y = sample()
    torch.testing.assert_close(loss(x.movedim(1, -1), y, above=0.0, ensemble_dim=-1), loss(x, y, above=0.0))
    with pytest.raises(ForecastError, match="above, below or both"):
        loss(x, y)
    with pytest.raises(ForecastError, match="members=1"):
        loss(x[:, :1], y, above=0.0)
    with pytest.raises(ForecastError, match="threshold of shape"):
        loss(x, y, above=[0.0, 1.0])
    torch.testing.assert_close(
        outcome_weighted_crps(x[:, :1], y, above=-9.0, allow_deterministic=True), (x[:, 0] - y).abs().mean()
    )
