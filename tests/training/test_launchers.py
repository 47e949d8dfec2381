"""The scripts that start training, from a shell to the end of a run; SLURM is played by three short scripts."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from forecast.core.config import Config
from forecast.training.resume import plain
from tests import tiny
from tests.training import launched

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(sys.executable).parent
SRUN = """#!/usr/bin/env bash
shift # --kill-on-bad-exit=1
tasks=()
for task in $(seq 0 $((SLURM_NTASKS - 1))); do
    SLURM_PROCID=$task SLURM_LOCALID=$task SLURM_STEP_NUM_TASKS=$SLURM_NTASKS SLURM_STEP_NODELIST=localhost "$@" &
    tasks+=($!)
done
trap 'kill -TERM "${tasks[@]}"' TERM
code=0
for task in "${tasks[@]}"; do
    while kill -0 "$task" 2>/dev/null; do
        wait "$task" || code=$?
    done
done
exit "$code"
"""


def prepared(root: Path, updates: int) -> Config:
    tiny.stores(root)
    config = tiny.config(root, stages=[{"updates": updates, "lr": 1e-3}], validate_every=1000, validation_starts=1)
    (root / "run.yaml").write_text(json.dumps(plain(config)))
    return config


def environment(**given: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RANK", "WORLD", "MASTER"))}
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = str(probe.getsockname()[1])
    return kept | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MASTER_PORT": port} | given


def updates(root: Path) -> list[int]:
    lines = [json.loads(line) for line in (root / "training" / "metrics.jsonl").read_text().splitlines()]
    return [line["update"] for line in lines if "loss" in line]


def test_train_torchrun_trains_to_the_end(tmp_path: Path) -> None:
    prepared(tmp_path, updates=4)
    command = ["bash", str(ROOT / "scripts/train_torchrun.sh"), "run.yaml", ".", "--set", "training.mesh.grid=2"]
    given = environment(PROCESSES="2", FORECAST_BIN=str(PROGRAMS))
    done = subprocess.run(command, cwd=tmp_path, env=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert updates(tmp_path) == [1, 2, 3, 4] and "mesh of 2 processes: data 1 x ensemble 1 x grid 2" in done.stderr


@pytest.mark.slow
def test_train_slurm_stops_before_its_wall_time_is_queued_again_and_goes_on(tmp_path: Path) -> None:
    config = prepared(tmp_path, updates=120)
    fakes = tmp_path / "fakes"
    fakes.mkdir()
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "bin").symlink_to(PROGRAMS)
    for name, text in (("srun", SRUN), ("scontrol", '#!/bin/sh\necho "$@" >> queue\n')):
        (fakes / name).write_text(text)
        (fakes / name).chmod(0o755)

    def job() -> subprocess.Popen[bytes]:
        given = environment(SLURM_NTASKS="2", SLURM_JOB_ID="7", PATH=f"{fakes}:{os.environ['PATH']}")
        with (tmp_path / "log").open("wb") as log:
            command = ["bash", str(ROOT / "scripts/train_slurm.sh"), "run.yaml", "."]
            return subprocess.Popen(command, cwd=tmp_path, env=given, stdout=log, stderr=log)

    first = job()
    launched.wait_for_update(config, 5, [first])
    first.send_signal(signal.SIGUSR1)
    assert first.wait(200) == 0
    stopped = len(updates(tmp_path))
    said = (tmp_path / "log").read_text()
    assert 5 <= stopped < 120 and f"SIGTERM after update {stopped}: saved, go on with --resume" in said, said
    assert (tmp_path / "queue").read_text() == "requeue 7\n"
    assert job().wait(200) == 0, (tmp_path / "log").read_text()[-3000:]
    assert updates(tmp_path) == list(range(1, 121))
