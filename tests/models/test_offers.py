"""What terms are offered beside members and labels: each against what its name promises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from forecast.core import grids
from forecast.core.errors import ForecastError
from forecast.models.attention import DenseAttention, NeighbourAttention
from forecast.models.companions import SparseCode
from forecast.models.forecaster import Forecaster
from forecast.models.offers import coarse_cells
from forecast.models.offers_latent import OfLatent, rebuilt
from forecast.models.serialise import save_forecaster
from tests.models.small import batch, fields
from tests.models.test_terms import BINS, forecaster, loss, term

WET = {"variable": "tp"}


def given(model: Forecaster, name: str = "rest", steps: int = 1, **changes: Any) -> tuple[list[Any], dict[str, Any]]:
    """What the term's loss is called with, positional and by keyword, at the last step."""
    seen: list[Any] = []
    hook: Callable[..., None] = lambda module, args, kwargs: seen.append((args, kwargs))  # noqa: E731
    handle = model.terms.losses[name].register_forward_pre_hook(hook, with_kwargs=True)
    data = batch(fields(), steps=steps)
    data = data.__class__(**{**data.__dict__, **changes})
    model.training_loss(data, 2, data.keys)
    handle.remove()
    return list(seen[-1][0]), seen[-1][1]


def gradients(model: Forecaster, *names: str) -> dict[str, bool]:
    """Whether a term alone gives parameters of these prefixes a gradient."""
    kept: list[Tensor] = []
    handle = model.terms.losses["rest"].register_forward_hook(lambda module, args, out: kept.append(out))
    loss(model)
    handle.remove()
    model.zero_grad()
    kept[-1].backward()
    found = {key for key, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    return {name: any(key.startswith(name) for key in found) for name in names}


def test_a_critic_is_taught_by_one_term_and_listened_to_by_the_other() -> None:
    taught = gradients(forecaster(term("hinge_discriminator", "critic")), "terms.companions.critic", "network")
    heard = gradients(forecaster(term("hinge_generator", "critic")), "terms.companions.critic", "network")
    assert taught == {"terms.companions.critic": True, "network": False}
    assert heard == {"terms.companions.critic": False, "network": True}


def test_terms_share_a_critic_of_equal_events_and_one_code() -> None:
    terms = {name: {"loss": name, "of": "critic"} for name in ("hinge_generator", "hinge_discriminator")}
    terms |= {name: {"loss": name, "of": "critic", "event": BINS} for name in ("adc_generator", "adc_discriminator")}
    terms |= {"code": {"loss": "mse", "of": "code"}, "dead": {"loss": "aux_k", "of": "code"}}
    model = forecaster(terms)
    assert set(model.terms.companions) == {"critic", "critic of 2t in 270 280 290", "code"}
    assert not model.terms.heads  # a critic's classes need no head
    loss(model)["loss"].backward()


def test_a_code_learns_from_the_latent_and_leaves_it_alone() -> None:
    model = forecaster(term("mse", "code"))
    assert gradients(model, "terms.companions.code", "network") == {"terms.companions.code": True, "network": False}
    code = SparseCode(16, active=3)
    raw, _ = code(torch.randn(5, 16))
    assert raw.shape == (5, 64) and int((code.use.density > 0).sum()) <= 15


def test_the_place_in_the_archive_numbers_points_and_nodes() -> None:
    places = torch.tensor([3, 7])
    model = forecaster(term("aldr", "event", event=BINS, options={"samples": 8 * 128}))
    index = given(model, places=places)[1]["index"]
    assert torch.equal(index, places[:, None] * 128 + torch.arange(128))
    nodes = forecaster(term("individual_temperature", "latent", options={"samples": 8 * 42}))
    assert torch.equal(given(nodes, places=places)[1]["index"], (places[:, None] * 42 + torch.arange(42)).flatten())
    with pytest.raises(ForecastError, match="`index` needs batches that know their place"):
        loss(model)
    with pytest.raises(ForecastError, match="index"):
        given(model, places=torch.tensor([3, 8]))


def test_a_mixture_is_of_the_sample_and_the_one_in_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of the first view, it is that; nothing of it, it is the second of the sample that it is mixed with."""
    model = forecaster(term("mixed_barlow_twins", "latent"))
    silent = torch.zeros(2, 2, *model.noise_shape)
    model._noise = lambda keys, members, step: silent  # type: ignore[method-assign]
    for share in (0.0, 1.0):
        monkeypatch.setattr(OfLatent, "share", property(lambda self, share=share: torch.tensor(share)))
        monkeypatch.setattr(OfLatent, "_samples", property(lambda self: torch.tensor([1, 0])))
        (first, second, mixed, order, _), _ = given(model)
        assert torch.equal(order, torch.arange(84).roll(42))
        torch.testing.assert_close(mixed, first if share else second[order], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(first[:42], first[42:])


def test_the_reference_of_a_deviation_is_the_mean_state() -> None:
    model = forecaster(term("deviation", "latent"))
    mean = torch.tensor(fields().column("mean", fields().variables)).float()
    data = batch(fields())
    (query, reference, near, far), _ = given(model, states=mean.expand_as(data.states))
    torch.testing.assert_close(query, reference, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(near, far)


def test_what_lies_in_the_period_is_forgotten_and_nothing_else(tmp_path: Any) -> None:
    save_forecaster(tmp_path, forecaster({}))
    more = {"teacher": str(tmp_path), "forget": ["2001-03-01", "2001-03-31T18"]}
    model = forecaster(term("forgetting_contrast", "latent", **more))
    dates = batch(fields()).dates.copy()
    dates[1] += np.timedelta64(70, "D")  # into March
    (kept, kept_old, gone, gone_old), _ = given(model, dates=dates)
    assert len(kept) == len(gone) == 42
    torch.testing.assert_close(kept, kept_old)  # the teacher has the same weights
    torch.testing.assert_close(gone, gone_old)
    assert all(len(x) == 0 for x in given(model)[0][2:])
    with pytest.raises(ForecastError, match="needs `forget`, a period"):
        loss(forecaster(term("forgetting_contrast", "latent", teacher=str(tmp_path))))


def test_rows_of_few_components_are_rebuilt() -> None:
    plane = torch.randn(50, 3) @ torch.randn(3, 16) + 2.0
    torch.testing.assert_close(rebuilt(plane, plane, rank=3), plane, atol=1e-4, rtol=1e-4)
    assert (rebuilt(torch.randn(50, 16), plane, rank=3) - plane).abs().max() > 0.1


def test_coarse_cells_are_a_few_points_each_and_their_means_the_target() -> None:
    cells = coarse_cells(grids.gaussian(32))
    counts = np.bincount(cells)
    assert 8 <= np.median(counts) <= 32 and counts.min() > 0
    model = forecaster(term("aggregate", "members"))
    (prediction, target), at_call = given(model)
    index, area = at_call["index"], torch.tensor(fields().areas).float()
    assert prediction.shape[0] == 128 and target.shape[1:] == prediction.shape[1:]
    truth = model.normalise(batch(fields()).targets[:, 0])
    inside = index == 2
    expected = (truth[0, inside] * area[inside, None]).sum(0) / area[inside].sum()
    torch.testing.assert_close(target[2, 0], expected, atol=1e-5, rtol=1e-4)


def test_a_rollout_is_scored_as_a_whole() -> None:
    base = {"name": "almost_fair_crps"}
    model = forecaster(term("time_aggregate", "rollout", options={"base": base, "kinds": ["mean"]}))
    (members, truth), _ = given(model, steps=3)
    assert members.shape == (2, 2, 3, 128, 3) and truth.shape == (2, 3, 128, 3)
    data = batch(fields(), steps=3)
    torch.testing.assert_close(truth, model.normalise(data.targets))
    assert model.training_loss(data, 2, data.keys)["terms/rest"] > 0
    leads = forecaster(term("multi_horizon_consistency", "rollout"))
    (student, _, latents, taught), _ = given(leads, steps=3)
    assert student.shape == truth.shape and latents.shape == taught.shape and not taught.requires_grad


def test_attention_is_that_of_the_layers() -> None:
    """A layer's weights, gates aside, give what it gives: by a table of neighbours, and over all nodes."""
    (attention,), _ = given(forecaster(term("attention_entropy", "attention")))
    assert attention.shape == (2, 2, 2, 42, 6)
    torch.testing.assert_close(attention.sum(-1), torch.ones(attention.shape[:-1]), atol=1e-5, rtol=0)
    torch.manual_seed(0)
    x, table = torch.randn(2, 6, 8), torch.randint(0, 6, (6, 3))
    near = NeighbourAttention(8, 8, 8, 2, table, torch.randn(18, 3))
    torch.nn.init.zeros_(near.geometry[2].weight[2:])  # type: ignore[index,arg-type]
    torch.nn.init.zeros_(near.geometry[2].bias[2:])  # type: ignore[index,arg-type]
    value = near.key_value(x).unflatten(-1, (2, 2, -1))[:, :, 1]
    mixed = torch.einsum("bhtk,btkhd->bthd", near.weights(x, torch.arange(6)), value[:, table])
    torch.testing.assert_close(near.out(mixed.flatten(-2)), near(x), atol=1e-5, rtol=1e-4)
    dense = DenseAttention(8, 2, torch.nn.functional.normalize(torch.randn(6, 3), dim=-1))
    value = dense.qkv(x).unflatten(-1, (3, 2, 4))[:, :, 2]
    mixed = torch.einsum("bhtn,bnhd->bthd", dense.weights(x, torch.arange(6)), value)
    torch.testing.assert_close(dense.out(mixed.flatten(-2)), dense(x), atol=1e-5, rtol=1e-4)


def test_a_penalty_on_slopes_leaves_the_weights_alone() -> None:
    model = forecaster(term("gradient_norm", "weights", options={"first": 1.0}))
    before = {name: p.clone() for name, p in model.named_parameters()}
    loss(model)["loss"].backward()
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert gradients(model, "network") == {"network": True}


def test_a_distribution_has_parameters_that_it_may_have() -> None:
    (shape, rate, truth), at_call = given(forecaster(term("gamma_crps", "distribution", **WET)))
    assert shape.shape == rate.shape == truth.shape == (2, 128) and at_call["weight"].shape == (128,)
    assert shape.min() > 0 and rate.min() > 0
    rain = batch(fields()).targets[:, 0, :, 2] / fields().statistics["tp"]["stdev"]
    torch.testing.assert_close(truth, rain)
    levels = {"options": {"levels": [0.1, 0.5, 0.9]}}
    (quantiles, _), _ = given(forecaster(term("pinball", "distribution", **WET, **levels)))
    assert quantiles.shape == (2, 3, 128) and (quantiles.diff(dim=1) > 0).all()
    (lower, upper, _), _ = given(forecaster(term("interval_score", "distribution", **WET)))
    assert (upper > lower).all()


def test_one_member_has_no_second_view() -> None:
    model, data = forecaster(term("barlow_twins", "latent")), batch(fields())
    with pytest.raises(ForecastError, match=r"loss.terms.rest: two views of the latent need two members"):
        model.training_loss(data, 1, data.keys)


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        (term("gamma_crps", "distribution", variable="q_500"), "a distribution of `q_500`; the forecaster predicts"),
        (term("adc_generator", "critic"), "`adc_generator` of: critic needs an `event`"),
        (term("soft_targets", "event", event=BINS), "`soft_targets` wants `student`, .* and no teacher"),
        (term("mi_alpha", "members"), "`mi_alpha` wants `scores`, which training with `of: members`"),
    ],
)
def test_what_cannot_be_is_said_when_the_forecaster_is_built(terms: dict[str, Any], words: str) -> None:
    with pytest.raises(ForecastError, match=words):
        forecaster(terms)
