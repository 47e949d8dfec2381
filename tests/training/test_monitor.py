"""What a run leaves to look at: metrics, curves, TensorBoard."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from forecast.core.errors import ForecastError
from forecast.training.curves import plot
from forecast.training.monitor import Monitor

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
    monitor._file.close()
    monitor._file = open("/dev/full", "wb")  # noqa: SIM115
    with pytest.raises(ForecastError, match="can't write .*: No space left on device; make room and resume"):
        monitor.update(1, values(1))


def test_curves_that_cannot_be_written_do_not_stop_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("forecast.training.monitor.plot", full)
    Monitor(tmp_path).draw()
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
