"""What a forecast costs beside its model: time, memory, scoring on the way, and ECMWF's anemoi-inference beside it.

python scripts/bench_rollout.py [--quick] [--only run,memory,peer]

run     15 days of 6 h steps for 50 members (10 with --quick) of a network of the demo's size with random weights:
        elapsed time of `forecast run` into a store, of the same with scores on the way, and of the bare model (its step
        in a loop, noise drawn before, nothing kept), taken in turns, member batch by member batch, to the end of the
        folder of scores. Threads write and score beside the model: the machine should be quiet and have two cores. The
        CPU seconds of all threads are shown too.
memory  peak resident memory of processes that forecast, and score, 2, 50 and 500 members to 1 and 60 steps.
peer    CPU seconds a member of anemoi-inference's runner and of ours, in turns, on networks of equal size: anemoi's
        graph, equal nodes, edges, variables, channels, heads, layers, float32, one thread, states as numpy arrays.
        anemoi is installed as scripts/bench_step.py does it, into the folder --peer.

Ends with a line a target, and exit status 1 where one is missed. Needs Linux; one thread a process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
HERE = ROOT / "scripts"
NAMES = ("z_200", "z_500", "z_800", "u_200", "u_500", "u_800", "v_200", "v_500", "v_800", "t_350", "t_650", "q_800",
         "msl", "2t", "10u", "10v")  # fmt: skip
START = np.datetime64("2001-02-01T00", "s")
STEP = np.timedelta64(6, "h")
MEMORY = [(2, 1), (50, 1), (500, 1), (2, 60), (50, 60), (500, 60)]
OVERHEAD, GROWTH, FASTER = 1.05, 20.0, 2.0
"""asked: run / bare model, MB of more peak memory, members in an hour / anemoi's"""


def store(folder: Path) -> Path:
    """An archive of the demo's grid and variables: 20 days of smooth fields."""
    from forecast.core import grids, seeding, variables
    from forecast.data.layout import Layout
    from forecast.data.writer import StoreWriter

    grid, names = grids.gaussian(32), (*NAMES, "tp", "lsm", "z")
    layout = Layout(
        dates=START + np.arange(-2, 78) * STEP, variables=names, latitudes=grid.latitudes, longitudes=grid.longitudes,
        metadata={name: variables.metadata(name) for name in names}, field_shape=grid.shape, frequency=STEP,
        missing=np.zeros(80, bool), dates_per_shard=80, tendencies=(STEP,),
    )  # fmt: skip
    drawn = seeding.normal(1, 80 * len(names) * grid.size).reshape(80, len(names), grid.size)
    states = 100 + np.cumsum(drawn, axis=0) * 0.3 + 5 * np.cos(np.radians(grid.latitudes))
    states[:, -2:] = states[:1, -2:]
    writer = StoreWriter(folder / "truth.zarr", layout)
    for slab in writer.todo:
        writer.write(slab, states[layout.slabs[slab]].astype(np.float32))
    return Path(writer.finish())


def checkpoint(folder: Path, **model: object) -> Path:
    """A forecaster with random weights, small enough that states stay finite."""
    import torch

    from forecast.core import config as configs
    from forecast.core.store import Store
    from forecast.models.serialise import save_forecaster
    from pipelines.train import forecaster

    period = ["2001-02-01", "2001-02-10"]
    config = configs.parse({
        "name": "bench", "root": str(folder), "source": {"kind": "planet"}, "store": {"path": "truth.zarr"},
        "data": {"train": period, "validation": period, "prognostic": NAMES, "diagnostic": ["tp"],
                 "static": ["lsm", "z"], "input_steps": 1, "normalisation": {"lsm": "none", "z": "max"}},
        "model": {"mesh_refinement": 3, "width": 96, "heads": 4, "layers": 4, **model},
        "training": {"stages": [{"updates": 1, "lr": 1e-3}]}, "forecast": {"starts": {"at": ["2001-02-01"]}},
    })  # fmt: skip
    made = forecaster(config, Store.open(folder / "truth.zarr"))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += torch.randn(parameter.shape, generator=generator) * 0.02
    save_forecaster(folder / "checkpoint", made)
    return folder / "checkpoint"


class Turns:
    """A system that takes turns with its bare model: before each work item the same members and steps, unkept."""

    def __init__(self, system) -> None:  # type: ignore[no-untyped-def]
        self.system, self.bare, self.bare_wall = system, 0.0, 0.0

    def __getattr__(self, name: str) -> object:
        return getattr(self.system, name)

    def forecast(self, start: np.datetime64, members: list[int], steps: int) -> Iterator[np.ndarray]:
        """The system's states; `bare` counts the CPU seconds of the model alone (of this thread, so nobody else's)."""
        import torch

        from forecast.models import noise
        from forecast.models.base import clock

        model, calls = self.system.model, self.system._calls
        window = torch.from_numpy(self.system._initial(start, members[:1])).transpose(-1, -2).contiguous()
        known = torch.from_numpy(calls._forcings(np.array([start])))
        xi = noise.draw([1], model.noise_shape)
        times = clock(np.array([start]), 0)
        with torch.inference_mode():
            began, wall = time.thread_time(), time.monotonic()
            for _ in range(len(members) * steps):
                model.step(window[None], known, False, xi[None], times)
            self.bare += time.thread_time() - began
            self.bare_wall += time.monotonic() - wall
        yield from self.system.forecast(start, members, steps)


def timed(folder: Path, members: int, scoring: bool, name: str) -> dict[str, float]:
    """CPU seconds of a run beyond what its turns of the bare model took, and of these."""
    from forecast.core.store import Store
    from forecast.inference.ensemble import generate
    from forecast.inference.system import LearntSystem
    from pipelines.scoring import Scoring

    def go(out: Path, count: int, steps: int) -> None:
        along = Scoring(folder / "truth.zarr", store=False).options if scoring else {}
        generate(system, np.array([START]), count, steps * STEP, out, 10, **along)

    system = Turns(LearntSystem(folder / "checkpoint", Store.open(folder / "truth.zarr"), device="cpu"))
    go(folder / f"{name}-warm.zarr", 3, 5)  # compiles
    system.bare, system.bare_wall, began, wall = 0.0, 0.0, time.process_time(), time.monotonic()
    go(folder / f"{name}.zarr", members, 60)
    spent, elapsed = time.process_time() - began - system.bare, time.monotonic() - wall - system.bare_wall
    return {"bare": system.bare, "run": spent, "bare_wall": system.bare_wall, "wall": elapsed}


def peak(folder: Path, members: int, steps: int, scoring: bool) -> float:
    """MB at the most, of this process."""
    from forecast.core.store import Store
    from forecast.inference.ensemble import generate
    from forecast.inference.system import LearntSystem
    from pipelines.scoring import Scoring

    system = LearntSystem(folder / "checkpoint", Store.open(folder / "truth.zarr"), device="cpu")
    with tempfile.TemporaryDirectory(dir=folder) as place:
        along = Scoring(folder / "truth.zarr", store=False).options if scoring else {}
        generate(system, np.array([START]), members, steps * STEP, Path(place) / "f.zarr", 2, **along)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024 / 1e6  # ru_maxrss would hold the parent's, from before the exec


def child(*arguments: object) -> dict[str, float]:
    """What this script prints, as JSON, when a process of its own runs it with `arguments`."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, __file__, "--child", *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"bench_rollout: {' '.join(command)} failed: {done.stderr.strip().splitlines()[-1]}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def bench_run(folder: Path, quick: bool) -> list[tuple[str, float, float]]:
    """Targets: the run's and the scored run's CPU time over the bare model's."""
    store(folder)
    checkpoint(folder)
    members, found = (10 if quick else 50), []
    print(f"{members} members, 60 steps of 6 h, 17 variables on 32 x 64 points; seconds, in turns: elapsed (CPU)")
    for name, scoring in (("into a store", False), ("scored, fields dropped", True)):
        row = child("timed", folder, members, scoring, f"f{scoring:d}")
        ratio, cpu = row["wall"] / row["bare_wall"], row["run"] / row["bare"]
        sides = f"bare model {row['bare_wall']:6.1f} ({row['bare']:.1f})   run {row['wall']:6.1f} ({row['run']:.1f})"
        print(f"{name:24} {sides}   ratio {ratio:.3f} ({cpu:.3f})")
        found.append((f"time of a run {name} / bare model", ratio, OVERHEAD))
    return found


def bench_memory(folder: Path, quick: bool) -> list[tuple[str, float, float]]:
    """Targets: MB between the smallest and the largest of all cases."""
    store(folder)
    checkpoint(folder, width=16, heads=2, layers=1, grid_width=16, grid_heads=2)
    found = []
    for name, scoring in (("a run", False), ("a run that scores", True)):
        cases = [case for case in MEMORY if not quick or case[0] * case[1] <= 500]
        peaks = {case: child("peak", folder, *case, scoring)["peak"] for case in cases}
        for (members, steps), size in peaks.items():
            print(f"{name:18} {members:4d} members {steps:3d} steps: peak {size:6.1f} MB")
        found.append((f"MB that {name} of any size needs more", max(peaks.values()) - min(peaks.values()), GROWTH))
    return found


def bench_peer(folder: Path, quick: bool, peer: Path) -> list[tuple[str, float, float]]:
    """Targets: anemoi's CPU seconds of a member over ours."""
    from bench_step import CASES, answer, install, worker

    python, found = install(peer), []
    environment = os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    steps, rounds = ("4", 3) if quick else ("20", 3)
    for name in ("small", "graph", "large", "large-graph"):
        case, best = json.dumps({**CASES[name], "name": name}), {}
        with ExitStack() as stack:
            theirs = stack.enter_context(worker([python, HERE / "bench_rollout_peer.py", folder, case], environment))
            sizes = {"anemoi": answer(theirs)}  # its graph is there now
            own = environment | {"PYTHONPATH": str(ROOT)}
            ours = stack.enter_context(worker([sys.executable, HERE / "bench_rollout_ours.py", folder, case], own))
            sizes["ours"] = answer(ours)
            for _ in range(rounds + 1):  # the first one warms up
                for side, process in (("anemoi", theirs), ("ours", ours)):
                    best[side] = min(best.get(side, float("inf")), answer(process, steps)["seconds"])
        for side, seconds in best.items():
            size = f"{sizes[side]['parameters']:>10,} parameters"
            print(f"{name:12} {side:7} {size} {seconds:7.2f} s for {steps} steps, "
                  f"{int(steps) / 60 * 3600 / seconds:6.0f} members of 60 steps an hour", flush=True)  # fmt: skip
        found.append((f"members an hour / anemoi-inference, {name}", best["anemoi"] / best["ours"], FASTER))
    return found


def main() -> None:
    """Measures what is asked for, prints the targets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default="run,memory")
    parser.add_argument("--peer", type=Path, default=Path(tempfile.gettempdir()) / "bench_step_anemoi")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        what, folder, *rest = given.child
        if what == "timed":
            print(json.dumps(timed(Path(folder), int(rest[0]), rest[1] == "True", rest[2])))
        else:
            print(json.dumps({"peak": peak(Path(folder), int(rest[0]), int(rest[1]), rest[2] == "True")}))
        return
    targets = []
    missed = False
    benches = {"run": bench_run, "memory": bench_memory, "peer": partial(bench_peer, peer=given.peer.resolve())}
    for name in given.only.split(","):
        with tempfile.TemporaryDirectory() as folder:
            targets += [(name == "peer", *row) for row in benches[name](Path(folder), given.quick)]
    for more, what, reached, asked in targets:
        print(f"target {what}: reached {reached:.3f}, asked at {'least' if more else 'most'} {asked:g}")
        missed |= reached < asked if more else reached > asked
    sys.exit(missed)


if __name__ == "__main__":
    main()
