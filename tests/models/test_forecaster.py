from dataclasses import replace

import numpy as np
import pytest
import torch

from forecast.core.errors import ForecastError
from forecast.core.model_sections import GraphTransformerSection
from forecast.core.sections import LossSection
from forecast.losses import almost_fair_crps, weights
from forecast.models import noise
from forecast.models.forecaster import build
from forecast.models.precision import multiplies_in_half
from tests.models.small import SMALL, batch, fields, trained


def first_step(model, data, members, seed=0):
    """One step from shared initial states with random noise."""
    xi = torch.randn(len(data.states), members, *model.noise_shape, generator=torch.Generator().manual_seed(seed))
    return model.step(data.states[:, None, : data.input_steps], data.forcings[:, data.input_steps - 1], True, xi)


@pytest.mark.parametrize("processor", ["graph", "dense"])
def test_fresh_forecaster_is_persistence(processor):
    model, data = (
        build(GraphTransformerSection(**{**SMALL.model_dump(), "processor": processor}), fields()),
        batch(fields()),
    )
    with torch.no_grad():
        out = first_step(model, data, members=3)
    assert out.shape == (2, 3, 128, 3)
    newest = data.states[:, None, data.input_steps - 1, :, :2].expand(-1, 3, -1, -1)
    torch.testing.assert_close(out[..., :2], newest, rtol=1e-6, atol=0)
    torch.testing.assert_close(out[..., 2], torch.full_like(out[..., 2], 0.0006))  # climate mean of rain


def test_noise_is_off_at_the_start_but_learnable():
    """Conditional norms start at zero: members agree, yet the gradient reaches the linears that will part them."""
    torch.manual_seed(0)
    model, data = build(SMALL, fields()), batch(fields())
    with torch.no_grad():
        model.network.decoder.head.weight.normal_()
    out = first_step(model, data, members=3)
    assert torch.equal(out[:, 0], out[:, 2])
    model.training_loss(data, 3, data.keys)["loss"].backward()
    for layer in model.network.layers:
        assert layer.norm_attention.weight.grad.abs().max() > 0
        assert layer.norm_mlp.weight.grad.abs().max() > 0


@pytest.mark.parametrize("processor", ["graph", "dense"])
def test_members_follow_their_noise(processor):
    model, data = trained(fields(), processor=processor), batch(fields())
    xi = torch.randn(2, 4, *model.noise_shape)
    window, forcings = data.states[:, None, :2], data.forcings[:, 1]
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        out = model.step(window, forcings, True, xi)
        permuted = model.step(window, forcings, True, xi[:, order])
        alone = model.step(window, forcings, True, xi[:, 1:2])
        own_states = model.step(window.expand(-1, 4, -1, -1, -1), forcings, True, xi)
    scale = model.normalise.scale
    assert (out[:, 0] - out[:, 1]).div(scale).abs().max() > 1e-3
    # float32 rounding of matrix kernels that depends on the batch's shape, in standard deviations
    for other in (permuted - out[:, order], alone - out[:, 1:2], own_states - out):
        assert other.div(scale).abs().max() < 1e-5


def test_step_flag_tells_analyses_from_forecasts():
    model, data = trained(fields()), batch(fields())
    xi = torch.zeros(2, 1, *model.noise_shape)
    window, forcings = data.states[:, None, :2], data.forcings[:, 1]
    with torch.no_grad():
        first, later = (model.step(window, forcings, flag, xi) for flag in (True, False))
        mixed = model.training_loss(replace(data, starts_from_analysis=torch.tensor([True, False])), 2, data.keys)
        both = model.training_loss(data, 2, data.keys)
    assert not torch.equal(first, later)
    assert mixed["loss"] != both["loss"]


def test_rain_stays_possible():
    model, data = trained(fields()), batch(fields())
    with torch.no_grad():
        model.network.decoder.head.bias[2] = -5.0
        out = first_step(model, data, 2)
    assert out[..., 2].min() == 0.0


def test_rain_has_no_offset():
    model = build(SMALL, fields())
    assert model.normalise(torch.zeros(3))[2] == 0.0
    assert model.normalise.inverse(torch.zeros(3))[2] == 0.0


def test_training_loss_is_the_score_of_the_rollout():
    """Two steps by hand with `step`, scored and weighted here."""
    model, data = trained(fields()), batch(fields(), steps=2)
    terms = model.training_loss(data, 3, data.keys)
    window = data.states[:, None, :2].expand(-1, 3, -1, -1, -1)
    total = []
    with torch.no_grad():
        for s in range(2):
            xi = model._noise(data.keys, 3, s)
            state = model.step(window, data.forcings[:, 1 + s], s == 0, xi)
            truth = model.normalise(data.targets[:, s])
            total.append(almost_fair_crps(model.normalise(state), truth, reduction="none"))
            window = torch.cat([window[:, :, 1:], state[:, :, None]], dim=2)
    score = torch.stack(total).mean(dim=(0, 1)).double().numpy()
    f = fields()
    units = np.array([150.0 / 3000.0, 1.0 / 15.0, 1.0])
    w = weights.from_section(LossSection(), f.variables, f.areas, units)
    # windows pass through physical units here, z_500 of 54,000 in float32: 1e-6 of a standard deviation
    assert terms["loss"].item() == pytest.approx((w * score).sum(), rel=1e-4)
    for v, name in enumerate(f.variables):
        assert terms[f"almost_fair_crps/{name}"].item() == pytest.approx(weights.area(f.areas) @ score[:, v], rel=1e-4)
        assert not terms[f"almost_fair_crps/{name}"].requires_grad


def test_noise_is_keyed():
    model, data = trained(fields()), batch(fields(), samples=3)
    xi = model._noise(data.keys, 2, 0)
    assert xi.shape == (3, 2, *model.noise_shape)
    assert torch.equal(model._noise(data.keys[1:2], 3, 0)[0, :2], xi[1])
    blocks = torch.stack([model._noise(data.keys, 2, step) for step in range(2)]).flatten(0, 2)
    assert len(blocks.sum(dim=(1, 2)).unique()) == 12
    assert torch.equal(noise.draw([7, 8], (4, 3))[1], noise.draw([8], (4, 3))[0])


def test_recomputed_activations_give_the_same_gradient():
    data = batch(fields(), steps=2)
    gradients = []
    for recompute in (False, True):
        model = trained(fields(), activation_checkpointing=recompute)
        model.training_loss(data, 2, data.keys)["loss"].backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    torch.testing.assert_close(*gradients, atol=1e-8, rtol=1e-5)  # sums over steps in another order


def test_it_learns():
    """A field that drifts by one stdev a step: the loss halves within a few updates."""
    torch.manual_seed(0)
    model, data = build(SMALL, fields()), batch(fields(), samples=4)
    drift = data.states[:, :1] + torch.arange(3)[None, :, None, None] * torch.tensor([150.0, 1.0, 0.0])
    data = replace(data, states=drift)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    losses = []
    for _ in range(25):
        loss = model.training_loss(data, 2, data.keys)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_missing_values_are_named():
    model, data = build(SMALL, fields()), batch(fields())
    data.states[1, 2, 5, 1] = float("nan")
    with pytest.raises(ForecastError, match="`2t` at 2001-01-01T12"):
        model.training_loss(data, 2, data.keys)


def test_a_batch_of_another_grid_is_refused():
    model, data = build(SMALL, fields()), batch(fields())
    short = replace(data, states=data.states[:, :, :100], forcings=data.forcings[:, :, :100])
    with pytest.raises(ForecastError, match="128 points"):
        model.training_loss(short, 2, data.keys)


@pytest.mark.parametrize(
    ("statistic", "value", "words"),
    [("tendency_stdev", 0.0, "does not change"), ("stdev", 0.0, "cannot be normalised"), ("mean", np.nan, "finite")],
)
def test_unusable_statistics_are_named(statistic, value, words):
    f = fields()
    broken = {**f.statistics, "z_500": {**f.statistics["z_500"], statistic: value}}
    with pytest.raises(ForecastError, match=f"`z_500`.*{words}"):
        build(SMALL, replace(f, statistics=broken))


def test_a_lone_member_is_scored_by_its_absolute_error():
    model, data = trained(fields()), batch(fields())
    with torch.no_grad():
        xi = model._noise(data.keys, 1, 0)
        state = model.step(data.states[:, None, :2], data.forcings[:, 1], True, xi)[:, 0]
    error = ((state - data.states[:, 2]).abs() / model.normalise.scale).mean(0)
    loss = model.training_loss(data, 1, data.keys)["loss"]
    torch.testing.assert_close(loss.detach(), (error * model.weights).sum(), rtol=1e-4, atol=0)  # float32, z of 5e4


def test_bfloat16_changes_little():
    data = batch(fields())
    full, half, auto = (trained(fields()) for _ in range(3))
    half.precision, auto.precision = "bfloat16", "auto"
    with torch.no_grad():
        a, b = (first_step(model, data, 3) for model in (full, half))
    error = ((a - b) / full.normalise.scale).abs().max()
    size = ((a - data.states[:, None, 1]) / full.normalise.scale).abs().max()
    assert a.dtype == b.dtype == torch.float32
    assert 0 < error < 0.03 * size  # 8 bits of mantissa through two layers
    loss = auto.training_loss(data, 3, data.keys)["loss"]
    like = half if multiplies_in_half("auto", torch.device("cpu")) else full
    assert loss.dtype == torch.float32
    assert loss == like.training_loss(data, 3, data.keys)["loss"]


@pytest.mark.slow
def test_compiled_network_is_the_same():
    model, data = trained(fields()), batch(fields())
    plain = model.training_loss(data, 2, data.keys)["loss"]
    model.network.compile()
    torch.testing.assert_close(model.training_loss(data, 2, data.keys)["loss"], plain)
