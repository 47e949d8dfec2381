"""The loop end to end: what it refuses, how it stops, and that weights go where they should."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from forecast.core import config as configs
from forecast.core.errors import ForecastError
from forecast.core.store import Store
from forecast.data.batch import Batch
from forecast.data.dataset import Dataset
from forecast.models.forecaster import Forecaster
from forecast.models.serialise import load_forecaster
from forecast.training import parallelize, sinks
from forecast.training.resume import check_unchanged
from forecast.training.validate import Validation
from forecast.training.watch import MEASURED
from pipelines.train import train
from tests import tiny

LAST = "update-00000024"


@pytest.fixture(scope="module")
def whole(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run."""
    return train(tiny.config(tmp_path_factory.mktemp("whole"), archive))


@pytest.fixture(autouse=True)
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than these runs; `whole` comes before this and has its picture."""
    monkeypatch.setattr(sinks, "plot", lambda metrics, picture: None)


def curve(folder: Path) -> list[dict[str, Any]]:
    """The metrics without wall time."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in MEASURED} for line in lines]


def tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    return {
        f"{file.name}/{name}": t for file in checkpoint.glob("*.safetensors") for name, t in load_file(file).items()
    }


def assert_same_run(folder: Path, other: Path) -> None:
    assert curve(folder) == curve(other)
    a, b = tensors(folder / "latest"), tensors(other / "latest")
    assert a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)
    assert (folder / "best").resolve().name == (other / "best").resolve().name


def stop_at(update: int, monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    """Send this process a signal while it works on an update."""
    loss, seen = Forecaster.training_loss, []

    def signalled(self: Forecaster, *arguments: Any) -> dict[str, torch.Tensor]:
        seen.append(1)
        if len(seen) == update:
            os.kill(os.getpid(), number)
        return loss(self, *arguments)

    monkeypatch.setattr(Forecaster, "training_loss", signalled)


def test_a_run_learns_and_leaves_everything_that_is_promised(whole: Path) -> None:
    lines = curve(whole)
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 24 and sum(losses[8:14]) < 0.9 * sum(losses[:6])
    assert [line["update"] for line in lines if "validation" in line] == [8, 16, 24]
    assert [line["rollout"] for line in lines if "loss" in line] == [1] * 18 + [2] * 3 + [3] * 3
    assert (whole / "latest").resolve().name == LAST and (whole / "curves.png").exists()
    assert json.loads((whole / "latest" / "training.json").read_text())["config"]["name"] == "tiny"


def test_forecasts_are_made_with_the_averaged_weights(whole: Path) -> None:
    average, weights = (dict(load_forecaster(whole / "best", averaged=a).named_parameters()) for a in (True, False))
    saved = load_file(whole / "best" / "ema.safetensors")
    assert all(average[name].equal(saved[name]) for name in saved) and saved.keys() == average.keys()
    assert any(not average[name].equal(weights[name]) for name in saved)


def test_validation_scores_the_averaged_weights(whole: Path, archive: Path) -> None:
    """The last score of the curve is that of the checkpoint read back: weights, average and scores agree."""
    config = tiny.config(whole.parent, archive)
    truth, analysis = (Store.open(archive / name) for name in ("truth.zarr", "analysis.zarr"))
    validation = Validation(Dataset(config.data, config.data.validation, truth, analysis), config.training, config.seed)
    scores = [validation(load_forecaster(whole / "latest", averaged=a), torch.device("cpu")) for a in (True, False)]
    assert scores[0] == curve(whole)[-1]["validation"] != scores[1]


def test_gradients_are_clipped_and_each_update_has_its_rate(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, seen = torch.optim.AdamW.step, []

    def noted(self: torch.optim.AdamW, *arguments: Any) -> Any:
        gradients = [p.grad.norm() for group in self.param_groups for p in group["params"] if p.grad is not None]
        seen.append((float(torch.stack(gradients).norm()), {group["lr"] for group in self.param_groups}))
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", noted)
    folder = train(tiny.config(tmp_path, archive, clip_norm=0.05, stages=[{"updates": 4, "lr": 1e-3, "warmup": 3}]))
    lines = [line for line in curve(folder) if "loss" in line]
    assert all(line["gradient_norm"] > 0.05 for line in lines)  # as it was before clipping
    assert [norm for norm, _ in seen] == pytest.approx([0.05] * 4, rel=1e-3)
    assert [rates for _, rates in seen] == [{line["lr"]} for line in lines] and len({line["lr"] for line in lines}) == 3


def test_reading_ahead_changes_nothing(whole: Path, archive: Path, tmp_path: Path) -> None:
    raw = tiny.raw(tmp_path, archive)
    raw["data"]["prefetch"] = 0
    assert_same_run(train(configs.parse(raw)), whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_stops_and_the_run_goes_on(
    whole: Path, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    config = tiny.config(tmp_path, archive)
    with monkeypatch.context() as patch:
        stop_at(7, patch, number)
        with pytest.raises(ForecastError, match=f"{number.name} after update 7: saved, go on with --resume"):
            train(config)
    assert (tmp_path / "training" / "latest").resolve().name == "update-00000007"
    assert_same_run(train(config, resume=True), whole)


def test_a_torn_checkpoint_falls_back_and_what_is_finished_stays(
    whole: Path, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny.config(tmp_path, archive)
    shutil.copytree(whole, tmp_path / "training", symlinks=True)
    os.truncate(tmp_path / "training" / "latest" / "ema.safetensors", 100)
    assert_same_run(train(config, resume=True), whole)
    assert f"{LAST} is damaged (ema.safetensors has 100 of" in capsys.readouterr().err
    before = (tmp_path / "training" / "metrics.jsonl").read_bytes()
    assert_same_run(train(config, resume=True), whole)
    assert (tmp_path / "training" / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_what_is_not_finite_stops_before_the_update(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    loss, seen = Forecaster.training_loss, []

    def spoilt(self: Forecaster, batch: Batch, *rest: Any) -> dict[str, torch.Tensor]:
        terms, _ = loss(self, batch, *rest), seen.append(batch.dates)
        if len(seen) == 13:
            weight = next(self.parameters()).flatten()[0]
            # sqrt has a finite value and an infinite slope at zero
            spoil = torch.sqrt(weight - weight.detach()) if where == "gradient" else weight * float("nan")
            terms["loss"] = terms["loss"] + spoil
        return terms

    step, steps = torch.optim.AdamW.step, []
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: steps.append(1) or step(self))
    monkeypatch.setattr(Forecaster, "training_loss", spoilt)
    with pytest.raises(ForecastError, match=r"update 13: .*gradient_norm not finite \(windows from 2001-") as error:
        train(tiny.config(tmp_path, archive))
    assert ("loss" in str(error.value).split("not finite")[0]) == (where == "loss")
    assert len(steps) == 12
    folder = tmp_path / "training"
    assert (folder / "latest").resolve().name == "update-00000010"
    assert all(torch.isfinite(t).all() for t in tensors(folder / "latest").values())
    assert max(line["update"] for line in curve(folder)) == 12


def test_checkpoints_are_not_overwritten(whole: Path, archive: Path) -> None:
    before = (whole / "metrics.jsonl").read_bytes()
    with pytest.raises(ForecastError, match="go on with --resume, or train elsewhere with --out"):
        train(tiny.config(whole.parent, archive))
    assert (whole / "metrics.jsonl").read_bytes() == before


def test_resume_with_nothing_there_begins(whole: Path, archive: Path, tmp_path: Path) -> None:
    assert_same_run(train(tiny.config(tmp_path, archive), resume=True), whole)


def test_resume_refuses_a_changed_config_and_names_the_keys(whole: Path, archive: Path) -> None:
    raw = tiny.raw(whole.parent, archive, batch_size=4)
    raw["data"]["normalisation"] = {"tp": "none", "lsm": "none"}
    raw["seed"] = 9
    with pytest.raises(
        ForecastError, match="data.normalisation.tp .was std, now none.; seed .was 1, now 9.; .*batch_size"
    ):
        train(configs.parse(raw), resume=True)
    stages = [{"updates": 12, "lr": 3e-3}, *tiny.raw(whole)["training"]["stages"][1:]]
    with pytest.raises(ForecastError, match=r"training.stages \(within the 24 updates"):
        train(tiny.config(whole.parent, archive, stages=stages), resume=True)


def test_a_checkpoint_older_than_a_key_resumes_with_its_default(whole: Path, archive: Path) -> None:
    config = tiny.config(whole.parent, archive)
    saved = json.loads((whole / "latest" / "training.json").read_text())["config"]
    del saved["training"]["ema"], saved["model"]["noise_channels"]
    check_unchanged(config, saved, done=24)
    with pytest.raises(ForecastError, match="training.ema .was 0.999, now 0.9."):
        check_unchanged(tiny.config(whole.parent, archive, ema=0.9), saved, done=24)


def test_resume_refuses_a_changed_store(whole: Path, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    statistics = Store.statistics.func  # type: ignore[attr-defined]
    other = property(lambda self: {kind: values + 1 for kind, values in statistics(self).items()})
    monkeypatch.setattr(Store, "statistics", other)
    with pytest.raises(ForecastError, match="the store has changed"):
        train(tiny.config(whole.parent, archive), resume=True)


def test_a_finished_run_can_be_made_longer(whole: Path, archive: Path, tmp_path: Path) -> None:
    first = tiny.raw(tmp_path)["training"]["stages"]
    more = [*first, {"updates": 4, "rollout": 2, "lr": 1e-4}]
    shutil.copytree(whole, tmp_path / "training", symlinks=True)
    folder = train(tiny.config(tmp_path, archive, stages=more, device="auto"), resume=True)
    assert [line["update"] for line in curve(folder) if "loss" in line] == list(range(1, 29))


def test_a_run_starts_from_the_weights_of_another(
    whole: Path, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = tiny.raw(tmp_path, archive, start_from=str(whole / "best"), stages=[{"updates": 1, "lr": 1e-12}], ema=0)
    raw["data"] |= {"diagnostic": [], "normalisation": {"lsm": "none"}}
    folder = train(configs.parse(raw))
    assert "; left fresh: network.decoder.head.weight, network.decoder.head.bias" in capsys.readouterr().err
    old, new = load_file(whole / "best" / "ema.safetensors"), load_file(folder / "latest" / "model.safetensors")
    for name, weight in new.items():
        if "decoder.head" not in name:
            torch.testing.assert_close(weight, old[name], rtol=0, atol=1e-11)  # one update of 1e-12


def test_start_from_something_else_is_refused(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(ForecastError, match="holds no checkpoint"):
        train(tiny.config(tmp_path, archive, start_from=str(tmp_path)))


def test_a_rollout_longer_than_the_data_is_refused_before_training(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(ForecastError, match="no 59 states 6h apart without a gap"):
        train(tiny.config(tmp_path, archive, stages=[{"updates": 9, "rollout": [1, 200], "lr": 1e-3}]))


def test_cuda_without_cuda_is_an_error_and_auto_says_what_it_took(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("CUDA is there")
    with pytest.raises(ForecastError, match="training.device is cuda, but torch sees no CUDA device"):
        parallelize.device("cuda")
    assert parallelize.device("auto").type == "cpu"
    assert "training on cpu" in capsys.readouterr().err


def test_bfloat16_keeps_the_loss_in_float32(whole: Path, archive: Path, tmp_path: Path) -> None:
    folder = train(tiny.config(tmp_path, archive, precision="bfloat16"))
    full, half = ([line["loss"] for line in curve(run) if "loss" in line] for run in (whole, folder))
    assert half[0] == pytest.approx(full[0], rel=1e-2) and half != full
    assert all(t.dtype == torch.float32 for t in tensors(folder / "latest").values())


@pytest.mark.slow
def test_a_compiled_network_learns_the_same(archive: Path, tmp_path: Path) -> None:
    """Fused kernels add in another order; four updates of 1e-3 let that grow little."""
    stages = [{"updates": 4, "rollout": [1, 2], "lr": 1e-3}]
    runs = [train(tiny.config(tmp_path / str(c), archive, stages=stages, compile=c)) for c in (False, True)]
    plain, compiled = ([line["loss"] for line in curve(run) if "loss" in line] for run in runs)
    assert compiled == pytest.approx(plain, rel=1e-4)
    assert tensors(runs[0] / "latest").keys() == tensors(runs[1] / "latest").keys()
