"""Further terms of the loss: what each loss is given, event labels in physical units, teachers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from forecast import losses
from forecast.core.errors import ForecastError
from forecast.core.model_sections import GraphTransformerSection
from forecast.core.sections import LossSection
from forecast.models.forecaster import Forecaster, build
from forecast.models.serialise import load_forecaster, save_forecaster
from tests.models.small import SMALL, batch, fields

RAIN = {"variable": "tp", "above": 0.0005}
BINS = {"variable": "2t", "edges": [270.0, 280.0, 290.0]}


def forecaster(terms: dict[str, Any], seed: int = 0) -> Forecaster:
    torch.manual_seed(seed)
    model = build(GraphTransformerSection(**SMALL.model_dump()), fields(), LossSection.model_validate({"terms": terms}))
    torch.manual_seed(seed + 1)  # the same network with and without heads
    with torch.no_grad():
        for parameter in model.network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    return model


def loss(model: Forecaster, steps: int = 1, members: int = 2) -> dict[str, Tensor]:
    data = batch(fields(), steps=steps)
    return model.training_loss(data, members, data.keys)


def term(name: str, of: str, weight: float = 1.0, **more: Any) -> dict[str, Any]:
    return {"rest": {"loss": name, "of": of, "weight": weight, **more}}


EVERY = {
    "members": term("energy_score", "members"),
    "waves": term("spectral_crps", "members", options={"transform": {"name": "harmonics", "truncation": 5}}),
    "combined": term("combined", "members", options={"terms": {"a": {"name": "mae"}}}),
    "field": term("mae", "members"),
    "distribution": term("gaussian_crps", "members"),
    "quantiles": term("pinball", "members", options={"levels": [0.25, 0.75]}),
    "interval": term("interval_score", "members", options={"alpha": 0.5}),
    "points": term("normalized_softmax", "event", event=BINS, options={"classes": 4, "features": 16}),
    "moments": term("gaussian_kl", "latent"),
    "two moments": term("gaussian_divergence", "latent"),
    "exceedance": term("binary_cross_entropy", "event", event=RAIN),
    "bins": term("ordered_bin_emd", "event", event=BINS),
    "two views": term("barlow_twins", "latent"),
    "one view": term("uniformity", "latent"),
    "weights": term("group_sparse_envelope", "weights", options={"k": 3}),
}


@pytest.mark.parametrize("terms", EVERY.values(), ids=EVERY.keys())
def test_the_total_is_the_score_and_the_weighted_terms(terms: dict[str, Any]) -> None:
    score = loss(forecaster({}))["loss"]
    part = loss(forecaster(terms))["terms/rest"]
    terms["rest"]["weight"] = 0.25
    model = forecaster(terms)
    total = loss(model)["loss"]
    torch.testing.assert_close(total, score + 0.25 * part)
    assert part != 0
    total.backward()
    learnt = [p for name, p in model.terms.named_parameters() if name.startswith("losses")]
    heads = [p for p in model.terms.heads.parameters() if "features" not in model.terms.about["rest"].needed]
    assert all(p.grad is not None for p in (*learnt, *heads))


def test_labels_are_counted_in_physical_units() -> None:
    model = forecaster({"a": {"loss": "brier", "of": "event", "event": RAIN},
                        "b": {"loss": "cross_entropy", "of": "event", "event": BINS}})  # fmt: skip
    data = batch(fields())
    truth = data.states[:, -1]
    rain, bins = (head.labels(model.normalise(truth)) for head in model.terms.heads.values())
    assert torch.equal(rain, (truth[..., 2] > 0.0005).float()) and 0 < rain.mean() < 1
    for k, (low, high) in enumerate([(-1e9, 270.0), (270.0, 280.0), (280.0, 290.0), (290.0, 1e9)]):
        assert torch.equal(bins == k, (truth[..., 1] > low) & (truth[..., 1] <= high))


def test_event_terms_are_weighted_by_area() -> None:
    model = forecaster(term("brier", "event", event=RAIN))
    data = batch(fields())
    labels = (data.states[:, -1, :, 2] > 0.0005).double()
    area = torch.tensor(fields().areas / fields().areas.sum())
    with torch.no_grad():
        model.terms.heads["tp above 0p0005"].read.weight.zero_()
        model.terms.heads["tp above 0p0005"].read.bias.zero_()
    expected = ((0.5 - labels) ** 2 * area).sum(-1).mean()  # every probability is a half
    torch.testing.assert_close(loss(model)["terms/rest"].double(), expected, atol=1e-6, rtol=0)
    assert expected == pytest.approx(0.25)


def test_equal_events_share_a_head_and_it_is_saved(tmp_path: Path) -> None:
    terms = {"a": {"loss": "brier", "of": "event", "event": RAIN}, "b": {"loss": "dice", "of": "event", "event": RAIN}}
    model = forecaster(terms)
    assert len(model.terms.heads) == 1
    save_forecaster(tmp_path, model)
    assert torch.equal(loss(load_forecaster(tmp_path))["loss"], loss(model)["loss"])


def test_an_epoch_begins_for_the_losses_that_count_them(tmp_path: Path) -> None:
    """Calibrated probabilities make their table from what the last epoch stored; it survives a checkpoint."""
    model = forecaster(term("calibrated_probability", "event", event=RAIN))
    calibrated: Any = model.terms.losses["rest"]
    loss(model)
    assert calibrated.seen > 0 and not calibrated.has_table
    model.terms.begin_epoch(1)
    assert calibrated.epoch == 1 and calibrated.has_table and calibrated.seen == 0
    save_forecaster(tmp_path, model, {name: p + 1 for name, p in model.named_parameters()})
    loaded: Any = load_forecaster(tmp_path).terms.losses["rest"]
    assert loaded.epoch == 1 and torch.equal(loaded.rates, calibrated.rates)


def test_a_random_loss_is_drawn_anew_by_epochs_not_by_updates() -> None:
    model = forecaster(term("ens", "event", event=RAIN, options={"period": 2}))
    shapes = []
    for epoch, key in ((0, 3), (0, 4), (1, 5), (2, 6)):
        model.terms.begin_epoch(epoch)
        data = batch(fields())
        model.training_loss(data, 2, (key, key + 10))
        shapes.append(float(model.terms.losses["rest"].shape))  # type: ignore[arg-type]
    assert shapes[0] == shapes[1] == shapes[2] != shapes[3]


def test_a_rollout_averages_its_terms() -> None:
    """The latent of step 1 is that of a rollout of one step, so two steps average it with the second."""
    model = forecaster(term("uniformity", "latent"))
    seen: list[Tensor] = []
    model.terms.losses["rest"].register_forward_hook(lambda module, given, out: seen.append(out.detach()))
    total = loss(model, steps=3)["terms/rest"]
    assert len(seen) == 3 and len(set(map(float, seen))) == 3
    torch.testing.assert_close(total, torch.stack(seen).mean())


@pytest.mark.parametrize(("name", "event"), [("binary_kl", RAIN), ("soft_targets", BINS), ("self_distillation", None)])
def test_a_teacher_is_met_by_its_copy(tmp_path: Path, name: str, event: dict[str, Any] | None) -> None:
    """A student that equals its teacher has nothing to learn from it; another one has."""
    of = "event" if event else "members"
    terms = term("brier" if event == RAIN else "cross_entropy", of, event=event) if event else {}
    save_forecaster(tmp_path, forecaster(terms, seed=1))
    taught = term(name, of, event=event, teacher=str(tmp_path))
    if name == "self_distillation":
        taught["rest"]["options"] = {"alpha": 0.0}  # the teacher alone counts
    same, other = (forecaster(taught, seed) for seed in (1, 2))
    assert loss(same)["terms/rest"].abs() < 1e-6
    assert loss(other, steps=2)["terms/rest"] > 1e-4
    assert not any("taught" in key for key in same.state_dict())


def test_a_teacher_of_other_fields_is_refused(tmp_path: Path) -> None:
    from dataclasses import replace

    torch.manual_seed(0)
    save_forecaster(tmp_path, build(SMALL, replace(fields(), step=43_200)))
    with pytest.raises(ForecastError, match="has other step"):
        loss(forecaster(term("self_distillation", "members", teacher=str(tmp_path))))


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        (term("dcie", "event", event=RAIN), "unknown loss `dcie`, did you mean `dice`"),
        (term("dice", "event", event=RAIN, options={"gama": 1}), "unknown option of dice `gama`"),
        (term("dice", "event", event={"variable": "q_500", "above": 1.0}), "an event of `q_500`"),
        (term("binary_kl", "event", event=RAIN), "wants `student`, which training with `of: event` and no teacher"),
        (term("dice", "latent"), "`dice` wants `labels`, which training with `of: latent`"),
    ],
)
def test_what_cannot_be_is_named(terms: dict[str, Any], words: str) -> None:
    with pytest.raises(ForecastError, match=words):
        loss(forecaster(terms))


LOSSES = [e for e in losses.registry.entries() if e.takes in ("event", "classes", "maps", "rows") and e.extra is None]
SEVERAL = {"multi_grained_focal", "decoupled_softmax", "soft_top_k", "hybrid_multilabel"}  # labels at once
OPTIONS: dict[str, dict[str, Any]] = {"soft_top_k": {"k": 1}, "conditional_information": {"classes": 4}}
APART = {"aldr"}  # keeps a number for each sample of an archive, which a grid's points are not


@pytest.mark.parametrize("entry", [e for e in LOSSES if e.name not in APART], ids=lambda e: e.name)
def test_every_loss_of_events_trains_a_head(entry: losses.registry.Entry) -> None:
    event: dict[str, Any] = RAIN if entry.takes in ("event", "maps") else BINS
    if entry.name in SEVERAL:
        event = {"variable": "tp", "above": [0.0002, 0.0005, 0.001]}
    model = forecaster(term(entry.name, "event", event=event, options=OPTIONS.get(entry.name, {})))
    loss(model)["loss"].backward()
    (head,) = model.terms.heads.values()
    gradient = head.read.weight.grad
    assert gradient is not None and gradient.isfinite().all() and gradient.any()
