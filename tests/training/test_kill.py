"""A run that is killed, at any moment and as often as one likes, ends as an undisturbed one."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from forecast.core import seeding
from forecast.core.config import Config
from forecast.training import checkpoint, sinks
from forecast.training.watch import MEASURED
from pipelines.train import train
from tests import tiny


@pytest.fixture(scope="module")
def processes() -> Iterator[Any]:
    """Processes of one thread each, so that sums have one order; torch is imported once for all of them."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
            patch.setenv(name, "1")
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["pipelines.train", "torch.utils.tensorboard"])
        yield context


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def ending(root: Path) -> tuple[Any, ...]:
    """Curve without wall time, tensors as bytes, and where the links point."""
    folder = root / "training"
    curve = [{key: value for key, value in line.items() if key not in MEASURED} for line in lines(folder)]
    files = sorted((folder / "latest").glob("*.safetensors"))
    tensors = {(file.name, name): t.numpy().tobytes() for file in files for name, t in load_file(file).items()}
    return curve, tensors, [(folder / link).resolve().name for link in ("latest", "best")]


def run_to_the_end(processes: Any, config: Config, resume: bool) -> None:
    process = processes.Process(target=train, args=(config, resume))
    process.start()
    process.join(120)
    assert process.exitcode == 0


def kill_within(processes: Any, config: Config, root: Path, key: int) -> bool:
    """Resume in a new process and kill it at a random place; whether it was killed before it came to its end."""
    wait, place = seeding.uniform(key, 2)
    metrics = root / "training" / "metrics.jsonl"
    before = metrics.stat().st_size if metrics.exists() else 0
    process = processes.Process(target=train, args=(config, True))
    process.start()
    while process.is_alive() and (not metrics.exists() or metrics.stat().st_size in (0, before)):
        time.sleep(0.002)  # until it makes updates
    time.sleep(0.8 * wait if place < 0.8 else 0.02 * wait)
    process.kill()
    process.join()
    return process.exitcode == -9


def killed_often(processes: Any, archive: Path, root: Path, kills: int, seed: int) -> None:
    config, undisturbed = (tiny.config(root / name, archive, checkpoint_every=3) for name in ("killed", "whole"))
    run_to_the_end(processes, undisturbed, resume=False)
    done = sum(kill_within(processes, config, root / "killed", seeding.key(seed, "kill", n)) for n in range(kills))
    assert done >= 1
    run_to_the_end(processes, config, resume=True)
    assert ending(root / "killed") == ending(root / "whole")


def test_killed_at_random_moments_it_ends_the_same(processes: Any, archive: Path, tmp_path: Path) -> None:
    killed_often(processes, archive, tmp_path, kills=3, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 12))
def test_killed_fifty_times_at_random_moments_it_ends_the_same(
    processes: Any, archive: Path, tmp_path: Path, seed: int
) -> None:
    killed_often(processes, archive, tmp_path, kills=5, seed=seed)


class Killed(BaseException):
    """Stands for the end of the process: nothing in the code under test may catch it."""


def fail_at(count: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Raise at the `count`-th call that changes the disk; returns the list of calls made."""
    calls: list[str] = []

    def watched(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            calls.append(name)
            if len(calls) == count:
                raise Killed
            return original(*arguments, **named)

        return call

    for where, name in ((os, "replace"), (os, "fsync"), (Path, "rename"), (Path, "symlink_to"), (shutil, "rmtree")):
        monkeypatch.setattr(where, name, watched(name, getattr(where, name)))
    return calls


class AtOnce:
    """In place of the thread that writes, so that operations have one order."""

    def __init__(self, *about: Any, **named: Any) -> None:
        pass

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(work(*arguments))
        return done


def every_disk_operation(archive: Path, root: Path, monkeypatch: pytest.MonkeyPatch, stride: int) -> None:
    short = {"stages": [{"updates": 4, "lr": 1e-3}], "checkpoint_every": 1, "validate_every": 2, "validation_starts": 1}
    monkeypatch.setattr(sinks, "plot", lambda metrics, picture: None)
    monkeypatch.setattr(checkpoint, "ThreadPoolExecutor", AtOnce)
    with pytest.MonkeyPatch.context() as patch:
        calls = fail_at(-1, patch)
        train(tiny.config(root / "whole", archive, **short))
    assert len(calls) > 60 and set(calls) == {"replace", "fsync", "rename", "symlink_to", "rmtree"}
    expected = ending(root / "whole")
    for count in range(1, len(calls) + 1, stride):
        config = tiny.config(root / str(count), archive, **short)
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            fail_at(count, patch)
            train(config)
        train(config, resume=True)
        assert ending(root / str(count)) == expected, f"killed at call {count}, {calls[count - 1]}"
        left = sorted(path.name for path in (root / str(count) / "training").iterdir() if "partial" in path.name)
        assert not left, f"killed at call {count}, {calls[count - 1]}"


def test_killed_between_disk_operations_it_ends_the_same(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every_disk_operation(archive, tmp_path, monkeypatch, stride=11)


@pytest.mark.slow
def test_killed_between_any_two_disk_operations_it_ends_the_same(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every_disk_operation(archive, tmp_path, monkeypatch, stride=1)
