"""Processes that can't start together say so in seconds; two of them are threads here."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch.distributed as dist

from forecast.core.errors import ForecastError
from forecast.core.world import World
from forecast.training import rendezvous

ROOT = Path(__file__).parents[2]


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        number = int(free.getsockname()[1])
    for name, value in (("MASTER_ADDR", "localhost"), ("MASTER_PORT", str(number)), ("USE_LIBUV", "0")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("FORECAST_RENDEZVOUS_SECONDS", "3")
    return number


KEPT: list[object] = []
"""stores: that of rank 0 serves the others while it lives"""


def said(rank: int, ranks: int, port: int, **about: str) -> str:
    try:
        KEPT.append(rendezvous.meet(World(rank, ranks, rank, "localhost", port), about))
    except ForecastError as error:
        return str(error)
    return ""


def both(port: int, *about: dict[str, str]) -> list[str]:
    with ThreadPoolExecutor(2) as pool:
        return [f.result() for f in [pool.submit(said, rank, 2, port, **about[rank]) for rank in (0, 1)]]


def test_processes_that_agree_meet(port: int) -> None:
    assert both(port, {"forecast": "1"}, {"forecast": "1"}) == ["", ""]


def test_mixed_versions_are_told_to_all_with_rank_and_host(port: int) -> None:
    told = both(port, {"forecast": "1.0"}, {"forecast": "1.1"})
    assert told[1]  # what it is does not matter: rank 0 speaks
    assert told[0].startswith("processes differ in forecast: 1.0 on rank 0 (")
    assert "1.1 on rank 1 (" in told[0] and "\n" not in told[0]


def test_a_second_start_on_the_same_store_sees_nothing_of_the_first(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after torchrun's restart, rank 0 being there long before the others."""
    everyones = dist.HashStore()
    monkeypatch.setattr(rendezvous, "_store", lambda here, seconds: everyones)
    with ThreadPoolExecutor(2) as pool:
        for start in ("first", "second"):
            early = pool.submit(rendezvous.meet, World(0, 2, 0, "localhost", port), {})
            time.sleep(0.2)
            late = rendezvous.meet(World(1, 2, 1, "localhost", port), {})
            assert not early.result().check(["said"]) and not late.check(["said"])
            early.result().set("said", start)
            assert late.get("said").decode() == start


def test_nobody_there_is_told_in_seconds(port: int) -> None:
    began = time.monotonic()
    told = said(1, 2, port)
    assert f"no rendezvous at localhost:{port} within 3 s" in told and "\n" not in told
    assert time.monotonic() - began < 20


def test_the_launcher_tells_an_unreachable_host_in_seconds(port: int, tmp_path: Path) -> None:
    (tmp_path / "torchrun").write_text("#!/bin/sh\n")
    (tmp_path / "torchrun").chmod(0o755)
    settings = {"NODES": "2", "HOST": "127.0.0.2", "PORT": str(port), "WAIT": "1", "FORECAST_BIN": str(tmp_path)}
    done = subprocess.run(["bash", str(ROOT / "scripts/train_torchrun.sh"), "demo", str(tmp_path)],
                          env={**os.environ, **settings}, capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith(f"train_torchrun: no rendezvous at 127.0.0.2:{port} within 1 s")
    assert done.stderr.count("\n") == 1
