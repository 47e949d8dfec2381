"""Which of how many processes this one is, as torchrun or SLURM's srun tell it; no torch."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from forecast.core.errors import ForecastError

PORT = 29500


class World(NamedTuple):
    """Processes that were started together.

    Attributes:
        rank: number of this one. size: of all. local: number among those on this host.
        address, port: where rank 0 can be reached.
    """

    rank: int = 0
    size: int = 1
    local: int = 0
    address: str = "localhost"
    port: int = PORT


def world(environment: Mapping[str, str] | None = None) -> World:
    """What the environment says: torchrun's variables, else those of a step that srun started, else a lone process.

    Raises:
        ForecastError: variables that contradict each other.
    """
    given = os.environ if environment is None else environment
    if "RANK" in given or "WORLD_SIZE" in given:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        address, port = given.get("MASTER_ADDR", "localhost"), _number(given, "MASTER_PORT", PORT)
    elif _number(given, "SLURM_STEP_NUM_TASKS", 1) > 1:
        names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
        address = given.get("MASTER_ADDR") or _first_host(given.get("SLURM_STEP_NODELIST", "localhost"))
        port = _number(given, "MASTER_PORT", PORT + _number(given, "SLURM_JOB_ID", 0) % 1000)
    else:
        return World()
    rank, size, local = (_number(given, name, default) for name, default in zip(names, (0, 1, 0), strict=True))
    if not 0 <= rank < size:
        raise ForecastError(f"{names[0]}={rank} of {names[1]}={size} processes: ranks count from 0 to {size - 1}")
    return World(rank, size, local, address, port)


def _number(given: Mapping[str, str], name: str, default: int) -> int:
    text = given.get(name, str(default))
    if not text.strip().isdigit():
        raise ForecastError(f"{name}={text}: must be a whole number; it is set by torchrun or srun")
    return int(text)


def _first_host(nodes: str) -> str:
    """`node[07-10,12],other` begins with node07."""
    found = re.match(r"([^,\[]+)(?:\[([0-9]+)[^\]]*\])?", nodes)
    return "localhost" if found is None else found[1] + (found[2] or "")
