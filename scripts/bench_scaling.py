"""Training on two processes beside one: samples a second, time in communication, bytes exchanged, memory of a process.

    python scripts/bench_scaling.py             # more rounds
    python scripts/bench_scaling.py --quick     # 2 minutes

A graph transformer as published (full blocks, window of the mesh) on O32, 13 variables, 4 members; random states, so
that no disk is read. One thread in each process, float32, gloo. Speed: in one group of two processes, rank 0 alone and
both together make the same updates of 4 samples, in turns; best wall time of some rounds. Communication and waiting:
what an update of both takes longer than the same work without any exchange. Memory: processes of their own for each
mesh; the state (weights, gradients, moments, average) is counted, the peak is what a process's resident memory grows by
in an update. Needs Linux. Exits 1 where a target is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from forecast.core import grids, seeding
from forecast.core.model_sections import GraphTransformerSection
from forecast.core.sections import LossSection, TrainingSection
from forecast.data.batch import Batch
from forecast.models.fields import Fields
from forecast.models.forecaster import Forecaster, build
from forecast.training import parallelize
from forecast.training.ema import Average
from forecast.training.exchange import Traffic
from forecast.training.mesh import AXES, Mesh, joined
from forecast.training.optimizers import Optimizers

ROOT = Path(__file__).resolve().parents[1]
GRID, MEMBERS, SAMPLES = "O32", 4, 4
NAMES = (*(f"{name}_{level}" for name in "ztuvq" for level in (500, 850)), "2t", "msl")
MODEL = {"blocks": "full", "processor": "window", "window": 128, "mesh": "O16", "width": 96, "heads": 6, "layers": 4}
MESHES = {"one process": (), "ensemble 2": (1, 2, 1), "grid 2": (1, 1, 2), "data 2, sharded": (2, 1, 1, "sharded")}
ASKED = 1.8


def section(kind: str = "replicated") -> TrainingSection:
    """One stage; CPU."""
    return TrainingSection.model_validate({"stages": [{"updates": 1, "lr": 1e-3}], "device": "cpu", "members": MEMBERS,
                                           "batch_size": SAMPLES, "mesh": {"parameters": kind}})  # fmt: skip


def forecaster() -> Forecaster:
    """The same on every process."""
    torch.manual_seed(0)
    grid = grids.named(GRID)
    statistics = {"mean": 0.0, "stdev": 1.0, "minimum": -3.0, "maximum": 3.0, "tendency_stdev": 0.3}
    fields = Fields(
        prognostic=NAMES, diagnostic=("tp",), latitudes=grid.latitudes, longitudes=grid.longitudes, areas=grid.areas,
        statistics=dict.fromkeys((*NAMES, "tp"), statistics), step=21_600, forcings=("cos_latitude",),
    )  # fmt: skip
    return build(GraphTransformerSection.model_validate(MODEL), fields, LossSection())


def batch(samples: slice, points: slice) -> Batch:
    """Random states of these samples at these points."""
    each, size = range(samples.start, samples.stop), grids.named(GRID).size
    states = [seeding.normal(seeding.key(0, "bench", s), 3 * size * 13).reshape(3, size, 13)[:, points] for s in each]
    dates = np.tile(np.datetime64("2001-01-01", "s") + np.arange(3) * np.timedelta64(6, "h"), (len(states), 1))
    values = torch.from_numpy(np.stack(states))
    return Batch(values, values[..., :1], dates, torch.ones(len(states), dtype=torch.bool), tuple(each), 2)


class Run:
    """Updates of a mesh."""

    def __init__(self, mesh: Mesh, kind: str = "replicated") -> None:
        self.mesh, self.section, self.model = mesh, section(kind), forecaster()
        points = parallelize.divide(self.model, self.section, mesh)
        self.pieces = [batch(mesh.data.part(SAMPLES), points)]
        self.objective = parallelize.Objective(self.model, self.section, mesh)
        self.optimizer, self.average = Optimizers(self.model, self.section), Average(self.model, 0.99)

    def update(self, n: int = 1) -> None:
        self.optimizer.zero_grad()
        self.objective(self.pieces, MEMBERS, SAMPLES)
        self.objective.clip(1.0)
        self.optimizer.step(1e-3)
        self.average.update(n)

    def alone(self) -> None:
        """The same work with nothing exchanged."""
        self.optimizer.zero_grad()
        terms = self.model.training_loss(self.pieces[0], MEMBERS, self.pieces[0].keys)
        terms["loss"].backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step(1e-3)
        self.average.update(1)

    def state(self) -> int:
        """Bytes of weights, gradients, moments and average here."""
        held = [*self.model.parameters(), *self.average.weights.values()]
        held += [p.grad for p in self.model.parameters() if p.grad is not None]
        held += [x for each in self.optimizer.each for s in each.state.values() for x in s.values()]
        return sum((x.to_local() if hasattr(x, "to_local") else x).nbytes for x in held)


def timed(work: Any) -> float:
    """Seconds."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def speed(rounds: int) -> None:
    """In both processes: seconds of an update of one, of both, and of both without exchange."""
    with joined(section()) as mesh:
        both, one = Run(mesh), Run(Mesh())
        seconds: dict[str, list[float]] = {"one": [], "both": [], "work": []}
        for turn in range(rounds + 1):
            for name, work in (("one", one.update if mesh.first else lambda: None), ("both", both.update),
                               ("work", both.alone)):  # fmt: skip
                mesh.barrier()
                taken = timed(work)
                if turn:
                    seconds[name].append(taken)
        work = torch.tensor(min(seconds["work"]))
        dist.all_reduce(work, dist.ReduceOp.MAX)
        if mesh.first:
            print(json.dumps({"one": min(seconds["one"]), "both": min(seconds["both"]), "work": float(work)}))


def memory(shape: list[str]) -> None:
    """In every process of a mesh: growth of memory in two updates; what was exchanged."""
    kind = shape.pop() if len(shape) == 4 else "replicated"
    with joined(section(kind)) as mesh:
        if shape:
            sizes = tuple(map(int, shape))
            mesh = Mesh(mesh.world, init_device_mesh("cpu", sizes, mesh_dim_names=AXES), mesh.store)
        before = resident("VmRSS")
        run = Run(mesh, kind)
        run.update(1)
        Traffic.reset()
        seconds = timed(run.update)
        found = torch.tensor([run.state(), resident("VmHWM") - before, Traffic.bytes, Traffic.seconds / seconds],
                             dtype=torch.float64)  # fmt: skip
        if mesh.spread:
            dist.all_reduce(found, dist.ReduceOp.MAX)
        if mesh.first:
            print(json.dumps(found.tolist()))


def resident(which: str) -> int:
    """Bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(which)))


def started(processes: int, *arguments: str) -> Any:
    """What this file prints as rank 0 of so many processes."""
    launch = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes > 1 else []
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *launch, __file__, *arguments], env=environment, capture_output=True,
                          text=True, check=False)  # fmt: skip
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure and print."""
    found = started(2, "--as", "speed", "8" if "--quick" not in sys.argv else "3")
    one, both = SAMPLES / found["one"], SAMPLES / found["both"]
    waiting = 1 - found["work"] / found["both"]
    print(f"one process: {one:.2f} samples/s; two, data axis: {both:.2f} samples/s; "
          f"{waiting:.1%} of an update in communication and waiting")  # fmt: skip
    print("\n| mesh | state, MB | growth to the peak, MB | exchanged beside gradients, MB an update | of the time |\n"
          "|---|---|---|---|---|")  # fmt: skip
    kept = {}
    for name, shape in MESHES.items():
        state, peak, sent, share = started(2 if shape else 1, "--as", "memory", *map(str, shape))
        kept[name] = state, peak
        print(f"| {name} | {state / 1e6:.1f} | {peak / 1e6:.0f} | {sent / 1e6:.1f} | {share:.0%} |", flush=True)
    alone = kept["one process"]
    sharded, grid = kept["data 2, sharded"][0] / alone[0], kept["grid 2"][1] / alone[1]
    targets = [
        ("speed of two processes", both / one, ">=", ASKED),
        ("state of a process, sharded", sharded, "<=", 0.55),
        ("memory of a process, grid 2", grid, "<=", 0.75),
    ]
    print()
    failed = False
    for name, reached, sign, asked in targets:
        print(f"target {name}: reached {reached:.2f}x, asked {sign} {asked}x")
        failed |= reached < asked if sign == ">=" else reached > asked
    sys.exit(failed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--as", dest="part", nargs="+", help=argparse.SUPPRESS)
    part = parser.parse_args().part
    torch.set_num_threads(1)
    if part is None:
        main()
    elif part[0] == "speed":
        speed(int(part[1]))
    else:
        memory(part[1:])
