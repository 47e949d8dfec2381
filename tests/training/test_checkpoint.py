"""Checkpoint folders: whole or not there, damaged ones passed over, old ones removed."""

from __future__ import annotations

import errno
import json
import os
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from forecast.core.errors import ForecastError
from forecast.core.sections import KeepSection
from forecast.training.checkpoint import Checkpoints
from forecast.training.storage import Reader


def saved(checkpoints: Checkpoints, update: int, text: str, best: bool = False) -> Path:
    """A checkpoint of a tensor and a file that hold `text`."""
    tensors = {"model/x": torch.tensor([ord(letter) for letter in text] * 100)}
    path = checkpoints.save(update, tensors, lambda folder: (folder / "counters").write_text(text), best)
    checkpoints.wait()
    return path


def held(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_kept_are_the_newest_two_and_the_best(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for update in (5, 10, 15, 20):
        saved(checkpoints, update, str(update), best=update == 5)
    assert held(tmp_path) == ["best", "latest", "update-00000005", "update-00000015", "update-00000020"]
    assert (tmp_path / "latest" / "counters").read_text() == "20"
    assert (tmp_path / "best" / "counters").read_text() == "5"


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "training")
    assert checkpoints.find(resume=False) is None and checkpoints.find(resume=True) is None
    saved(checkpoints, 5, "a")
    with pytest.raises(ForecastError, match="go on with --resume, or train elsewhere with --out"):
        checkpoints.find(resume=False)
    assert checkpoints.find(resume=True) == tmp_path / "training" / "update-00000005"


@pytest.mark.parametrize("damage", ["cut", "changed", "gone", "no manifest", "torn manifest"])
def test_a_damaged_checkpoint_is_passed_over_with_a_message(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = Checkpoints(tmp_path)
    saved(checkpoints, 5, "a")
    newest = saved(checkpoints, 10, "b")
    weights, manifest = newest / "model.safetensors", newest / "files.json"
    if damage == "cut":
        os.truncate(weights, 50)
    elif damage == "changed":
        weights.write_bytes(weights.read_bytes()[:-1] + b"c")
    elif damage == "gone":
        weights.unlink()
    elif damage == "no manifest":
        manifest.unlink()
    else:
        os.truncate(manifest, 30)
    assert checkpoints.find(resume=True) == tmp_path / "update-00000005"
    message = capsys.readouterr().err
    assert "update-00000010 is damaged (" in message and "falling back to the one before" in message
    saved(checkpoints, 10, "b")  # training gets there again
    assert checkpoints.find(resume=True) == newest


def test_all_damaged_is_an_error(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    (saved(checkpoints, 5, "a") / "model.safetensors").unlink()
    with pytest.raises(ForecastError, match="every checkpoint in .* is damaged"):
        checkpoints.find(resume=True)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_a_full_disk_leaves_the_earlier_checkpoints(tmp_path: Path, code: int) -> None:
    checkpoints = Checkpoints(tmp_path)
    saved(checkpoints, 5, "a")

    def fail(folder: Path) -> None:
        (folder / "counters").write_text("half")
        raise OSError(code, os.strerror(code))

    checkpoints.save(10, {"model/x": torch.ones(3)}, fail)
    with pytest.raises(ForecastError, match="can't write checkpoint .*; the one before is untouched"):
        checkpoints.wait()
    assert checkpoints.find(resume=True) == tmp_path / "update-00000005"
    assert (tmp_path / "latest").resolve().name == "update-00000005"
    saved(checkpoints, 10, "b")
    assert held(tmp_path) == ["latest", "update-00000005", "update-00000010"]


def test_links_are_restored_after_a_kill_between_checkpoint_and_links(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    saved(checkpoints, 5, "a", best=True)
    saved(checkpoints, 10, "b")
    (tmp_path / "latest").unlink()
    (tmp_path / "best").unlink()
    checkpoints.restore_links(tmp_path / "update-00000010", best_update=5)
    assert (tmp_path / "latest").resolve().name == "update-00000010"
    assert (tmp_path / "best").resolve().name == "update-00000005"


def test_a_best_that_is_gone_is_replaced_by_what_is_there(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    saved(checkpoints, 5, "a")
    damaged = saved(checkpoints, 10, "b", best=True)
    (damaged / "model.safetensors").unlink()
    checkpoints.restore_links(tmp_path / "update-00000005", best_update=3)
    assert (tmp_path / "best").resolve().name == "update-00000005"


def test_old_ones_go_by_rule(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, KeepSection(last=3, every=20))
    for update in range(5, 61, 5):
        saved(checkpoints, update, "a", best=update == 25)
    assert held(tmp_path) == ["best", "latest", *(f"update-{kept:08d}" for kept in (20, 25, 40, 50, 55, 60))]


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path: Path) -> None:
    """What is written is the state at the time of saving, however long the disk takes."""
    checkpoints, weight, go_on = Checkpoints(tmp_path), torch.zeros(3), threading.Event()
    path = checkpoints.save(5, {"model/x": weight}, lambda folder: go_on.wait(10) and None)
    weight += 1.0
    assert not path.exists() and not checkpoints.failed
    go_on.set()
    checkpoints.wait()
    assert torch.equal(load_file(path / "model.safetensors")["x"], torch.zeros(3))


def test_files_hold_no_pickles_and_pieces_must_be_there_and_of_one_version(tmp_path: Path) -> None:
    save_file({"x": torch.ones(2, 3)}, tmp_path / "optimizer-00001-of-00002.safetensors", header("1", [[0, 0], [4, 3]]))
    with pytest.raises(ForecastError, match="pieces of `optimizer/x` are missing; use another checkpoint"):
        Reader(tmp_path)
    save_file({"x": torch.ones(2, 3)}, tmp_path / "optimizer-00002-of-00002.safetensors", header("2", [[2, 0], [4, 3]]))
    with pytest.raises(ForecastError, match=r"several versions of forecast, 1 \(optimizer-00001-.* and 2 \(optimizer"):
        Reader(tmp_path)
    whole = saved(Checkpoints(tmp_path / "other"), 5, "a")
    assert sorted(path.suffix for path in whole.iterdir()) == ["", ".json", ".safetensors"]


def header(version: str, piece: list[list[int]]) -> dict[str, str]:
    return {"forecast": version, "pieces": json.dumps({"x": piece})}
