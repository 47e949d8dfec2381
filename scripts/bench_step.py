"""A training step of the forecaster beside anemoi-training's ensemble step, on equal work: CPU time and peak memory.

    python scripts/bench_step.py             # all cases
    python scripts/bench_step.py --quick     # fewer rounds, without the largest cases: under 5 minutes
    python scripts/bench_step.py --cases small graph --profile
    python scripts/bench_step.py --growth    # how our time and memory grow with members, rollout, nodes and layers

Both sides have the same graph (anemoi's), nodes, edges, variables, channels, heads, layers, width of MLPs, members and
activation checkpointing, in float32, and make forward, backward and AdamW's step. Each lives in a process of one thread
and they take turns; seconds are the best CPU time of some rounds, memory the peak of the process above what it held
before its first step (ours has loaded its compiled loops by then). anemoi is installed with the versions of
bench_step_peer.txt into the folder --peer, once (2.4 GB). Exits 1 where a target is missed. Needs Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SMALL = {"grid": "o32", "refinement": 3, "variables": 25, "forcings": 13, "channels": 64, "layers": 4, "heads": 4,
         "members": 4, "window": 512, "checkpointing": "layer", "processor": "window"}  # fmt: skip
LARGE = {**SMALL, "refinement": 4, "variables": 90, "forcings": 10, "channels": 128, "layers": 8, "heads": 8}
CASES: dict[str, dict[str, Any]] = {
    "small": SMALL,
    "small-kept": {**SMALL, "checkpointing": "none"},
    "graph": {**SMALL, "processor": "graph"},
    "large": LARGE,
    "larger": {**LARGE, "grid": "o48"},
    "large-graph": {**LARGE, "processor": "graph"},
}
QUICK = ("small", "small-kept", "graph", "large")
FASTER = {"small": 2.0, "small-kept": 2.0, "graph": 1.5, "large-graph": 1.5, "large": 4.0, "larger": 4.0}
MEMORY = 0.7


def install(folder: Path) -> Path:
    """The interpreter of an environment with anemoi, made where it is missing."""
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        print(f"installing anemoi into {folder}: some minutes, 2.4 GB", flush=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [python, "-m", "pip", "install", "-q"]
        subprocess.run([*pip, "torch==2.13.0"], check=True)
        pins = Path(__file__).with_name("bench_step_peer.txt")
        subprocess.run([*pip, "--no-deps", "-r", pins], check=True)
        (folder / "ready").touch()
    return python


@contextmanager
def worker(command: list[Any], environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A process that answers a line with a line."""
    process = subprocess.Popen(
        [str(part) for part in command], env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # anemoi's data set leaves a pool of processes behind
        process.wait()


def answer(process: subprocess.Popen[str], question: str | None = None) -> Any:
    """The next line of JSON, after a question or without one."""
    assert process.stdin and process.stdout
    if question is not None:
        process.stdin.write(question + "\n")
        process.stdin.flush()
    for line in process.stdout:
        if line.startswith(("{", "[")):
            return json.loads(line)
    raise SystemExit("a side stopped without an answer; see its message above")


def compare(name: str, python: Path, folder: Path, rounds: int, profiles: bool) -> dict[str, dict[str, float]]:
    """Seconds, memory and parameters of both sides of a case."""
    case = json.dumps({**CASES[name], "name": name})
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    own = {**environment, "PYTHONPATH": str(ROOT)}
    sides: dict[str, dict[str, float]] = {}
    with ExitStack() as stack:
        peer = stack.enter_context(worker([python, ROOT / "scripts/bench_step_peer.py", folder, case], environment))
        built = {"anemoi": (peer, answer(peer))}  # its graph is there now
        ours = stack.enter_context(worker([sys.executable, __file__, "--ours", folder, case], own))
        built["ours"] = (ours, answer(ours))
        for side, (_, what) in built.items():
            sides[side] = {"seconds": float("inf"), "parameters": what["parameters"]}
        for _ in range(rounds + 1):  # the first one warms up
            for side, (process, _) in built.items():
                step = answer(process, "step")
                sides[side]["seconds"] = min(sides[side]["seconds"], step["seconds"])
                sides[side]["peak_mb"] = step["peak_mb"]
        if profiles:
            for side, (process, _) in built.items():
                shares = ", ".join(f"{what} {share:.0%}" for what, share in answer(process, "profile"))
                print(f"{name}: {side} spends its time in {shares}")
    return sides


def report(name: str, sides: dict[str, dict[str, float]]) -> bool:
    """Print a case and its targets; whether all are reached."""
    for side, what in sides.items():
        size = f"{what['parameters']:>10,} parameters"
        print(f"{name:12} {side:7} {what['seconds']:8.3f} s {what['peak_mb']:8.0f} MB {size}")
    faster = sides["anemoi"]["seconds"] / sides["ours"]["seconds"]
    memory = sides["ours"]["peak_mb"] / sides["anemoi"]["peak_mb"]
    print(f"target speed, {name}: reached {faster:.2f}x, asked {FASTER[name]}x")
    print(f"target memory, {name}: reached {memory:.2f}x, asked at most {MEMORY}x", flush=True)
    return faster >= FASTER[name] and memory <= MEMORY


def main() -> None:
    """Compare, or measure growth."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true")
    options.add_argument("--cases", nargs="+", choices=CASES, default=None)
    options.add_argument("--rounds", type=int, default=None)
    options.add_argument("--profile", action="store_true", help="also say in which operators both spend their time")
    options.add_argument("--growth", action="store_true")
    options.add_argument("--peer", type=Path, default=Path(tempfile.gettempdir()) / "bench_step_anemoi")
    options.add_argument("--ours", nargs=2, metavar=("FOLDER", "CASE"), help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.ours:
        from bench_step_ours import serve_case

        serve_case(Path(given.ours[0]), json.loads(given.ours[1]))
        return
    if given.growth:
        from bench_step_ours import growth

        raise SystemExit(0 if growth(given.quick) else 1)
    python = install(given.peer.resolve())
    with tempfile.TemporaryDirectory() as folder:
        names = given.cases or (QUICK if given.quick else CASES)
        reached = []
        for name in names:
            rounds = given.rounds or (8 if CASES[name]["channels"] == SMALL["channels"] else 2 if given.quick else 4)
            reached.append(report(name, compare(name, python, Path(folder), rounds, given.profile)))
    raise SystemExit(0 if all(reached) else 1)


if __name__ == "__main__":
    main()
