"""What a run leaves to look at: metrics, curves, TensorBoard."""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from forecast.core.errors import ForecastError
from forecast.training.curves import plot
from forecast.training.mesh import Mesh
from forecast.training.monitor import Monitor
from forecast.training.sinks import Jsonl
from forecast.training.watch import Watch

SCORES: dict[str, Any] = {"score": 0.5, "fair_crps": {"z_500": [0.4, 0.6]}, "spread_skill": {"z_500": [0.9, None]}}


def values(update: int) -> dict[str, float]:
    return {"loss": 1.0 / update, "lr": 1e-3, "rollout": 1, "gradient_norm": 2.0}


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_line_for_each_update_and_validation(tmp_path: Path) -> None:
    monitor = Monitor(tmp_path)
    with monitor.running(3):
        for update in (1, 2, 3):
            monitor.update(update, values(update))
        monitor.validation(3, SCORES)
    got = lines(tmp_path)
    assert [line["update"] for line in got] == [1, 2, 3, 3]
    assert got[1]["loss"] == 0.5 and got[1]["seconds"] >= 0 and got[3]["validation"] == SCORES
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_lines_past_the_checkpoint_are_cut_off(tmp_path: Path) -> None:
    first = Monitor(tmp_path)
    with first.running(9):
        first.update(1, values(1))
        first.update(2, values(2))
        kept, seconds = first.sync(), 40.0
        first.update(3, {**values(3), "loss": 99.0})
    second = Monitor(tmp_path, done=2, kept=kept, seconds=seconds)
    with second.running(9):
        second.update(3, values(3))
        assert second.sync() == (tmp_path / "metrics.jsonl").stat().st_size
    got = lines(tmp_path)
    assert [line["update"] for line in got] == [1, 2, 3]
    assert got[2]["loss"] == pytest.approx(1 / 3) and got[2]["seconds"] >= 40.0


def test_a_file_shorter_than_the_checkpoint_says_is_not_padded(tmp_path: Path) -> None:
    monitor = Monitor(tmp_path, done=5, kept=1000)
    with monitor.running(9):
        monitor.update(6, values(6))
    assert [line["update"] for line in lines(tmp_path)] == [6]


def test_scores_that_are_not_finite_are_no_obstacle(tmp_path: Path) -> None:
    monitor = Monitor(tmp_path)
    with monitor.running(1):
        monitor.update(1, values(1))
        monitor.validation(1, {"score": None, "fair_crps": {"z_500": [None]}, "spread_skill": {"z_500": [None]}})
    assert lines(tmp_path)[1]["validation"]["score"] is None


def test_two_processes_do_not_train_into_one_folder(tmp_path: Path) -> None:
    monitor = Monitor(tmp_path)
    with monitor.running(2):
        monitor.update(1, values(1))
        with pytest.raises(ForecastError, match="another process trains into"):
            Monitor(tmp_path)
        monitor.update(2, values(2))
    assert [line["update"] for line in lines(tmp_path)] == [1, 2]


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monitor = Monitor(tmp_path)
    sink = next(sink for sink in monitor.sinks if isinstance(sink, Jsonl))
    sink._file.close()
    sink._file = open("/dev/full", "ab")  # noqa: SIM115
    with pytest.raises(ForecastError, match="can't write .*: No space left on device; make room and resume"):
        monitor.update(1, values(1))


def test_curves_that_cannot_be_written_do_not_stop_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("forecast.training.sinks.plot", full)
    Monitor(tmp_path).close()
    assert "curves not drawn: No space left on device" in capsys.readouterr().err


def test_curves_of_no_updates_and_of_many(tmp_path: Path) -> None:
    metrics, picture = tmp_path / "metrics.jsonl", tmp_path / "curves.png"
    metrics.write_text("")
    plot(metrics, picture)
    empty = picture.stat().st_size
    metrics.write_text("".join(json.dumps({"update": i, **values(i)}) + "\n" for i in range(1, 500)))
    plot(metrics, picture)
    assert picture.stat().st_size > empty > 0
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_tensorboard_gets_the_same_numbers(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monitor = Monitor(tmp_path)
    with monitor.running(2):
        monitor.update(1, values(1))
        monitor.update(2, values(2))
        monitor.validation(2, SCORES)
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("training/loss")] == [(1, 1.0), (2, 0.5)]
    assert events.Scalars("validation/score")[0].value == 0.5
    assert events.Scalars("fair_crps/z_500")[0].value == pytest.approx(0.4)


def test_mlflow_gets_the_same_numbers_in_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracking = pytest.importorskip("mlflow.tracking", reason="pip install 'forecast[mlflow]'")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "training"
    for done in (0, 2):  # the second goes on from the first
        monitor = Monitor(folder, done=done, monitors=["mlflow"], about={"name": "tiny", "training.members": 4})
        with monitor.running(4):
            for update in (done + 1, done + 2):
                monitor.update(update, values(update) | {"crps/tp > 1": 0.5})
            monitor.validation(done + 2, SCORES)
    client = tracking.MlflowClient(tracking_uri=(tmp_path / "mlruns").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    history = client.get_metric_history(run.info.run_id, "training/loss")
    assert [(m.step, m.value) for m in history] == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3)), (4, 0.25)]
    assert run.data.params["training.members"] == "4" and run.info.status == "FINISHED"
    assert {"training/crps/tp _ 1", "validation/score", "fair_crps/z_500"} <= run.data.metrics.keys()


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_a_sink_that_is_not_installed_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, {"mlflow": "mlflow.entities"}.get(name, "torch.utils.tensorboard"), None)
    with pytest.raises(ForecastError, match=f"training.monitors: {name} is not installed: pip install"):
        Monitor(tmp_path, monitors=[name])
    Monitor(tmp_path, monitors=["jsonl"]).close()  # and the folder is free again
    assert (tmp_path / "metrics.jsonl").exists()


class Four(Mesh):
    """Four ranks of which the third takes 30 ms where the others take 10."""

    size, rank, spread = 4, 0, True  # type: ignore[assignment]

    def gather(self, values: Sequence[float], device: torch.device | str = "cpu") -> np.ndarray:
        return np.array([[*values[:2], 0.03 if rank == 2 else 0.01, 1.0 + rank] for rank in range(4)])

    def host(self, rank: int) -> str:
        return f" on node{rank}"


def test_a_slow_rank_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    watch = Watch(Four(), torch.device("cpu"), samples=8)
    found = [watch.exchange(0, False) for _ in range(40)]
    reason, failed, measured = found[-1]
    assert (reason, failed) == (0, False) and measured["slowest_rank"] == 2
    assert measured["slowest_ratio"] == pytest.approx(3.0) and measured["memory_gb"] == 4.0
    said = [line for line in capsys.readouterr().err.splitlines() if "slow" in line]
    assert said == ["rank 2 on node2 is slow: it works 0.030 s on an update, 3.0 times the median of 0.010 s"]


def test_time_and_memory_of_a_lone_process() -> None:
    watch = Watch(Mesh(), torch.device("cpu"), samples=8)
    with watch.own:
        time.sleep(0.01)
    measured = watch.exchange(0, False)[2]
    assert 0 < measured["samples_per_second"] < 800 and 0.01 < measured["memory_gb"] < 50
    assert measured.keys() == {"samples_per_second", "memory_gb"}
