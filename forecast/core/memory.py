"""How much memory there is to take."""

from __future__ import annotations

from pathlib import Path


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
