"""Training under torchrun, on this host or in network namespaces."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from forecast.core.config import Config
from forecast.training.resume import plain

ROOT = Path(__file__).parents[2]


def torchrun(
    config: Config,
    *options: str,
    within: tuple[str, ...] = (),
    log: str = "log",
    resume: bool = False,
    **environment: str,
) -> subprocess.Popen[bytes]:
    """Start `forecast train` of a config under torchrun; what it prints goes to a file in its root."""
    root = Path(config.root)
    root.mkdir(parents=True, exist_ok=True)
    (root / "run.yaml").write_text(json.dumps(plain(config)))
    given = {name: value for name, value in os.environ.items() if not name.startswith(("RANK", "WORLD_SIZE", "MASTER"))}
    given |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", *options, "-m", "forecast.cli", "train", "run.yaml"]
    command += ["--resume"] if resume else []
    with (root / log).open("wb") as file:
        return subprocess.Popen([*within, *command], cwd=root, env=given | environment, stdout=file, stderr=file)


def workers(launcher: subprocess.Popen[bytes]) -> list[int]:
    """Process ids of the ranks that a torchrun has started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rpartition(")")[2].split()[1]) == launcher.pid:
                found.append(int(stat.parent.name))
        except (OSError, ValueError):
            continue
    return sorted(found)


def wait_for_update(
    config: Config, update: int, launchers: Sequence[subprocess.Popen[bytes]], seconds: float = 200
) -> None:
    """Return once so many updates are recorded; what was launched must not end before."""
    metrics, until = Path(config.root) / "training" / "metrics.jsonl", time.monotonic() + seconds
    while not metrics.exists() or metrics.read_bytes().count(b'"loss"') < update:
        if time.monotonic() > until or any(launcher.poll() is not None for launcher in launchers):
            raise AssertionError("".join(log.read_text()[-3000:] for log in Path(config.root).glob("*log")))
        time.sleep(0.005)
