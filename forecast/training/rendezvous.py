"""Processes find each other and agree that they are of one kind, before anything else; or say what is wrong."""

from __future__ import annotations

import json
import os
import platform
import socket
import time
from collections.abc import Mapping
from datetime import timedelta

import torch
import torch.distributed as dist

import forecast
from forecast.core.errors import ForecastError
from forecast.core.world import World

SECONDS = 60.0
"""that processes wait for each other at the start; FORECAST_RENDEZVOUS_SECONDS overrides it"""


def meet(here: World, about: Mapping[str, str]) -> dist.Store:
    """The store of all processes, once all have come and agree in `about` and in versions.

    Raises:
        ForecastError: on every rank: rank 0 is not reached, processes do not come, or they differ.
    """
    seconds = float(os.environ.get("FORECAST_RENDEZVOUS_SECONDS", SECONDS))
    store = _store(here, seconds)
    mine = {"forecast": forecast.__version__, "torch": torch.__version__, "python": platform.python_version(), **about}
    store.set(f"about/{here.rank}", json.dumps([socket.gethostname(), mine]))
    if here.rank == 0:
        fault = _fault(store, here.size, seconds)
        store.set("verdict", fault)
    else:
        try:
            fault = _read(store, "verdict", seconds + 10)
        except RuntimeError:
            fault = f"rank 0 at {here.address}:{here.port} did not answer within {seconds:g} s"
    if fault:
        raise ForecastError(fault)
    store.set_timeout(timedelta(hours=1))
    return store


def _store(here: World, seconds: float) -> dist.Store:
    given = {"MASTER_ADDR": here.address, "MASTER_PORT": str(here.port)}
    os.environ.update({name: value for name, value in given.items() if name not in os.environ})
    try:
        timeout = timedelta(seconds=seconds)
        store, _, _ = next(iter(dist.rendezvous("env://", here.rank, here.size, timeout=timeout)))
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).splitlines()[0].split(" Exception raised from")[0]
        raise ForecastError(
            f"no rendezvous at {here.address}:{here.port} within {seconds:g} s: is this host (MASTER_ADDR) right and "
            f"up, and its port (MASTER_PORT) free and open? ({reason})"
        ) from None
    return store


def _fault(store: dist.Store, ranks: int, seconds: float) -> str:
    """What keeps the processes from starting, if anything."""
    until, told, missing = time.monotonic() + seconds, dict[int, tuple[str, dict[str, str]]](), list[int]()
    for rank in range(ranks):
        try:
            host, about = json.loads(_read(store, f"about/{rank}", max(until - time.monotonic(), 0.1)))
            told[rank] = (host, about)
        except RuntimeError:
            missing.append(rank)
    if missing:
        return f"only {len(told)} of {ranks} processes came within {seconds:g} s: no word from rank {_some(missing)}"
    _, mine = told[0]
    for name in mine:
        others = [rank for rank, (_, about) in told.items() if about.get(name) != mine[name]]
        if others:
            host, theirs = told[others[0]]
            return (
                f"processes differ in {name}: {mine[name]} on rank 0 ({told[0][0]}), {theirs.get(name)} on rank "
                f"{_some(others)} ({host}): make them alike"
            )
    return ""


def _some(ranks: list[int]) -> str:
    return ", ".join(map(str, ranks[:8])) + ("" if len(ranks) <= 8 else f" and {len(ranks) - 8} more")


def _read(store: dist.Store, key: str, seconds: float) -> str:
    store.wait([key], timedelta(seconds=seconds))
    return str(store.get(key).decode())
