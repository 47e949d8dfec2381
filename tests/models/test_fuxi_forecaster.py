from dataclasses import replace

import numpy as np
import pytest
import torch

from forecast.core.errors import ForecastError
from forecast.core.sections import LossSection
from forecast.losses import fair_crps
from forecast.models.base import clock
from forecast.models.latent import divergence
from forecast.models.serialise import load_forecaster, save_forecaster
from tests.models.fuxi import HARMONIC, fresh, section, trained
from tests.models.small import batch, fields

FAIR = LossSection(name="fair_crps")


def step(model, data, members, seed=0, lead=0, alone=None, **changes):
    """One step from shared initial states."""
    xi = torch.randn(len(data.states), members, *model.noise_shape, generator=torch.Generator().manual_seed(seed))
    xi = xi if alone is None else xi[:, alone]
    newest = data.input_steps - 1
    times = clock(data.dates[:, newest], lead)
    window = changes.get("window", data.states[:, None, : data.input_steps])
    with torch.no_grad():
        return model.step(window, data.forcings[:, newest], lead == 0, xi, times)


def pieces(model, data):
    """Past states, forcings with times, truth, all normalised."""
    states = model.normalise(data.states)
    past = [states[:, None, t, :, : model.prognostic] for t in range(2)]
    return past, (model._forcings(data.forcings)[:, 1], clock(data.dates[:, 1], 0)), states[:, 2]


def test_zero_heads_are_standard_normal():
    """A fresh prior and posterior are N(0, 1): z is the state and unit white noise."""
    model, data = fresh(), batch(fields())
    past, known, truth = pieces(model, data)
    noise = torch.randn(2, 4, *model.noise_shape)
    for distribution in (model.prior(past, known, noise), model.posterior(past, truth, known, noise)):
        assert not distribution.mean.any()
        assert not distribution.logvar.any()
        drawn = model._draw(distribution, noise)
        torch.testing.assert_close(drawn.flatten(), noise.flatten())
    assert model.training_loss(data, 4, data.keys)["kl"] == 0.0


def test_only_the_posterior_sees_the_truth():
    model, data = trained(), batch(fields())
    past, known, truth = pieces(model, data)
    noise = torch.randn(2, 4, *model.noise_shape)
    truth.requires_grad_()
    q, p = model.posterior(past, truth, known, noise), model.prior(past, known, noise)
    assert torch.autograd.grad(q.mean.sum(), truth)[0].abs().sum() > 0
    assert not p.mean.requires_grad or torch.autograd.grad(p.mean.sum(), truth, allow_unused=True)[0] is None


def test_accumulated_variables_are_zero_in_the_input():
    model, data = trained(), batch(fields())
    inputs = model._inputs([torch.randn(1, 2, 128, 2)] * 2).unflatten(-1, (2, 3))
    assert not inputs[..., 2].any()
    other = data.states.clone()
    other[..., 2] += 1.0
    assert torch.equal(step(model, data, 2), step(model, replace(data, states=other), 2))


@pytest.mark.parametrize("output", ["absolute", "increment"])
def test_output(output):
    """Absolute states owe nothing to the newest one; fresh increments are persistence."""
    model, data = fresh(output=output), batch(fields())
    out = step(model, data, 3)
    assert out.shape == (2, 3, 128, 3)
    assert out[..., 2].min() >= 0  # rain
    if output == "increment":
        newest = data.states[:, None, 1, :, :2].expand(-1, 3, -1, -1)
        torch.testing.assert_close(out[..., :2], newest, rtol=1e-5, atol=0)
    else:
        assert (out[..., 0] - data.states[:, None, 1, :, 0]).abs().mean() > 100


def test_members_follow_their_noise():
    model, data = trained(), batch(fields())
    out = step(model, data, 4)
    scale = model.normalise.scale
    assert (out[:, 0] - out[:, 1]).div(scale).abs().max() > 1e-2
    alone = step(model, data, 4, alone=slice(1, 2))
    own = step(model, data, 4, window=data.states[:, None, :2].expand(-1, 4, -1, -1, -1))
    assert (alone - out[:, 1:2]).div(scale).abs().max() < 1e-4
    assert (own - out).div(scale).abs().max() < 1e-4


def test_time_is_told_and_late_steps_are_one():
    model, data = trained(last_step=2), batch(fields())
    at = [step(model, data, 2, lead=lead) for lead in (0, 1, 2, 9)]
    assert not torch.equal(at[0], at[1])
    assert torch.equal(at[2], at[3])
    winter = replace(data, dates=data.dates + np.timedelta64(100, "D"))
    assert not torch.equal(step(model, winter, 2), at[0])


def test_clock():
    dates = np.array(["2001-01-01T06", "2004-12-31T18", "2001-12-31T00"], "datetime64[s]")
    wanted = torch.tensor([[3, 0.25, 1 / 365], [3, 0.75, 1.0], [3, 0.0, 1.0]])
    torch.testing.assert_close(clock(dates, 3), wanted)


def by_hand(model, data, members, share):
    """Score and KL of one step, from the parts."""
    past, known, truth = pieces(model, data)
    xi = model._noise(data.keys, members, 0)
    q, p = model.posterior(past, truth, known, xi), model.prior(past, known, xi)
    count = round(share * members)
    groups = [(q, slice(0, members - count)), (p, slice(members - count, members))]
    score = 0.0
    for distribution, which in groups:
        if which.start < which.stop:
            state, _ = model._decode(past, model._draw(distribution, xi[:, which]), known)
            points = fair_crps(state, truth, reduction="none").mean(dim=0)
            score = score + (points * model.weights).sum() * (which.stop - which.start) / members
    return score, divergence(q, p, model.network.areas, model.section.divergence)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_training_loss_is_the_score_and_beta_times_the_divergence(share):
    model, data = trained(FAIR, prior_share=share, divergence={"beta": 0.3}), batch(fields())
    score, kl = by_hand(model, data, 4, share)
    terms = model.training_loss(data, 4, data.keys)
    torch.testing.assert_close(terms["kl"], kl.detach())
    torch.testing.assert_close(terms["loss"], score + 0.3 * kl, rtol=1e-4, atol=1e-5)
    assert terms["beta"] == pytest.approx(0.3)


def test_without_beta_the_score_is_all():
    """beta = 0: the loss is the score, and a prior that no member is drawn from has no gradient."""
    model, data = trained(FAIR, prior_share=0.0, divergence={"beta": 0.0}), batch(fields())
    terms = model.training_loss(data, 4, data.keys)
    torch.testing.assert_close(terms["loss"], by_hand(model, data, 4, 0.0)[0], rtol=1e-4, atol=1e-5)
    terms["loss"].backward()
    assert all(p.grad is None or not p.grad.any() for p in model.network.prior.parameters())
    assert any(p.grad.any() for p in model.network.posterior.parameters() if p.grad is not None)


def test_score_alone_needs_no_posterior():
    model = trained(FAIR, prior_share=1.0, divergence={"beta": 0.0})
    assert model.network.posterior is None
    data = batch(fields())
    assert "kl" not in model.training_loss(data, 4, data.keys)


def test_white_prior_has_no_network():
    model, data = trained(latent={"prior": "white"}, divergence={"beta": 0.1}), batch(fields())
    assert model.network.prior is None
    past, known, _ = pieces(model, data)
    noise = torch.randn(2, 2, *model.noise_shape)
    torch.testing.assert_close(model._draw(model.prior(past, known, noise), noise).flatten(), noise.flatten())
    terms = model.training_loss(data, 4, data.keys)
    terms["loss"].backward()
    assert terms["kl"] > 0
    assert step(model, data, 2).shape == (2, 2, 128, 3)


def test_lone_member_in_training_is_deterministic():
    """No latent, no divergence: neither the key nor prior and posterior matter."""
    model, data = trained(), batch(fields())
    one, other = model.training_loss(data, 1, (1, 2)), model.training_loss(data, 1, (3, 4))
    assert one["loss"] == other["loss"]
    assert "kl" not in one
    one["loss"].backward()
    assert all(p.grad is None for net in (model.network.prior, model.network.posterior) for p in net.parameters())
    assert not torch.equal(step(model, data, 1, seed=0), step(model, data, 1, seed=1))  # forecasts draw


LATENTS = {
    "low rank": {"latent": {"rank": 3}},
    "coarse": {"latent": {"coarsening": 2}},
    "coarse, low rank, narrow": {"latent": {"coarsening": 2, "rank": 2, "logvar": -4.0}},
    "dropout": {"dropout": 0.3},
    "recomputed": {"activation_checkpointing": True, "checkpoint_blocks": True},
    "harmonic": HARMONIC,
    "harmonic, dropout, recomputed": {**HARMONIC, "dropout": 0.3, "checkpoint_blocks": True},
    "free bits, balance": {"divergence": {"beta": 0.1, "free_bits": 0.05, "balance": 0.8}},
}


@pytest.mark.parametrize("changes", LATENTS.values(), ids=LATENTS)
def test_every_latent_trains_and_rolls_out(changes):
    """Gradients reach prior, posterior and decoder over a rollout of two steps."""
    model, data = trained(**changes), batch(fields(), steps=2)
    terms = model.training_loss(data, 4, data.keys)
    terms["loss"].backward()
    for net in (model.network.prior, model.network.posterior, model.network.decoder):
        assert sum(p.grad.abs().sum() for p in net.parameters() if p.grad is not None) > 0
    again = model.training_loss(data, 4, data.keys)
    assert again["loss"] == terms["loss"]
    out = step(model, data, 3)
    assert torch.isfinite(out).all()
    assert (out[:, 0] != out[:, 1]).any()


@pytest.mark.parametrize("changes", [{}, HARMONIC], ids=["windows", "harmonic"])
def test_recomputing_changes_nothing(changes):
    data = batch(fields(), steps=2)
    kept, recomputed = trained(**changes), trained(**changes, activation_checkpointing=True, checkpoint_blocks=True)
    for model in (kept, recomputed):
        model.training_loss(data, 4, data.keys)["loss"].backward()
    for a, b in zip(kept.parameters(), recomputed.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-7)


def test_coarse_latent_is_smooth_and_goes_round():
    model = fresh(latent={"coarsening": 2}, patch=(2, 2))
    assert model.network.latent_shape == (4, 8)
    drawn = torch.zeros(1, 1, 4, 8, 4)
    drawn[..., 0, :] = 1.0
    fine = model.network.spread_out(drawn.flatten(2, 3)).unflatten(2, (8, 16))[0, 0, :, :, 0]
    torch.testing.assert_close(fine[:, :3], torch.tensor([[0.75, 0.75, 0.25]]).expand(8, -1))
    torch.testing.assert_close(fine[:, 15], torch.full((8,), 0.25))
    ones = model.network.spread_out(torch.ones(1, 1, 32, 4))
    torch.testing.assert_close(ones, torch.ones(1, 1, 128, 4))
    assert model.network.areas.sum().item() == pytest.approx(4 * np.pi, rel=1e-5)


def test_schedules_go_by_the_update():
    linear = fresh(divergence={"beta": 2.0, "warmup": 10})
    cyclic = fresh(divergence={"beta": 2.0, "schedule": "cyclic", "cycle": 10, "rise": 0.5})
    for update, warm, cycled in ((0, 0.0, 0.0), (5, 1.0, 2.0), (12, 2.0, 0.8)):
        for model, wanted in ((linear, warm), (cyclic, cycled)):
            model.begin_update(update)
            assert model.beta == pytest.approx(wanted)


def test_event_heads_and_latent_losses():
    terms = {
        "rain": {"loss": "binary_cross_entropy", "of": "event", "event": {"variable": "tp", "above": 0.001}},
        "wind": {"loss": "focal", "of": "event", "event": {"variable": "2t", "above": 290.0}},
        "twins": {"loss": "barlow_twins", "of": "latent", "weight": 0.1},
    }
    model, data = trained(LossSection.model_validate({"terms": terms})), batch(fields())
    out = model.training_loss(data, 4, data.keys)
    out["loss"].backward()
    assert {"terms/rain", "terms/wind", "terms/twins", "terms/kl"} <= set(out)
    assert model.network.decoder.head_features.head.weight.grad.any()


def test_checkpoint_keeps_the_forecaster(tmp_path):
    model, data = trained(dropout=0.2, latent={"rank": 1}), batch(fields())
    save_forecaster(tmp_path, model)
    assert torch.equal(step(load_forecaster(tmp_path), data, 2), step(model, data, 2))


def test_diagnosis_of_a_dead_and_a_living_latent():
    data = [batch(fields(), seed=s) for s in range(2)]
    dead, alive = fresh().diagnose(data, 4, 0), trained().diagnose(data, 4, 0)
    assert dead["latent"]["kl"] == [0.0]
    assert dead["latent"]["active"] == [0.0]
    assert dead["latent"]["abs_mean_prior"] == [0.0]
    assert dead["crps_prior"] == dead["crps_posterior"]
    assert 0 < alive["latent"]["active"][0] <= 1
    assert set(alive["kl"]) == {"z_500", "2t"}
    assert all(len(values) == 2 and min(values) > 0 for values in alive["kl"].values())
    mean = np.mean([values for values in alive["kl"].values()])
    assert alive["latent"]["kl"][0] == pytest.approx(mean, rel=1e-5)
    assert set(alive["crps_prior"]) == {"z_500", "2t", "tp"}
    assert alive == trained().diagnose(data, 4, 0)


def test_mistakes_are_told():
    data = batch(fields())
    with pytest.raises(ForecastError, match=r"prior_share=0.5 of 2 members draws 1 from the prior and 1"):
        fresh(prior_share=0.5).training_loss(data, 2, data.keys)
    kl = {"kl": {"loss": "barlow_twins", "of": "latent"}}
    with pytest.raises(ForecastError, match="call the term something else"):
        fresh(LossSection.model_validate({"terms": kl}))
    for changes, message in (
        ({"heads": 3}, "must divide model.width=16 into an even width"),
        ({"latent": {"coarsening": 3}}, "must divide patch"),
        ({"latent": {"prior": "white", "rank": 2}}, "a white prior is"),
        ({"divergence": {"schedule": "cyclic"}}, "`cycle` goes with `schedule: cyclic`"),
    ):
        with pytest.raises(ValueError, match=message):
            section(**changes)


def test_losses_of_one_view_of_the_latent_need_one_member():
    """So that a stage of one member may come first."""
    data = batch(fields())
    alone, pair = (
        fresh(LossSection.model_validate({"terms": {"latent": {"loss": name, "of": "latent"}}}))
        for name in ("covariance", "barlow_twins")
    )
    assert alone.training_loss(data, 1, data.keys)["terms/latent"] > 0
    with pytest.raises(ForecastError, match="two views of the latent need two members"):
        pair.training_loss(data, 1, data.keys)
