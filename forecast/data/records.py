"""What is known of finished slabs: a small file each while a store is written, one file for all within a store."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from forecast.data.statistics import Moments

if TYPE_CHECKING:
    from forecast.data.slabs import SlabWriter


@dataclass(frozen=True, eq=False)
class Record:
    """What is known of a finished slab, or of the border between two.

    Attributes:
        key: tells what was written (`Layout.slab_key`, `SlabWriter.border_key`).
        present: (t,) bool, dates that hold a state.
        moments: of the states (`states`) and of the tendencies, by their step.
    """

    key: str
    present: np.ndarray
    moments: dict[str, Moments]


def save(path: Path, record: Record) -> None:
    """Write a record, whole or not at all."""
    temporary = path.with_suffix(f".{uuid.uuid4().hex[:8]}.tmp")
    arrays = {name: part.array() for name, part in record.moments.items()}
    try:
        with temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, present=record.present, key=np.array(record.key), **arrays)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def load(path: Path) -> Record:
    """A record as written."""
    with np.load(path, allow_pickle=False) as file:
        names = [name for name in file.files if name not in ("present", "key")]
        return Record(str(file["key"]), file["present"], {name: Moments(*file[name]) for name in names})


def key_of(path: Path) -> str | None:
    """The key of a record; None where there is none, or a torn one."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return str(file["key"])
    except (OSError, ValueError, KeyError, EOFError):
        return None


@dataclass(frozen=True, eq=False)
class Kept:
    """The records of a finished store.

    Attributes:
        keys: (n,) of the slabs; border_keys: (n - 1,) of the borders, none where there are no tendencies.
        present: (T,) bool; counts: (n,) dates of each slab.
        slabs, borders: name -> (n, 5, V) and (n - 1, 5, V) moments.
    """

    keys: list[str]
    border_keys: list[str]
    present: np.ndarray
    counts: np.ndarray
    slabs: dict[str, np.ndarray]
    borders: dict[str, np.ndarray]

    @classmethod
    def of(cls, writer: SlabWriter, keys: Sequence[str], slabs: list[Record], borders: list[Record]) -> Kept:
        """All records of a store; the keys are those of the slabs, however they came about."""

        def stacked(records: list[Record]) -> dict[str, np.ndarray]:
            names = records[0].moments if records else ()
            return {name: np.stack([record.moments[name].array() for record in records]) for name in names}

        border_keys = [writer.border_key(k, keys) for k in range(1, len(keys))] if borders else []
        present = np.concatenate([record.present for record in slabs])
        counts = np.array([len(record.present) for record in slabs])
        return cls(list(keys), border_keys, present, counts, stacked(slabs), stacked(borders))

    @classmethod
    def read(cls, path: Path) -> Kept:
        """As `write` left it."""
        with np.load(path, allow_pickle=False) as file:
            parts = {name: file[name] for name in file.files}
        slabs = {name[5:]: array for name, array in parts.items() if name.startswith("slab_")}
        borders = {name[7:]: array for name, array in parts.items() if name.startswith("border_")}
        keys, border_keys = parts["keys"].tolist(), parts["keys_of_borders"].tolist()
        return cls(keys, border_keys, parts["present"], parts["counts"], slabs, borders)

    def write(self, path: Path) -> None:
        """One file of all."""
        slabs = {f"slab_{name}": array for name, array in self.slabs.items()}
        borders = {f"border_{name}": array for name, array in self.borders.items()}
        arrays = {"keys": np.array(self.keys), "keys_of_borders": np.array(self.border_keys, dtype="U32")}
        with path.open("wb") as file:
            np.savez(file, allow_pickle=False, present=self.present, counts=self.counts, **arrays, **slabs, **borders)

    def restore_slab(self, slab: int, path: Path) -> None:
        """The record of one slab as a file again."""
        end = int(self.counts[: slab + 1].sum())
        present = self.present[end - int(self.counts[slab]) : end]
        save(path, Record(self.keys[slab], present, {name: Moments(*part[slab]) for name, part in self.slabs.items()}))

    def restore_border(self, slab: int, path: Path) -> None:
        """The record of the border before a slab as a file again."""
        moments = {name: Moments(*part[slab - 1]) for name, part in self.borders.items()}
        save(path, Record(self.border_keys[slab - 1], np.empty(0, bool), moments))
