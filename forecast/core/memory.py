"""How much memory there is to take, and keeping what was taken."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

_TRIM, _MMAP = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h


def available() -> int:
    """Bytes that this process may still take: of the machine, or of its control group (container, SLURM job)."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    left = int(lines["MemAvailable"].split()[0]) * 1024
    return min([left, *_groups()])


def _groups(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> list[int]:
    """What is left of the limit of this process's control group (version 2) and of each one around it."""
    try:
        path = own.read_text().strip().rpartition("::")[2].strip("/")
    except OSError:
        return []
    left = []
    for folder in (root / path, *(root / path).parents):
        try:
            limit, used = ((folder / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        except OSError:
            continue
        left += [max(int(limit) - int(used), 0)] if limit != "max" else []
    return left


def keep_freed() -> None:
    """Let malloc keep what is freed for what comes next, where glibc is; elsewhere nothing changes.

    Else each update gives its activations back to the system, which clears every page again for the next one: up to a
    tenth of a step. What the process holds stays at its peak until it ends.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM, 2**31 - 1)
        mallopt(_MMAP, 2**30)
