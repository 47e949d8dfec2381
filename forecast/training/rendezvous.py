"""Processes find each other and agree that they are of one kind, before anything else; or say what is wrong."""

from __future__ import annotations

import json
import os
import platform
import socket
import time
import uuid
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

    It holds nothing of earlier starts: torchrun keeps one store over its restarts, and who read there what processes
    that are gone have left would wait for them, or go on from where they were.

    Raises:
        ForecastError: on every rank: rank 0 is not reached, processes do not come, or they differ.
    """
    seconds = float(os.environ.get("FORECAST_RENDEZVOUS_SECONDS", SECONDS))
    everyones = _store(here, seconds)
    mine = {"forecast": forecast.__version__, "torch": torch.__version__, "python": platform.python_version(), **about}
    said = json.dumps([socket.gethostname(), mine])
    if here.rank == 0:
        place = uuid.uuid4().hex
        store = dist.PrefixStore(place, everyones)
        store.set("about/0", said)
        _admit(everyones, place, here.size, seconds)
        fault = _fault(store, here.size, seconds)
        store.set("verdict", fault)
    else:
        try:
            store = dist.PrefixStore(_admission(everyones, here.rank, seconds), everyones)
            store.set(f"about/{here.rank}", said)
            fault = _read(store, "verdict", seconds + 10)
        except RuntimeError:
            fault = f"rank 0 at {here.address}:{here.port} did not answer within {seconds:g} s"
    if fault:
        raise ForecastError(fault)
    store.set_timeout(timedelta(hours=1))
    return store


def _admit(everyones: dist.Store, place: str, ranks: int, seconds: float) -> None:
    """Rank 0: tell all who ask where this start meets, until all have come there or time is up."""
    until, missing, told = time.monotonic() + seconds, set(range(1, ranks)), set[str]()
    while missing and time.monotonic() < until:
        for rank in sorted(missing):
            if everyones.check([f"asks/{rank}"]) and (name := everyones.get(f"asks/{rank}").decode()) not in told:
                everyones.set(f"meets/{name}", place)  # it may be the name of a process that is gone
                told.add(name)
            if everyones.check([f"{place}/about/{rank}"]):
                missing.discard(rank)
        time.sleep(0.01)


def _admission(everyones: dist.Store, rank: int, seconds: float) -> str:
    """The others: where this start meets, asked under a name that no process had before."""
    name = uuid.uuid4().hex
    everyones.set(f"asks/{rank}", name)
    return _read(everyones, f"meets/{name}", seconds)


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
    missing = [rank for rank in range(ranks) if not store.check([f"about/{rank}"])]
    if missing:
        came = f"only {ranks - len(missing)} of {ranks} processes came within {seconds:g} s"
        return f"{came}: no word from rank {_some(missing)}"
    told = [json.loads(store.get(f"about/{rank}")) for rank in range(ranks)]
    _, mine = told[0]
    for name in mine:
        others = [rank for rank, (_, about) in enumerate(told) if about.get(name) != mine[name]]
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
