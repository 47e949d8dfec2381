"""Checkpoints that survive a kill at any moment: numbered folders, `latest` and `best` pointing at two of them."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from forecast.core.errors import ForecastError
from forecast.core.progress import console

_MANIFEST = "files.json"
_COUNTERS = "training.json"
_MOMENTS = "optimizer.safetensors"


class Checkpoints:
    """The checkpoints in `folder`: `update-00000100/` and so on, `latest` and `best`.

    A checkpoint is written beside its place, flushed to disk and renamed, with a manifest of sizes and checksums, so
    that a folder of that name is whole unless something else damaged it. Kept are the newest two and the best.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, update: int, write: Callable[[Path], None], best: bool = False) -> Path:
        """Let `write` fill a folder, publish it as the checkpoint after `update` updates; returns its path.

        Raises:
            ForecastError: the disk is full or the folder can't be written; earlier checkpoints stay as they are.
        """
        target = self.folder / f"update-{update:08d}"
        partial = target.with_suffix(".partial")
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            write(partial)
            manifest = {path.name: _fingerprint(path) for path in sorted(partial.iterdir())}
            _write_json(partial / _MANIFEST, manifest)
            for path in [*partial.iterdir(), partial]:
                _sync(path)
            shutil.rmtree(target, ignore_errors=True)  # only a damaged one can be in the way
            partial.rename(target)
            _sync(self.folder)
            self._link("latest", target)
            if best:
                self._link("best", target)
        except (OSError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ForecastError(f"can't write checkpoint {target}: {reason}; the one before is untouched") from error
        self._prune()
        return target

    def find(self, resume: bool) -> Path | None:
        """The newest whole checkpoint to go on from, or None to begin; says which damaged ones it passes over.

        Raises:
            ForecastError: there are checkpoints but none is to be resumed, or all of them are damaged.
        """
        there = sorted(self.folder.glob("update-????????"), reverse=True)
        if there and not resume:
            raise ForecastError(f"{self.folder} holds checkpoints: go on with --resume, or train elsewhere with --out")
        for path in there:
            fault = _fault(path)
            if fault is None:
                return path
            console.print(f"checkpoint {path} is damaged ({fault}): falling back to the one before")
        if there:
            raise ForecastError(f"every checkpoint in {self.folder} is damaged: train anew with another --out")
        return None

    def restore_links(self, newest: Path, best_update: int | None) -> None:
        """Point `latest` at `newest` and `best` at its best: a kill may have come between checkpoint and links."""
        self._link("latest", newest)
        best = self.folder / f"update-{best_update or 0:08d}"
        if best.is_dir():
            self._link("best", best)
        elif best_update is not None:  # removed in favour of one that was damaged since
            self._link("best", newest)

    def _link(self, name: str, target: Path) -> None:
        fresh = self.folder / f"{name}.partial"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(target.name)
        os.replace(fresh, self.folder / name)

    def _prune(self) -> None:
        kept = sorted(self.folder.glob("update-????????"))[-2:]
        kept += [(self.folder / name).resolve() for name in ("latest", "best")]
        names = {path.name for path in kept}
        for path in self.folder.glob("update-*"):
            if path.name not in names:
                shutil.rmtree(path, ignore_errors=True)


def write_state(folder: Path, counters: dict[str, Any], moments: dict[str, Tensor]) -> None:
    """What training needs besides the forecaster: counters (JSON) and the optimiser's tensors."""
    _write_json(folder / _COUNTERS, counters)
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in moments.items()}, folder / _MOMENTS)


def read_state(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Counters and optimiser tensors of a checkpoint."""
    return json.loads((folder / _COUNTERS).read_text()), load_file(folder / _MOMENTS)


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")


def _fingerprint(path: Path) -> list[int]:
    """Size and CRC-32 of a file."""
    crc, size = 0, 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            crc, size = zlib.crc32(block, crc), size + len(block)
    return [size, crc]


def _fault(folder: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_text())
        for name, expected in manifest.items():
            size, crc = _fingerprint(folder / name)
            if size != expected[0]:
                return f"{name} has {size} of {expected[0]} bytes"
            if crc != expected[1]:
                return f"{name} has changed since it was written"
    except (OSError, ValueError) as error:
        return f"{getattr(error, 'filename', None) or _MANIFEST} is missing or unreadable"
    return None


def _sync(path: Path) -> None:
    """Flush a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
