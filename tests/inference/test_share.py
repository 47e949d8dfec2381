"""Who computes what: nothing twice, nothing left over, nothing lost with a process that dies."""

import signal
import subprocess
import time

import pytest

from forecast.inference.batch import COPIES, MOST, fitting
from forecast.inference.share import part_of_environment
from pipelines.watch import watch
from tests.inference.fakes import Fake, count_lines, fingerprint, make
from tests.inference.test_ensemble import ROOT, command, ledger


@pytest.mark.parametrize("parts", [pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow), 7])
def test_processes_share_the_items_and_do_none_twice(tmp_path, parts) -> None:
    """7 members in 3 batches from 2 starts on 2, 3 or 7 processes at once, which end as the bytes of one."""
    out = tmp_path / "f.zarr"
    subprocess.run(command(out, "--processes", parts, "--delay", 0.01), cwd=ROOT, check=True)
    lines = ledger(out)
    assert len(lines) == len(set(lines)) == 2 * 3 * 7
    assert fingerprint(out) == fingerprint(make(Fake(), tmp_path / "alone.zarr"))


def test_items_of_a_process_that_dies_are_taken_over(tmp_path) -> None:
    """The slow one is killed within its first item; the other, which came later, ends all without a new start."""
    out = tmp_path / "f.zarr"
    slow = subprocess.Popen(command(out, "--part", "0/2", "--delay", 0.2), cwd=ROOT)
    deadline = time.monotonic() + 60
    while (not out.exists() or count_lines(out) < 2) and time.monotonic() < deadline:
        time.sleep(0.01)
    other = subprocess.Popen(command(out, "--part", "1/2", "--delay", 0.02), cwd=ROOT)
    while count_lines(out) < 12 and time.monotonic() < deadline:
        time.sleep(0.01)
    slow.send_signal(signal.SIGKILL)
    assert (slow.wait(), other.wait()) == (-signal.SIGKILL, 0)
    lost = [line for line in ledger(out) if '"batch": 0' in line]
    system = Fake()
    make(system, out)
    assert len(system.asked) <= 1, "at most the item that was being computed while it was killed"
    assert len(lost) >= 9 and fingerprint(out) == fingerprint(make(Fake(), tmp_path / "alone.zarr"))


def test_live_view_tells_what_is_done_and_by_whom(tmp_path, capsys) -> None:
    out = make(Fake(), tmp_path / "f.zarr", part=(1, 3))
    ledger = out / "finished-1-of-3.jsonl"
    ledger.write_text("".join(ledger.read_text().splitlines(True)[:30]))
    watch(out, once=True)
    told = " ".join(capsys.readouterr().out.split())
    for words in (
        "0 of 2 starts, 30 of 42 units (71%)",
        "1-of-3 30 units at work",
        "76% member batches: 29% 100% 100%",
    ):
        assert words in told


@pytest.mark.parametrize(
    ("environment", "part"),
    [
        ({}, (0, 1)),
        ({"RANK": "3", "WORLD_SIZE": "4", "SLURM_PROCID": "0"}, (3, 4)),
        ({"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "8"}, (2, 8)),
        ({"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_COUNT": "4"}, (2, 4)),
        (
            {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_STEP": "2",
             "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"},
            (7, 8),
        ),
    ],
    ids=["alone", "torchrun", "srun", "array", "array of srun"],
)  # fmt: skip
def test_part_follows_from_who_started_the_process(environment, part) -> None:
    assert part_of_environment(environment) == part


@pytest.mark.parametrize(
    ("given", "batch"),
    [
        (dict(members=50, starts=1, state=100, memory=10**9), 25),
        (dict(members=1, starts=9, state=100, memory=10**9), 1),
        (dict(members=5000, starts=1, state=10**6, memory=4 * COPIES * 10**6), 4),
        (dict(members=7, starts=1, state=10**9, memory=1), 1),
        (dict(members=50, starts=1, state=100, processes=4, memory=10**9), 3),
        (dict(members=50, starts=100, state=100, processes=4, memory=10**9), 25),
        (dict(members=50, starts=1, state=100, block=10, memory=10**9), 30),
        (dict(members=7, starts=1, state=10**9, block=10, memory=1), 7),
    ],
)
def test_batch_fits_memory_blocks_and_processes(given, batch) -> None:
    assert fitting(**given) == batch <= MOST


def test_batch_is_chosen_by_the_memory_that_is_there_and_kept_by_a_store(tmp_path, monkeypatch) -> None:
    state = 4 * 3 * 128
    monkeypatch.setattr("forecast.inference.batch.available", lambda: 4 * COPIES * state * 2)
    out = make(Fake(), tmp_path / "f.zarr", batch=None)
    monkeypatch.setattr("forecast.inference.batch.available", lambda: 10**12)
    system = Fake()
    make(system, out, batch=None)
    assert system.asked == [] and (out / "z_500/c.1.3.6.0.0").exists() and not (out / "z_500/c.1.4.6.0.0").exists()
