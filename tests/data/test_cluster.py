"""Ingest on a real dask.distributed cluster of several processes, of which some are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from forecast.core.errors import ForecastError
from forecast.data.ingest import ingest
from tests.data.archives import config, netcdf
from tests.data.test_ingest import DAYS, slabs
from tests.data.test_writer import digest

ROOT = Path(__file__).parents[2]
SLOW_WORKER = """
import sys, time
from forecast.data.sources.fields import DatasetSource
read = DatasetSource.read
DatasetSource.read = lambda self, dates: (time.sleep(0.15), read(self, dates))[1]
from distributed.cli.dask_worker import main
sys.argv = ["dask-worker", {address!r}, "--nthreads", "1", "--no-dashboard", "--no-nanny", "--death-timeout", "30"]
main()
"""
INGEST = """
from forecast.data.ingest import ingest
from tests.data.archives import config
if __name__ == "__main__":
    source = {{"kind": "netcdf", "paths": [{file!r}]}}
    print(ingest(config({root!r}, source, dates_per_shard=3, scheduler={address!r}, climatology=["2t"])))
"""


def python(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.DEVNULL, text=True)


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The address and process of a scheduler."""
    file = tmp_path / "scheduler.json"
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0",
               "--no-dashboard", "--scheduler-file", str(file)]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(300):
        if file.exists() and file.stat().st_size:
            break
        time.sleep(0.1)
    import json

    yield json.loads(file.read_text())["address"], process
    process.kill()
    process.wait()


def wait(count: int, root: Path, run: subprocess.Popen[str]) -> None:
    """Until an ingest has finished so many slabs, or has ended."""
    deadline = time.monotonic() + 60
    while slabs(root) < count and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)


@pytest.mark.slow
def test_killed_workers_and_a_killed_scheduler(scheduler: tuple[str, subprocess.Popen[bytes]], tmp_path: Path) -> None:
    """Three workers, two are killed in their work; then the scheduler; another run ends at the same bytes."""
    address, process = scheduler
    file, root = tmp_path / "a.nc", tmp_path / "run"
    netcdf(file, dates=DAYS)
    source = {"kind": "netcdf", "paths": [str(file)]}
    workers = [python(SLOW_WORKER.format(address=address)) for _ in range(3)]
    try:
        run = python(INGEST.format(file=str(file), root=str(root), address=address))
        for count, victim in ((3, workers[0]), (6, workers[1])):
            wait(count, root, run)
            os.kill(victim.pid, signal.SIGKILL)
        wait(10, root, run)
        assert run.poll() is None and 10 <= slabs(root) < 20
        process.kill()
        assert run.wait(timeout=60) != 0
        done = slabs(root)
        assert 10 <= done < 20 and not (root / "truth.zarr").exists()
    finally:
        for worker in workers:
            worker.kill()
    ingest(config(root, source, dates_per_shard=3, climatology=["2t"]))
    ingest(config(tmp_path / "whole", source, dates_per_shard=3, climatology=["2t"]))
    assert digest(root) == digest(tmp_path / "whole")


def test_a_scheduler_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import distributed

    def nobody(*_: object, **__: object) -> None:
        raise OSError("Timed out trying to connect to tcp://127.0.0.1:1 after 20 s")

    monkeypatch.setattr(distributed, "Client", nobody)
    netcdf(tmp_path / "a.nc")
    source = {"kind": "netcdf", "paths": [str(tmp_path / "a.nc")]}
    with pytest.raises(ForecastError, match="no Dask scheduler answers at tcp://127.0.0.1:1"):
        ingest(config(tmp_path / "run", source, scheduler="tcp://127.0.0.1:1"))


def test_a_scheduler_is_an_address(tmp_path: Path) -> None:
    with pytest.raises(ForecastError, match="scheduler `dask`: threads, processes, or an address"):
        config(tmp_path, {"kind": "planet"}, scheduler="dask")
