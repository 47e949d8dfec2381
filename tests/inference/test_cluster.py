"""A dask.distributed cluster computes the same store; a worker that is lost costs its item."""

import os
import signal
import threading
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from distributed import Client, LocalCluster

from forecast.core.errors import ForecastError
from forecast.core.forecasts import Forecasts
from forecast.inference import cluster
from forecast.inference.ensemble import generate
from forecast.inference.writer import ForecastWriter
from tests.inference.fakes import LEAD, STARTS, Fake, fingerprint, make


@dataclass(frozen=True)
class Recipe:
    out: Path
    delay: float = 0.0
    broken: bool = False

    def __call__(self, who: str):
        system = Fake(delay=self.delay)
        if self.broken:
            system.forecast = _breaks
        return system, ForecastWriter(self.out, Forecasts.open(self.out), who)


def _breaks(start, members, steps):
    raise ForecastError("the analysis has missing values")


@pytest.fixture(scope="module")
def workers():
    """Two processes, each with its nanny, which starts another in place of one that dies."""
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50) as workers:
        yield workers


def run(out: Path, address: str, recipe: Recipe) -> Path:
    elsewhere = partial(cluster.compute, address, recipe)
    return generate(Fake(), STARTS, 7, LEAD, out, 3, settings={"seed": 1}, elsewhere=elsewhere)


def test_cluster_makes_the_same_store(tmp_path, workers) -> None:
    out = run(tmp_path / "f.zarr", workers.scheduler_address, Recipe(tmp_path / "f.zarr"))
    assert fingerprint(out) == fingerprint(make(Fake(), tmp_path / "alone.zarr"))
    assert len([path for path in out.glob("finished-worker-*.jsonl") if path.stat().st_size]) == 2, "both had a share"
    run(out, workers.scheduler_address, Recipe(out))


def test_lost_worker_costs_its_item_only(tmp_path, workers) -> None:
    out = tmp_path / "f.zarr"

    def kill() -> None:
        while not any(path.stat().st_size for path in out.glob("finished-worker-*.jsonl")):
            time.sleep(0.01)
        with Client(workers.scheduler_address) as client:
            os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    run(out, workers.scheduler_address, Recipe(out, delay=0.05))
    killer.join()
    assert fingerprint(out) == fingerprint(make(Fake(), tmp_path / "alone.zarr"))


def test_what_fails_again_and_again_is_told(tmp_path, workers) -> None:
    with pytest.raises(ForecastError, match="the analysis has missing values"):
        run(tmp_path / "f.zarr", workers.scheduler_address, Recipe(tmp_path / "f.zarr", broken=True))


def test_address_where_nobody_answers_is_told(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(cluster, "PATIENCE", "1s")
    with pytest.raises(ForecastError, match="--cluster tcp://127.0.0.1:9: no dask scheduler answers there"):
        run(tmp_path / "f.zarr", "tcp://127.0.0.1:9", Recipe(tmp_path / "f.zarr"))
