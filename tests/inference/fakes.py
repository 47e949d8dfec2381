"""A system without a model, and a command that runs it: `python -m tests.inference.fakes OUT --part 0/4`."""

import argparse
import hashlib
import os
import signal
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np

from forecast.core import grids, seeding
from forecast.inference.ensemble import generate

STARTS = np.array(["2001-03-01T00", "2001-03-03T12"], "datetime64[s]")
LEAD = np.timedelta64(36, "h")
STEPS = 6


class Fake:
    """Fields are keyed random numbers of (seed, start, member, step)."""

    name = "fake"
    variables = ("z_500", "2t", "tp")
    step = np.timedelta64(6, "h")
    block = 1

    def __init__(self, seed=1, grid=None, delay=0.0) -> None:
        self.grid, self.seed, self.delay = grid or grids.gaussian(8), seed, delay
        self.asked: list[tuple[list[int], int]] = []

    def field(self, start, member, step) -> np.ndarray:
        values = seeding.normal(
            seeding.key(self.seed, "fake", start, member, step), len(self.variables) * self.grid.size
        )
        return values.reshape(len(self.variables), self.grid.size)

    def forecast(self, start, members, steps):
        self.asked.append((list(members), steps))
        for step in range(steps + 1):
            time.sleep(self.delay)
            yield np.stack([self.field(start, member, step) for member in members])


def make(system, out, members=7, part=(0, 1), lead=LEAD, batch=3) -> Path:
    """Two starts, three members computed together."""
    return generate(system, STARTS, members, lead, out, batch, part, {"seed": system.seed})


def fingerprint(store: Path) -> str:
    """Hash of every file of a store, names and bytes, but for the ledgers."""
    digest = hashlib.sha256()
    for path in sorted(p for p in store.rglob("*") if p.is_file() and not p.name.startswith("finished-")):
        digest.update(str(path.relative_to(store)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def peak() -> int:
    """The most bytes of resident memory so far (ru_maxrss would hold those of the parent, from before the exec)."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024


def in_processes(count: int, work) -> int:
    """work((i, count)) in `count` children of this process, which spares them the imports; 0 if all went well."""
    children = []
    for i in range(count):
        if not (child := os.fork()):
            work((i, count))
            os._exit(0)
        children.append(child)
    return max(os.waitpid(child, 0)[1] for child in children)


def _slowly(store: Path, part) -> None:
    make(Fake(delay=0.005), store, part=part)


def killed(folder: Path, kills: int) -> None:
    """Runs of three processes that are killed, all at once with SIGKILL, at `kills` random moments, and begun again.

    A store that got finished in between is followed by another: 0.zarr, 1.zarr, ...; the last is finished in the end.
    """
    store, count = folder / "0.zarr", 0
    for moment in seeding.uniform(seeding.key(1, "kills"), kills):
        if not (leader := os.fork()):
            os.setpgid(0, 0)
            os._exit(in_processes(3, partial(_slowly, store)) != 0)
        time.sleep(0.02 + 0.5 * moment)
        with suppress(ProcessLookupError):
            os.killpg(leader, signal.SIGKILL)
        os.waitpid(leader, 0)
        while count_lines(store) >= 2 * 3 * (STEPS + 1):
            count += 1
            store = folder / f"{count}.zarr"
    make(Fake(), store)


def count_lines(store: Path) -> int:
    """Finished units."""
    return sum(path.read_text().count("\n") for path in store.glob("finished-*.jsonl"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("out")
    parser.add_argument("--part", default="0/1")
    parser.add_argument("--processes", type=int, help="so many share the work: children of this one, parts 0 to N - 1")
    parser.add_argument("--kills", type=int, help="kill runs into stores in the folder OUT so many times")
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--memory", action="store_true", help="print the peaks after small, long and large ensembles")
    given = parser.parse_args()
    if given.memory:
        system = Fake(grid=grids.gaussian(64))
        for members, steps in [(3, 2), (3, 60), (33, 2)]:
            make(system, f"{given.out}-{members}-{steps}", members, lead=steps * system.step)
            print(peak())
    elif given.kills:
        killed(Path(given.out), given.kills)
    elif given.processes:
        sys.exit(in_processes(given.processes, lambda part: make(Fake(delay=given.delay), given.out, part=part)))
    else:
        i, n = given.part.split("/")
        make(Fake(delay=given.delay), given.out, part=(int(i), int(n)))
