"""Checkpoint folders: whole or not there, damaged ones passed over, old ones removed."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from forecast.core.errors import ForecastError
from forecast.training.checkpoint import Checkpoints


def fill(text: str):  # noqa: ANN201
    def write(folder: Path) -> None:
        (folder / "weights").write_text(text * 100)
        (folder / "counters").write_text(text)

    return write


def held(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_kept_are_the_newest_two_and_the_best(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for update in (5, 10, 15, 20):
        checkpoints.save(update, fill(str(update)), best=update == 5)
    assert held(tmp_path) == ["best", "latest", "update-00000005", "update-00000015", "update-00000020"]
    assert (tmp_path / "latest" / "counters").read_text() == "20"
    assert (tmp_path / "best" / "counters").read_text() == "5"


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "training")
    assert checkpoints.find(resume=False) is None and checkpoints.find(resume=True) is None
    checkpoints.save(5, fill("a"))
    with pytest.raises(ForecastError, match="go on with --resume, or train elsewhere with --out"):
        checkpoints.find(resume=False)
    assert checkpoints.find(resume=True) == tmp_path / "training" / "update-00000005"


@pytest.mark.parametrize("damage", ["cut", "changed", "gone", "no manifest", "torn manifest"])
def test_a_damaged_checkpoint_is_passed_over_with_a_message(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(5, fill("a"))
    newest = checkpoints.save(10, fill("b"))
    weights, manifest = newest / "weights", newest / "files.json"
    if damage == "cut":
        os.truncate(weights, 50)
    elif damage == "changed":
        weights.write_text("c" * 100)
    elif damage == "gone":
        weights.unlink()
    elif damage == "no manifest":
        manifest.unlink()
    else:
        os.truncate(manifest, 30)
    assert checkpoints.find(resume=True) == tmp_path / "update-00000005"
    message = capsys.readouterr().err
    assert "update-00000010 is damaged (" in message and "falling back to the one before" in message
    checkpoints.save(10, fill("b"))  # training gets there again
    assert checkpoints.find(resume=True) == newest


def test_all_damaged_is_an_error(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    (checkpoints.save(5, fill("a")) / "weights").unlink()
    with pytest.raises(ForecastError, match="every checkpoint in .* is damaged"):
        checkpoints.find(resume=True)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_a_full_disk_leaves_the_earlier_checkpoints(tmp_path: Path, code: int) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(5, fill("a"))

    def fail(folder: Path) -> None:
        (folder / "weights").write_text("half")
        raise OSError(code, os.strerror(code))

    with pytest.raises(ForecastError, match="can't write checkpoint .*; the one before is untouched"):
        checkpoints.save(10, fail)
    assert checkpoints.find(resume=True) == tmp_path / "update-00000005"
    assert (tmp_path / "latest").resolve().name == "update-00000005"
    checkpoints.save(10, fill("b"))
    assert held(tmp_path) == ["latest", "update-00000005", "update-00000010"]


def test_links_are_restored_after_a_kill_between_checkpoint_and_links(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(5, fill("a"), best=True)
    checkpoints.save(10, fill("b"))
    (tmp_path / "latest").unlink()
    (tmp_path / "best").unlink()
    checkpoints.restore_links(tmp_path / "update-00000010", best_update=5)
    assert (tmp_path / "latest").resolve().name == "update-00000010"
    assert (tmp_path / "best").resolve().name == "update-00000005"


def test_a_best_that_is_gone_is_replaced_by_what_is_there(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(5, fill("a"))
    damaged = checkpoints.save(10, fill("b"), best=True)
    (damaged / "weights").unlink()
    checkpoints.restore_links(tmp_path / "update-00000005", best_update=3)
    assert (tmp_path / "best").resolve().name == "update-00000005"
