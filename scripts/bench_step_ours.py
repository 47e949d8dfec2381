"""Our side of bench_step.py: the forecaster on a graph that anemoi made, and how its costs grow."""

from __future__ import annotations

import json
import math
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_step_peer import octahedral, serve
from torch_geometric.data import HeteroData

from forecast.core import grids, memory
from forecast.core.model_sections import GraphTransformerSection
from forecast.core.sections import LossSection
from forecast.data.batch import Batch
from forecast.models import graph as graphs
from forecast.models.fields import Fields
from forecast.models.forecaster import build


def section(case: dict[str, Any]) -> GraphTransformerSection:
    """What anemoi's config says, in our words."""
    return GraphTransformerSection(
        blocks="full", processor=case["processor"], window=case["window"], qk_norm=True, mlp_ratio=4,
        width=case["channels"], heads=case["heads"], layers=case["layers"], mesh_refinement=case["refinement"],
        trainable_features=8, trainable_edges=8, units="state", step_flag=(0, 1), decoder_neighbours=3,
        activation_checkpointing=case["checkpointing"],
    )  # fmt: skip


def fields(case: dict[str, Any]) -> Fields:
    """Variables of mean 0 and standard deviation 1 on an octahedral grid."""
    predicted = tuple(f"p_{i}" for i in range(case["variables"] - case["forcings"]))
    given = tuple(f"q_{i}" for i in range(case["forcings"]))
    latitudes, longitudes = octahedral(int(case["grid"][1:]))
    one = {"mean": 0.0, "stdev": 1.0, "minimum": -5.0, "maximum": 5.0, "tendency_stdev": 1.0}
    areas = grids.named(case["grid"].upper()).areas
    return Fields(
        prognostic=predicted, static=given, latitudes=latitudes, longitudes=longitudes, areas=areas,
        statistics=dict.fromkeys(predicted + given, one), step=21_600,
    )  # fmt: skip


def read_graph(path: Path) -> HeteroData:
    """anemoi's graph with our names; its positions are latitude and longitude in radians."""
    arrays, graph = np.load(path), HeteroData()
    names = {"data": "grid", "hidden": "mesh"}
    for theirs, ours in names.items():
        points = grids.unit_vectors(*np.degrees(arrays[f"{theirs}_x"]).T)
        graph[ours].x = torch.from_numpy(points.astype(np.float32))
    for source, target, kind in (
        ("data", "hidden", graphs.ENCODER), ("hidden", "hidden", graphs.PROCESSOR), ("hidden", "data", graphs.DECODER),
    ):  # fmt: skip
        if f"{source}-{target}" in arrays:
            graph[kind].edge_index = torch.from_numpy(arrays[f"{source}-{target}"])
            graph[kind].edge_attr = torch.from_numpy(arrays[f"{source}-{target}_features"].astype(np.float32))
    return graph


def stepper(case: dict[str, Any], rollout: int = 1) -> tuple[Any, int]:
    """A function that makes one step of training, and the number of parameters."""
    torch.set_num_threads(1)
    memory.keep_freed()  # as the trainer
    torch.manual_seed(0)
    known = fields(case)
    model = build(section(case), known, LossSection(tendency_weighting=False))
    steps, points = 2 + rollout, known.grid_size
    batch = Batch(
        states=torch.randn(1, steps, points, len(known.prognostic)),
        forcings=torch.randn(1, steps, points, len(known.static)),
        dates=(np.datetime64("2020-01-01T00", "s") + np.arange(steps) * np.timedelta64(6, "h"))[None],
        starts_from_analysis=torch.ones(1, dtype=torch.bool), keys=(1,), input_steps=2,
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def step() -> None:
        model.training_loss(batch, case["members"], batch.keys)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step, sum(p.numel() for p in model.parameters())


def serve_case(folder: Path, case: dict[str, Any]) -> None:
    """Build the forecaster on anemoi's graph, and step on demand; compiled loops are loaded by a small one first."""
    few = {**case, "grid": "o2", "refinement": 0, "layers": 1, "members": 2, "window": 2}
    stepper(few)[0]()
    graph = read_graph(folder / f"{case['name']}.npz")
    graphs.build = lambda *_: graph  # type: ignore[assignment]
    step, parameters = stepper(case)
    serve(step, parameters)


BASE = {"grid": "o16", "refinement": 3, "variables": 20, "forcings": 4, "channels": 64, "layers": 4, "heads": 4,
        "members": 4, "window": 64, "checkpointing": "layer", "processor": "window", "rollout": 2}  # fmt: skip
GROWTH: dict[str, tuple[str, tuple[Any, ...]]] = {
    "members": ("members", (4, 8, 16)),
    "rollout": ("rollout", (3, 6, 12)),
    "nodes": ("grid", ("o16", "o24", "o48")),
    "layers": ("layers", (8, 16, 32)),
}
LIMIT = 1.05


def growth(quick: bool) -> bool:
    """Exponents of time and memory: the slope of their logarithms over that of what grows, from the first to the last.

    Grid and mesh nodes grow together (a mesh of the nearest number of nodes), at one window.
    """
    reached = True
    for what, (key, values) in GROWTH.items():
        rows = []
        for value in values[:2] if quick else values:
            case = {**BASE, key: value}
            if what == "nodes":
                case["refinement"] = {"o16": 2, "o24": 3, "o48": 4}[value]
            out = subprocess.run(
                [sys.executable, "-c", f"import bench_step_ours as b; b.once({json.dumps(json.dumps(case))})"],
                cwd=Path(__file__).parent, capture_output=True, text=True, check=True,
            ).stdout  # fmt: skip
            rows.append(json.loads(out.splitlines()[-1]))
            print(f"{what:8} {value!s:>4} {rows[-1]['seconds']:8.3f} s {rows[-1]['mb']:8.0f} MB", flush=True)
        size = (
            math.log(rows[-1]["size"] / rows[0]["size"])
            if what == "nodes"
            else math.log(values[len(rows) - 1] / values[0])
        )
        for kind in ("seconds", "mb"):
            exponent = math.log(rows[-1][kind] / rows[0][kind]) / size
            print(f"target growth of {kind} with {what}: reached {exponent:.2f}, asked at most {LIMIT}")
            reached &= exponent <= LIMIT
    return reached


def once(text: str) -> None:
    """Best CPU time of a step and its peak memory, in a process of its own."""
    case = json.loads(text)
    few = {**case, "grid": "o2", "refinement": 0, "layers": 1, "members": 2, "window": 2}
    stepper(few)[0]()
    step, _ = stepper(case, case["rollout"])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = []
    for _ in range(3):
        begin = time.process_time()
        step()
        times.append(time.process_time() - begin)
    mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    size = octahedral(int(case["grid"][1:]))[0].size
    print(json.dumps({"seconds": min(times), "mb": mb, "size": size}))
