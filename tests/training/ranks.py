"""Processes that train together, forked from one that has imported everything."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forecast.core.config import Config
from forecast.core.errors import ForecastError, Stopped
from forecast.models.forecaster import Forecaster
from forecast.training import sinks
from pipelines import train as jobs
from tests.distributed import double


def context() -> Any:
    """A multiprocessing context; one thread each, so that sums have one order."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
            patch.setenv(name, "1")
        made = multiprocessing.get_context("forkserver")
        made.set_forkserver_preload(["tests.training.ranks", "torch.utils.tensorboard"])
        made.Process(target=int).start()
    return made


def start(
    context: Any,
    config: Config,
    size: int,
    resume: bool = False,
    stop: tuple[int, int] | None = None,
    spoil: tuple[int, int] | None = None,
    exact: bool = False,
) -> list[Any]:
    """Processes of ranks 0 .. size - 1.

    Args:
        stop: this rank sends itself SIGTERM within that update of this run.
        spoil: the loss of this rank is not finite from that update on. exact: all is computed in float64.
    """
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    started = [
        context.Process(target=_work, args=(config, resume, rank, size, port, stop, spoil, exact))
        for rank in range(size)
    ]
    for process in started:
        process.start()
    return started


def codes(started: list[Any], seconds: float = 120) -> list[int | None]:
    """Exit codes, once all have come to their end."""
    for process in started:
        process.join(seconds)
    return [process.exitcode for process in started]


def said(config: Config, rank: int) -> str:
    """What a rank has printed in its last run."""
    return (Path(config.root) / f"rank{rank}.log").read_text()


def _work(
    config: Config, resume: bool, rank: int, size: int, port: int, stop: tuple[int, int] | None,
    spoil: tuple[int, int] | None, exact: bool,
) -> None:  # fmt: skip
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)} if size > 1 else {}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "FORECAST_RENDEZVOUS_SECONDS": "100"}
    Path(config.root).mkdir(parents=True, exist_ok=True)
    log = os.open(Path(config.root) / f"rank{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 2)
    sinks.plot = lambda metrics, picture: None  # drawing takes longer than these runs
    if exact:
        double.switch_on()
        build = jobs.forecaster
        jobs.forecaster = lambda *given: build(*given).double()
    if stop and stop[0] == rank:
        _at(stop[1], lambda terms: os.kill(os.getpid(), signal.SIGTERM) or terms, once=True)
    if spoil and spoil[0] == rank:
        _at(spoil[1], lambda terms: {**terms, "loss": terms["loss"] * float("nan")})
    try:
        jobs.train(config, resume)
    except Stopped as stopped:
        sys.exit(_printed(stopped, stopped.code))
    except ForecastError as error:
        sys.exit(_printed(error, 1))
    sys.exit(3 if group_threads() and config.training.mesh.parameters == "replicated" else 0)


def group_threads() -> int:
    """Threads of gloo in this process: one that outlives Python may end it by an abort."""
    found = 0
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # one that ends meanwhile
            found += "gloo" in (task / "comm").read_text()
    return found


def _printed(error: ForecastError, code: int) -> int:
    print(f"forecast: {error}", file=sys.stderr, flush=True)
    return code


def _at(update: int, change: Callable[[dict[str, Any]], Any], once: bool = False) -> None:
    loss, calls = Forecaster.training_loss, [0]

    def changed(self: Forecaster, *arguments: Any) -> Any:
        calls[0] += 1
        terms = loss(self, *arguments)
        return change(terms) if calls[0] == update or (calls[0] > update and not once) else terms

    Forecaster.training_loss = changed  # type: ignore[method-assign]
