"""The exchange between the runs of a population, on disk: decided once, then done, however often it is stopped."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from forecast.core import seeding
from forecast.core.progress import console
from forecast.core.technique_sections import Population
from forecast.training.checkpoint import Checkpoints
from forecast.training.techniques.population import exchanged, explored

_COUNTERS, _MANIFEST = "training.json", "files.json"


def exchange(seed: int, section: Population, folders: Sequence[Path], number: int, log: Path) -> None:
    """Exchange `number`, counted from 0, of runs trained into `folders`; written to `log` before anything is copied."""
    done: list[dict[str, Any]] = json.loads(log.read_text()) if log.exists() else []
    if len(done) == number:
        done.append(_decide(seeding.key(seed, "population", number), section, [_notes(folder) for folder in folders]))
        log.parent.mkdir(parents=True, exist_ok=True)
        log.with_suffix(".partial").write_text(json.dumps(done, indent=1) + "\n")
        os.replace(log.with_suffix(".partial"), log)
    for loser, winner in done[number]["became"].items():
        if _notes(folders[int(loser)])["exchanges"] <= number:
            console.print(f"run {loser} becomes a varied copy of run {winner}")
            notes = {"values": done[number]["values"][int(loser)], "exchanges": number + 1}
            _copy(folders[winner], folders[int(loser)], notes)


def _decide(key: int, section: Population, notes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    scores, values = [note.get("score") for note in notes], [note["values"] for note in notes]
    became = exchanged(scores, section.share, key)
    for i, j in became.items():
        values[i] = explored(values[j], section.factors, seeding.key(key, "explore", i))
    return {"scores": scores, "became": {str(i): j for i, j in became.items()}, "values": values}


def _copy(winner: Path, loser: Path, notes: dict[str, Any]) -> None:
    """The winner's weights, averages and optimiser with the loser's counters, in place of the loser's checkpoint."""
    source, target = (winner / "latest").resolve(), (loser / "latest").resolve()
    counters = json.loads((target / _COUNTERS).read_text())
    counters["techniques"] = json.loads((source / _COUNTERS).read_text())["techniques"]
    counters["techniques"]["population"] |= notes
    text = (json.dumps(counters, indent=1, allow_nan=False) + "\n").encode()
    manifest = json.loads((source / _MANIFEST).read_text()) | {_COUNTERS: [len(text), zlib.crc32(text)]}
    partial = target.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial)
    (partial / _COUNTERS).write_bytes(text)
    (partial / _MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    shutil.rmtree(target)
    partial.rename(target)
    Checkpoints(loser).restore_links(target, counters["best_update"])


def _notes(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "latest" / _COUNTERS).read_text())["techniques"]["population"])
