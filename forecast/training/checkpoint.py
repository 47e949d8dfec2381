"""Checkpoints that survive a kill at any moment: numbered folders, `latest` and `best` pointing at two of them."""

from __future__ import annotations

import json
import os
import shutil
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.staging import BlockingAsyncStager

from forecast.core.errors import ForecastError
from forecast.core.progress import console
from forecast.core.sections import KeepSection
from forecast.training.mesh import patience
from forecast.training.storage import Manifest, Writer, fingerprint, sync

_MANIFEST = "files.json"
_COUNTERS = "training.json"


class Checkpoints:
    """The checkpoints in `folder`: `update-00000100/` and so on, `latest` and `best`.

    Tensors are copied, then written by a thread, each rank its part, beside their place; with a manifest of sizes and
    checksums the whole is flushed to disk and renamed. So a folder of that name is whole unless something else damaged
    it. On several ranks all call the same methods at the same update.
    """

    def __init__(self, folder: Path, keep: KeepSection | None = None) -> None:
        self.folder, self.keep = folder, keep or KeepSection()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[float] | None = None
        self._group: dist.ProcessGroup | None = None
        self.seconds = 0.0
        """what the slowest write took"""

    def save(
        self, update: int, tensors: dict[str, Tensor], describe: Callable[[Path], None], best: bool = False
    ) -> Path:
        """Begin to write the checkpoint after `update` updates; returns the path that it will have.

        Args:
            tensors: `<group>/<name>` -> tensor; copied before this returns.
            describe: writes what is no tensor into a folder; called later, on the first rank only.

        Raises:
            ForecastError: the write before this one failed.
        """
        self.wait()
        if dist.is_initialized() and self._group is None:  # its messages must not mix with those of training
            self._group = dist.new_group(backend="gloo", timeout=patience())
        staged = BlockingAsyncStager().stage(tensors)
        target = self.folder / f"update-{update:08d}"
        self._writing = self._thread.submit(self._write, target, staged, describe, best)
        return target

    @property
    def failed(self) -> bool:
        """Whether the last write has come to a bad end by now, which `wait` raises."""
        writing = self._writing
        return writing is not None and writing.done() and writing.exception() is not None

    def wait(self) -> None:
        """Let the last write come to its end.

        Raises:
            ForecastError: it failed: the disk is full, the folder can't be written; earlier checkpoints stay.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            self.seconds = max(self.seconds, writing.result())

    def close(self) -> None:
        """Let the last write come to its end, good or bad, and let go of the processes."""
        if self._writing is not None:
            wait([self._writing])
        self._group = None

    def _write(self, target: Path, tensors: dict[str, Tensor], describe: Callable[[Path], None], best: bool) -> float:
        began, partial = time.monotonic(), target.with_suffix(".partial")

        def prepare() -> None:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)

        def finish(manifest: Manifest) -> None:
            describe(partial)
            self._publish(partial, target, manifest, best)

        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="torch.distributed is disabled")
                dcp.save(tensors, storage_writer=Writer(partial, prepare, finish), process_group=self._group)
        except CheckpointException as error:
            rank, (cause, _) = min(error.failures.items())
            if not isinstance(cause, OSError | SafetensorError):
                raise cause from error
            where = f" (rank {rank})" if dist.is_initialized() else ""
            reason = getattr(cause, "strerror", None) or cause
            raise ForecastError(
                f"can't write checkpoint {target}: {reason}{where}; the one before is untouched"
            ) from cause
        return time.monotonic() - began

    def _publish(self, partial: Path, target: Path, manifest: Manifest, best: bool) -> None:
        for path in set(partial.iterdir()) - {partial / name for name in manifest}:
            manifest[path.name] = fingerprint(path)
            sync(path)
        write_json(partial / _MANIFEST, dict(sorted(manifest.items())))
        sync(partial / _MANIFEST)
        sync(partial)
        shutil.rmtree(target, ignore_errors=True)  # only a damaged one can be in the way
        partial.rename(target)
        sync(self.folder)
        self._link("latest", target)
        if best:
            self._link("best", target)
        self._prune()

    def find(self, resume: bool) -> Path | None:
        """The newest whole checkpoint to go on from, or None to begin; says which damaged ones it passes over.

        Raises:
            ForecastError: there are checkpoints but none is to be resumed, or all of them are damaged.
        """
        there = self._all()[::-1]
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

    def note(self, reason: str) -> None:
        """Leave a file `stopped`, which tells scripts why a run is not at its end; without a reason take it away."""
        mark = self.folder / "stopped"
        if reason:
            mark.write_text(reason + "\n")
        else:
            mark.unlink(missing_ok=True)

    def _all(self) -> list[Path]:
        return sorted(self.folder.glob("update-????????"))

    def _link(self, name: str, target: Path) -> None:
        fresh = self.folder / f"{name}.partial"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(target.name)
        os.replace(fresh, self.folder / name)

    def _prune(self) -> None:
        there = self._all()
        kept = there[-self.keep.last :]
        kept += [path for path in there if self.keep.every and _update(path) % self.keep.every == 0]
        kept += [(self.folder / name).resolve() for name in ("latest", "best")]
        names = {path.name for path in kept}
        for path in self.folder.glob("update-*"):
            if path.name not in names:
                shutil.rmtree(path, ignore_errors=True)


def write_counters(folder: Path, counters: dict[str, Any]) -> None:
    """What training needs besides tensors."""
    write_json(folder / _COUNTERS, counters)


def read_counters(folder: Path) -> dict[str, Any]:
    """What `write_counters` wrote."""
    counters: dict[str, Any] = json.loads((folder / _COUNTERS).read_text())
    return counters


def write_json(path: Path, content: Any) -> None:
    """Content as JSON for people to read as well."""
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")


def _update(path: Path) -> int:
    return int(path.name.removeprefix("update-"))


def _fault(folder: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_text())
        for name, expected in manifest.items():
            size, crc = fingerprint(folder / name)
            if size != expected[0]:
                return f"{name} has {size} of {expected[0]} bytes"
            if crc != expected[1]:
                return f"{name} has changed since it was written"
    except (OSError, ValueError) as error:
        return f"{getattr(error, 'filename', None) or _MANIFEST} is missing or unreadable"
    return None
