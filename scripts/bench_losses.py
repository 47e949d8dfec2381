"""The almost fair CRPS beside anemoi-training's, forward and backward: time side by side, and peak memory.

    python scripts/bench_losses.py              # 2 to 50 members, 10,000 and 40,000 points, 1 and 2 threads: an hour
    python scripts/bench_losses.py --quick      # 10,000 points (2,500 for 50 members), one thread: under 5 minutes
    python scripts/bench_losses.py --members 16 --points 10000 --threads 1 --dtypes bfloat16
    python scripts/bench_losses.py --rows rows.jsonl    # goes on where it was stopped

80 variables, weights by point and variable. anemoi-training is installed from the package index, without what it
depends on, into the folder --peer, once. Times are the best of some rounds in which all take turns in one process; what
takes long runs once. One thread is measured in CPU time, so that others on the machine count less. Memory is the peak
of a process of its own above what it held before, the gradient included, over the size of the members; it does not
depend on threads, and is measured with the first number of them. What memory would not hold is left out. Exits 1 where
a target is missed. Needs Linux.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
VARIABLES, ALPHA = 80, 0.95
PEER = ("anemoi-training==0.17.1", "anemoi-models==0.19.0", "anemoi-graphs==0.9.8", "hydra-core==1.3.8",
        "omegaconf==2.3.1", "antlr4-python3-runtime==4.9.3", "einops==0.8.2")  # fmt: skip
OURS, NAIVE, STABLE = "ours", "naive", "stable"
LOSSES = (OURS, NAIVE, STABLE)
ROUNDS = 7
"""at most, of each"""

Row = dict[str, dict[str, float]]
"""seconds, memory (times the input) and value by loss"""


class Case(NamedTuple):
    """One size of the problem."""

    members: int
    points: int
    threads: int
    dtype: str

    @property
    def bytes(self) -> int:
        """Of the members."""
        return self.members * self.points * VARIABLES * (2 if self.dtype == "bfloat16" else 4)

    def needs(self, loss: str) -> float:
        """Bytes that a loss will take at most, roughly: theirs keep pairs of members."""
        pairs = {OURS: 3 * self.members, NAIVE: 0.6 * self.members**2 + 8 * self.members, STABLE: 7 * self.members**2}
        return 4 * self.points * VARIABLES * pairs[loss]

    def __str__(self) -> str:
        return f"{self.members:>7} {self.points:>7,} {self.threads:>7} {self.dtype:>9}"


class Target(NamedTuple):
    """What is asked: at least `asked`, in the worst of all cases; at most, for memory."""

    name: str
    asked: float
    reach: Callable[[Case, Row], float | None]


def ratio(members: int, *others: str) -> Callable[[Case, Row], float | None]:
    """How many times faster than the fastest of `others`."""

    def reach(case: Case, row: Row) -> float | None:
        times = [row[name]["seconds"] for name in others if "seconds" in row.get(name, {})]
        return min(times) / row[OURS]["seconds"] if times and case.members == members else None

    return reach


TARGETS = (
    Target("speed of 16 members over stable", 20, ratio(16, STABLE)),
    Target("speed of 16 members over naive", 5, ratio(16, NAIVE)),
    Target("speed of 50 members over naive", 20, ratio(50, NAIVE)),
    Target("speed of 2 members over the faster", 0.8, ratio(2, NAIVE, STABLE)),
    Target("speed of 4 members over the faster", 0.8, ratio(4, NAIVE, STABLE)),
    Target("peak memory over the members", -2, lambda case, row: -row[OURS].get("memory", 0.0) or None),
)


# In the process of a case.


def loss(name: str, case: Case) -> Callable[[], float]:
    """A function that scores random members, forward and backward, and returns the value."""
    import torch

    torch.set_num_threads(case.threads)
    torch.manual_seed(0)
    shape = (1, case.members, case.points, VARIABLES)
    members = torch.randn(shape).to(getattr(torch, case.dtype)).requires_grad_()
    truth = torch.randn(1, case.points, VARIABLES)
    points, variables = torch.rand(case.points), torch.rand(VARIABLES)
    score = _ours(points, variables) if name == OURS else _theirs(name, points, variables)

    def run() -> float:
        members.grad = None
        value = score(members, truth)
        value.backward()
        return float(value.detach())

    return run


def _ours(points: Any, variables: Any) -> Callable[[Any, Any], Any]:
    from forecast.losses import almost_fair_crps

    weight = points[:, None] * variables / VARIABLES
    return lambda members, truth: almost_fair_crps(members, truth, alpha=ALPHA, weight=weight, reduction="sum")


def _theirs(backend: str, points: Any, variables: Any) -> Callable[[Any, Any], Any]:
    from anemoi.training.losses import CRPS
    from anemoi.training.utils.enums import TensorDim

    score = CRPS(alpha=ALPHA, backend=backend)
    score.add_scaler(TensorDim.GRID, points, name="points")
    score.add_scaler(TensorDim.VARIABLE, variables, name="variables")
    return lambda members, truth: score(members[:, None], truth[:, None, None]).sum()


def measure_time(case: Case, names: Sequence[str], patience: float) -> Row:
    """Best seconds of each; what has used up its patience runs no more."""
    small = Case(case.members, 10, case.threads, case.dtype)
    clock = time.process_time if case.threads == 1 else time.perf_counter
    for name in names:
        loss(name, small)()  # compiled, imported
    runs = {name: loss(name, case) for name in names}
    found: Row = {name: {"seconds": float("inf")} for name in names}
    spent = dict.fromkeys(names, 0.0)
    for _, name in itertools.product(range(ROUNDS), names):
        if spent[name] < patience:
            began = clock()
            found[name]["value"] = runs[name]()
            took = clock() - began
            found[name]["seconds"] = min(found[name]["seconds"], took)
            spent[name] += took
    return found


def measure_memory(case: Case, name: str) -> Row:
    """Peak above what was held before, over the size of the members."""
    loss(name, Case(case.members, 10, case.threads, case.dtype))()
    run = loss(name, case)
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    run()
    return {name: {"memory": (_status("VmHWM") - before) / case.bytes}}


def _status(field: str) -> int:
    """Bytes from /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


# In the process that the user starts.


def install(folder: Path) -> None:
    """anemoi-training in `folder`, unless it is there; says in one line why it can't be, and exits."""
    stamp = folder / "installed.txt"
    if stamp.exists() and stamp.read_text().split() == list(PEER):
        return
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    result = subprocess.run([*command, "--target", str(folder), *PEER], capture_output=True, text=True, check=False)
    if result.returncode:
        last = (result.stderr.strip().splitlines() or ["pip failed"])[-1]
        sys.exit(f"bench_losses: cannot install {PEER[0]} into {folder}: {last}")
    stamp.write_text("\n".join(PEER))


def child(peer: Path, what: str, case: Case, names: Sequence[str], patience: float = 0.0) -> Row:
    """The row that a process of its own measures; empty, with a message, if it fails twice."""
    path = os.pathsep.join([str(peer), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": str(case.threads)}
    if what == "memory":
        environment["MALLOC_MMAP_THRESHOLD_"] = "65536"  # what is freed goes back: the peak shows all that is new
    given = json.dumps([what, case, names, patience])
    command = [sys.executable, __file__, "--child", given]
    for _ in range(2):  # a library that is being replaced, or memory that others hold, may be there the next time
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if not result.returncode:
            found: Row = json.loads(result.stdout.splitlines()[-1])
            return found
        last = (result.stderr.strip().splitlines() or [f"exit {result.returncode}"])[-1]
        print(f"{case}  {', '.join(names)} failed: {last}", flush=True)
    return {}


def run_child(given: str) -> None:
    """What `child` asked for; prints the row."""
    what, case, names, patience = json.loads(given)
    case = Case(*case)
    row = measure_time(case, names, patience) if what == "time" else measure_memory(case, names[0])
    print(json.dumps(row))


def available() -> int:
    """Bytes that can be had without swapping."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


def measure(case: Case, options: argparse.Namespace) -> Row:
    """All that is asked of a case."""
    fitting = [name for name in LOSSES if case.needs(name) < 0.8 * available()]
    for name in sorted(set(LOSSES) - set(fitting)):
        print(f"{case}  {name} is left out: it would take {case.needs(name) / 1e9:.0f} GB", flush=True)
    timed = not options.quick or case.dtype == "float32"
    row = child(options.peer, "time", case, fitting, options.patience) if timed else {}
    weighed = [OURS] if options.quick else fitting
    for name in weighed if case.threads == options.threads[0] else []:
        for key, found in child(options.peer, "memory", case, [name]).items():
            row.setdefault(key, {}).update(found)
    return row


def kept(path: Path | None) -> dict[Case, Row]:
    """Rows that an earlier run has measured."""
    if path is None or not path.exists():
        return {}
    return {Case(*case): row for case, row in map(json.loads, path.read_text().splitlines())}


def lines(case: Case, row: Row) -> Iterator[str]:
    """A case as a line of the table, and what is wrong with it."""
    cells = [f"{1000 * row[n]['seconds']:>9,.0f}" if "seconds" in row.get(n, {}) else f"{'-':>9}" for n in LOSSES]
    ours = row[OURS].get("seconds")
    for name in (NAIVE, STABLE):
        faster = row.get(name, {}).get("seconds")
        cells.append(f"{faster / ours:>9,.1f}" if faster and ours else f"{'-':>9}")
    cells += [f"{row[n]['memory']:>9,.2f}" if "memory" in row.get(n, {}) else f"{'-':>9}" for n in LOSSES]
    yield f"{case} {' '.join(cells)}"
    for name in (NAIVE, STABLE):
        theirs, value = row.get(name, {}).get("value"), row[OURS].get("value", 0.0)
        if theirs is not None and abs(theirs - value) > (1e-5 if case.dtype == "float32" else 0.02) * abs(value):
            yield f"{case}  values differ: {value} and {theirs} ({name})"


def verdict(rows: Sequence[tuple[Case, Row]]) -> int:
    """Prints a line for each target; the exit status."""
    missed = 0
    for name, asked, reach in TARGETS:
        reached = [value for case, row in rows if OURS in row and (value := reach(case, row)) is not None]
        missed += not reached or min(reached) < asked
        most = "at most " if asked < 0 else ""
        found = f"{abs(min(reached)):.2f}x" if reached else "nothing, no case was measured"
        print(f"target {name}: reached {found}, asked {most}{abs(asked):g}x")
    return 1 if missed else 0


def main() -> int:
    """Measures all cases, prints the table and the targets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--peer", type=Path, default=ROOT / "runs/bench-losses", help="folder of the peer's packages")
    parser.add_argument("--members", type=int, nargs="+")
    parser.add_argument("--points", type=int, nargs="+")
    parser.add_argument("--threads", type=int, nargs="+")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    parser.add_argument("--patience", type=float, help="seconds after which a loss is not run again")
    parser.add_argument("--rows", type=Path, help="file that keeps what is measured, and what need not be again")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        run_child(options.child)
        return 0
    options.members = options.members or ([2, 4, 16, 50] if options.quick else [2, 4, 8, 16, 50])
    options.points = options.points or ([10_000] if options.quick else [10_000, 40_000])
    options.threads = options.threads or ([1] if options.quick else [1, 2])
    options.patience = options.patience or (3.0 if options.quick else 10.0)
    install(options.peer)
    groups = "milliseconds forward and backward", "times faster than", "peak memory / members"
    print(f"{'':>33} {groups[0]:^29} {groups[1]:^19} {groups[2]:^29}")
    names = (*LOSSES, NAIVE, STABLE, *LOSSES)
    print(f"{'members':>7} {'points':>7} {'threads':>7} {'dtype':>9} {' '.join(f'{name:>9}' for name in names)}")
    rows, known = [], kept(options.rows)
    for sizes in itertools.product(options.points, options.threads, options.dtypes, options.members):
        case = Case(sizes[3], *sizes[:3])
        if options.quick and case.members > 16:
            case = case._replace(points=case.points // 4)
        rows.append((case, known.get(case) or measure(case, options)))
        if OURS in rows[-1][1]:
            print(*lines(*rows[-1]), sep="\n", flush=True)
            if options.rows and case not in known:
                with options.rows.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    return verdict(rows)


if __name__ == "__main__":
    sys.exit(main())
