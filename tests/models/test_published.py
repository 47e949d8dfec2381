"""Options of the forecaster as published: blocks, noise, truncation, bounds, gaps, scores, checkpointing."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from forecast.core import grids
from forecast.core.errors import ForecastError
from forecast.core.model_sections import GraphTransformerSection, Residual
from forecast.core.sections import LossSection
from forecast.models import edge_kernels, kernels, sliding_kernels
from forecast.models.forecaster import build
from forecast.models.residual import Truncation
from tests.models.small import SMALL, batch, fields, trained

FULL = {"blocks": "full", "processor": "window", "window": 9, "qk_norm": True, "trainable_edges": 2}


def make(**changes):
    return build(GraphTransformerSection(**{**SMALL.model_dump(), **changes}), fields())


@pytest.mark.parametrize("options", [FULL, {**FULL, "processor": "graph"}, {"processor": "window", "window": 6}])
def test_every_kind_of_block_starts_as_persistence_and_learns_with_all_its_parameters(options):
    torch.manual_seed(0)
    fresh, data = make(**options), batch(fields())
    xi = torch.randn(2, 3, *fresh.noise_shape)
    with torch.no_grad():
        out = fresh.step(data.states[:, None, :2], data.forcings[:, 1], True, xi)
    torch.testing.assert_close(out[:, 1, :, :2], data.states[:, 1, :, :2], rtol=1e-6, atol=0)
    model = trained(fields(), **options)
    model.training_loss(data, 3, data.keys)["loss"].backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_noise_is_off_at_the_start_but_learnable():
    """Zero-initialised conditional norms: members agree, yet their linears have a gradient."""
    torch.manual_seed(0)
    model, data = make(**FULL), batch(fields())
    torch.nn.init.normal_(model.network.decoder.head.weight)
    with torch.no_grad():
        out = model.step(data.states[:, None, :2], data.forcings[:, 1], True, torch.randn(2, 3, *model.noise_shape))
    assert torch.equal(out[:, 0], out[:, 2])
    model.training_loss(data, 3, data.keys)["loss"].backward()
    for layer in model.network.layers:
        for norm in (layer.norm_attention, layer.norm_mlp):
            assert norm.weight.grad.abs().max() > 0


@pytest.mark.parametrize("options", [FULL, {**FULL, "processor": "graph"}])
def test_checkpointing_changes_no_gradient(options):
    data, gradients = batch(fields(), steps=2), []
    for recompute in ("none", "layer", "step", "both"):
        model = trained(fields(), activation_checkpointing=recompute, **options)
        model.training_loss(data, 2, data.keys)["loss"].backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0], atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("recompute", ["layer", "step", "both"])
def test_checkpointing_goes_with_bfloat16(recompute):
    data, gradients = batch(fields(), steps=2), []
    for kind in ("none", recompute):
        model = trained(fields(), activation_checkpointing=kind, **FULL)
        model.precision = "bfloat16"
        model.training_loss(data, 2, data.keys)["loss"].backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    torch.testing.assert_close(gradients[1], gradients[0], atol=2e-3, rtol=2e-2)


@pytest.mark.parametrize("options", [FULL, {**FULL, "processor": "graph"}])
def test_in_bfloat16_the_network_multiplies_and_the_loss_does_not(options):
    """Blocks give bfloat16; scores, their inputs, norms' weights and all gradients are float32."""
    data, seen = batch(fields(), steps=2), {}
    plain, half = (trained(fields(), activation_checkpointing="layer", **options) for _ in range(2))
    half.precision = "bfloat16"
    for name, part in (("block", half.network.layers[0].mlp), ("decoder", half.network.decoder), ("score", half.score)):

        def note(part, given, out, name=name):
            seen.setdefault(name, [x.dtype for x in (*given, out[0])])

        part.register_forward_hook(note)
    losses = [model.training_loss(data, 2, data.keys)["loss"] for model in (plain, half)]
    assert seen["block"][-1] == seen["decoder"][-1] == torch.bfloat16
    assert set(seen["score"]) == {torch.float32} and losses[1].dtype == torch.float32
    assert losses[1] != losses[0] and abs(losses[1] / losses[0] - 1) < 0.02
    losses[1].backward()
    assert {p.grad.dtype for p in half.parameters()} == {torch.float32}


@pytest.mark.slow
@pytest.mark.parametrize("recompute", ["none", "layer"])
def test_a_compiled_network_of_published_blocks_is_the_same(recompute):
    data, found = batch(fields(), steps=2), []
    for compiled in (False, True):
        model = trained(fields(), activation_checkpointing=recompute, **FULL)
        if compiled:
            model.network.compile()
        loss = model.training_loss(data, 2, data.keys)["loss"]
        loss.backward()
        found.append((loss.detach(), [p.grad for p in model.parameters()]))
    torch.testing.assert_close(found[1], found[0], atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize("processor", ["window", "graph"])
def test_recomputing_a_layer_does_not_attend_again(processor, monkeypatch):
    """Loops over windows and edges run once for each part, forward; the rest runs twice, to the same gradients."""
    calls, gradients = Counter(), []
    for module, name in ((sliding_kernels, "attend"), (edge_kernels, "attend"), (kernels, "conditional_norm")):
        loop = getattr(module, name)

        def counted(*given, loop=loop, what=module.__name__):
            calls[what] += 1
            return loop(*given)

        monkeypatch.setattr(module, name, counted)
    seen, data = [], batch(fields())
    for recompute in ("none", "layer"):
        calls.clear()
        model = trained(fields(), activation_checkpointing=recompute, **{**FULL, "processor": processor})
        model.training_loss(data, 2, data.keys)["loss"].backward()
        seen.append(dict(calls))
        gradients.append([p.grad for p in model.parameters()])
    once, again = seen
    norms, edges, windows = (f"forecast.models.{name}" for name in ("kernels", "edge_kernels", "sliding_kernels"))
    layers = len(model.network.layers)
    assert again[norms] == 2 * once[norms] == 4 * layers
    assert again.get(windows, 0) == once.get(windows, 0) == (layers if processor == "window" else 0)
    assert again[edges] == once[edges] + 1  # the decoder goes member by member: two, not one
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-7, rtol=1e-5)


def test_states_units_and_step_flags_are_configured():
    """In units of the state, a constant head moves every variable by that share of its standard deviation."""
    model, data = make(**FULL, units="state", step_flag=(0.0, 1.0)), batch(fields())
    with torch.no_grad():
        model.network.decoder.head.bias.fill_(0.5)
        window = data.states[:, None, :2]
        out = model.step(window, data.forcings[:, 1], True, torch.zeros(2, 1, *model.noise_shape))
    moved = (out[:, 0] - window[:, 0, 1])[..., :2] / torch.tensor([3_000.0, 15.0])
    torch.testing.assert_close(moved, torch.full_like(moved, 0.5), atol=1e-4, rtol=0)
    past = [model.normalise(data.states)[:, None, t, :, :2] for t in range(2)]
    read = [model._read(past, past[1], data.forcings[:, 1], torch.tensor([flag, False])) for flag in (True, False)]
    assert (read[0][0, ..., -1] == 0).all() and (read[1][0, ..., -1] == 1).all()


@pytest.mark.parametrize("method", ["linear", "conservative", "gaussian"])
def test_truncation_keeps_constants_and_kills_short_waves(method):
    """O24 to O4: a wave of 24 around the globe is below what O4 holds, a slow one passes; linear ones sample."""
    grid = grids.named("O24")
    neighbours = 8 if method == "gaussian" else 1
    truncation = Truncation(Residual(grid="O4", method=method, neighbours=neighbours), grid)
    lat, lon = np.radians(grid.latitudes), np.radians(grid.longitudes)
    fields_ = np.stack([np.full(grid.size, 3.0), np.sin(lat), np.cos(lat) ** 24 * np.cos(24 * lon)], axis=-1)
    x = torch.tensor(fields_, dtype=torch.float32)[None].requires_grad_()
    out = truncation(x)
    torch.testing.assert_close(out[..., 0], x[..., 0], atol=1e-5, rtol=0)
    kept = out.detach().std(dim=1) / x.detach().std(dim=1)
    assert kept[0, 1] > 0.85 and (kept[0, 2] < 0.35 or method == "linear")
    (gradient,) = torch.autograd.grad(out.sum(), x)
    torch.testing.assert_close(gradient.sum(), torch.tensor(3.0 * grid.size), rtol=1e-4, atol=0)


def variance_after(steps, **options):
    """Standard deviation of small scales (what O4 cannot hold) after a random network's steps, and at the start."""
    model, data = trained(fields(), **options), batch(fields(), samples=1)
    filtered = Truncation(Residual(grid="O4"), grids.from_points(fields().latitudes, fields().longitudes))
    window = data.states[:, None, :2]
    with torch.no_grad():
        model.network.decoder.head.weight.normal_(std=1.0)
        for step in range(steps):
            xi = torch.randn(1, 1, *model.noise_shape, generator=torch.Generator().manual_seed(step))
            state = model.step(window, data.forcings[:, 1], step == 0, xi)
            window = torch.cat([window[:, :, 1:], state[:, :, None]], dim=2)
    normal = model.normalise(window[:, 0, -1])[..., :2]
    return (normal - filtered(normal)).std().item()


def test_small_scales_do_not_build_up_behind_a_truncation():
    """60 steps of a random network: without it their variance keeps growing, with it it does not drift."""
    residual = {"grid": "O4", "shown": True}
    early, late = (variance_after(n, **FULL, residual=residual) for n in (10, 60))
    assert 0.5 < late / early < 2.0
    free_early, free_late = (variance_after(n, **FULL) for n in (10, 60))
    assert free_late / free_early > 2 and free_late > 2 * late


def test_bounds_hold_in_physical_units():
    bounds = [
        {"variables": ["2t"], "minimum": 250, "maximum": 290},
        {"variables": ["z_500"], "minimum": 54_000, "leak": 0.1},
        {"variables": ["tp"], "minimum": 0},
    ]
    model, data = trained(fields(), **FULL, bounds=bounds), batch(fields())
    free = trained(fields(), **FULL, bounds=[{**bound, "leak": 0.999} for bound in bounds])
    with torch.no_grad():
        for each in (model, free):
            each.network.decoder.head.weight.normal_(std=30, generator=torch.Generator().manual_seed(1))
        given = (data.states[:, None, :2], data.forcings[:, 1], True, torch.zeros(2, 1, *model.noise_shape))
        out, unbound = model.step(*given), free.step(*given)
    assert unbound[..., 1].min() < 250 and unbound[..., 1].max() > 290 and unbound[..., 2].min() < 0
    assert out[..., 1].min() == pytest.approx(250) and out[..., 1].max() == pytest.approx(290)
    assert out[..., 2].min() == 0
    below = unbound[..., 0] < 53_000  # the slope below is a tenth
    ratio = (54_000 - out[..., 0][below]) / (54_000 - unbound[..., 0][below])
    torch.testing.assert_close(ratio, torch.full_like(ratio, 0.1), rtol=0.05, atol=0)


def test_a_fraction_is_never_more_than_its_total():
    f = fields()
    rain = {"cp": {"mean": 0.0003, "stdev": 0.0008, "minimum": 0.0, "maximum": 0.01, "tendency_stdev": 1e-4}}
    f = replace(f, diagnostic=("tp", "cp"), statistics={**f.statistics, **rain}, normalisation={"tp": "std"})
    bounds = ({"variables": ["tp"], "minimum": 0}, {"variables": ["cp"], "minimum": 0, "maximum": 1, "of": "tp"})
    model = trained(f, **FULL, bounds=bounds)
    data = batch(f)
    with torch.no_grad():
        model.network.decoder.head.weight.normal_(std=10)
        xi = torch.zeros(2, 1, *model.noise_shape)
        tp, cp = model.step(data.states[:, None, :2], data.forcings[:, 1], True, xi)[..., 2:].unbind(-1)
    assert tp.max() > 0 and (cp >= -1e-9).all() and (cp <= tp * (1 + 1e-5) + 1e-9).all()
    assert ((cp > 0) & (cp < tp)).any()
    with pytest.raises(ForecastError, match="fraction of itself"):
        trained(f, bounds=[{"variables": ["tp"], "minimum": 0, "of": "tp"}])
    with pytest.raises(ForecastError, match=r"names `sst`"):
        trained(f, bounds=[{"variables": ["sst"], "minimum": 0}])


def test_gaps_are_imputed_not_scored_and_stay_gaps():
    """What is predicted where a masked variable has no value does not count; elsewhere it does."""
    f = replace(fields(), masked=("2t",))
    model, data = trained(f, **FULL), batch(f, steps=2)
    land = torch.zeros(f.grid_size, dtype=torch.bool)
    land[::3] = True
    gaps = data.states.clone()
    gaps[:, :, land, 1] = torch.nan
    losses = []
    for filled in (0.0, 5.0):  # the head's answer at gaps is drowned by the mask
        torch.nn.init.constant_(model.network.decoder.head.bias, filled)
        losses.append(model.training_loss(replace(data, states=gaps), 2, data.keys))
        assert losses[-1]["loss"].isfinite()
    whole = trained(fields(), **FULL)
    with pytest.raises(ForecastError, match=r"`2t` at .* data.masked"):
        whole.training_loss(replace(data, states=gaps), 2, data.keys)
    out = model.step(gaps[:, None, :2], data.forcings[:, 1], True, torch.zeros(2, 1, *model.noise_shape))
    assert out[:, 0, land, 1].isnan().all() and out[:, 0, ~land].isfinite().all() and out[..., 0].isfinite().all()
    score = model.score(torch.zeros(1, 2, f.grid_size, 3), torch.zeros(1, f.grid_size, 3))
    assert not score.any()


@pytest.mark.parametrize(
    "loss",
    [
        {"name": "multiscale", "options": {"radii_km": [4000, 2000], "factors": [1, 1, 4]}},
        {"name": "spectral_crps", "options": {"transform": {"name": "harmonics", "truncation": 5}}},
        {"name": "fair_crps"},
    ],
    ids=lambda loss: loss["name"],
)
def test_any_score_of_members_can_be_trained(loss):
    torch.manual_seed(0)
    model = build(GraphTransformerSection(**{**SMALL.model_dump(), **FULL}), fields(), LossSection(**loss))
    data = batch(fields(), samples=4)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    values = []
    for _ in range(12):
        terms = model.training_loss(data, 2, data.keys)
        terms["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        values.append(terms["loss"].item())
    assert values[-1] < 0.95 * values[0] and f"{loss['name']}/2t" in terms


def test_multiscale_of_one_scale_is_the_score_itself():
    one = LossSection(name="multiscale", options={"radii_km": [0]})
    values = []
    for loss in (one, LossSection()):
        torch.manual_seed(0)
        model = build(SMALL, fields(), loss)
        data = batch(fields())
        values.append(model.training_loss(data, 3, data.keys)["loss"].item())
    assert values[0] == pytest.approx(values[1], rel=1e-5)
