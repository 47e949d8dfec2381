"""The other side of bench_step.py: anemoi-training's ensemble step, run by the environment that has it.

    python bench_step_peer.py FOLDER '{"grid": "o32", "refinement": 3, ...}'

Writes its graph to FOLDER/<case>.npz, prints a line of JSON when it is ready, then makes one step for each line that it
reads, and prints its CPU seconds and memory.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import resource
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np


def octahedral(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Latitudes and longitudes, degrees, of the points of grid O<n>, north to south."""
    rows = np.degrees(np.arcsin(np.polynomial.legendre.leggauss(2 * n)[0]))[::-1]
    counts = [20 + 4 * min(i, 2 * n - 1 - i) for i in range(2 * n)]
    return np.repeat(rows, counts), np.concatenate([np.arange(count) * 360.0 / count for count in counts])


def make_store(path: Path, grid: str, predicted: int, forcings: int) -> None:
    """A store of six dates of noise in anemoi's layout."""
    import zarr

    if path.exists():
        return
    latitudes, longitudes = octahedral(int(grid[1:]))
    names = [f"p{i:03d}" for i in range(predicted)] + [f"q{i:03d}" for i in range(forcings)]
    dates = np.datetime64("2020-01-01T00", "s") + np.arange(6) * np.timedelta64(6, "h")
    partial = path.with_suffix(".partial")
    group = zarr.open_group(str(partial), mode="w")
    shape = (6, len(names), 1, len(latitudes))
    data = group.create_dataset("data", shape=shape, chunks=(1, *shape[1:]), dtype="f4")
    data[:] = np.random.default_rng(0).normal(size=shape)
    group.create_dataset("dates", data=dates)
    group.create_dataset("latitudes", data=latitudes)
    group.create_dataset("longitudes", data=longitudes)
    for prefix in ("", "statistics_tendencies_6h_"):
        for name, value in {"mean": 0.0, "stdev": 1.0, "minimum": -5.0, "maximum": 5.0}.items():
            group.create_dataset(prefix + name, data=np.full(len(names), value))
    group.attrs.update(
        variables=names, frequency="6h", resolution=grid, field_shape=[len(latitudes)], missing_dates=[],
        start_date=str(dates[0]), end_date=str(dates[-1]), uuid="bench", version="0.22", constant_fields=[],
        variables_metadata={name: {"units": "1", "constant_in_time": name.startswith("q")} for name in names},
        allow_nans=False, recipe={"name": "bench"},
    )  # fmt: skip
    partial.rename(path)


def overrides(case: dict[str, Any], folder: Path, store: Path) -> list[str]:
    """Of its config `ensemble_crps`, so that it runs the case on a CPU without a network."""
    heads, recompute = case["heads"], case["checkpointing"] != "none"
    forcings = ",".join(f"q{i:03d}" for i in range(case["forcings"]))
    parts = ("encoders.0.mapper", "processor", "decoders.0.mapper")
    window = [
        "graph.nodes.hidden.node_builder._target_=anemoi.graphs.nodes.TriNodes",
        f"+graph.nodes.hidden.node_builder.resolution={case['refinement']}", "~graph.nodes.hidden.node_builder.grid",
        f"model.processor.window_size={case['window']}",
        "model.processor.attention_implementation=scaled_dot_product_attention",
    ]  # fmt: skip
    graph = ["model=graphtransformer_ens", "graph=multi_scale",
             f"graph.nodes.hidden.node_builder.resolution={case['refinement']}"]  # fmt: skip
    return [
        *(window if case["processor"] == "window" else graph),
        f"system.input.dataset={store}", f"system.output.root={folder}/out", "system.hardware.accelerator=cpu",
        f"system.input.graph={folder}/{case['name']}.pt", f"data.resolution={case['grid']}",
        "diagnostics.log.mlflow.tracking_uri=null", "diagnostics.callbacks=[]",
        f"data.datasets.data.forcing=[{forcings}]", "data.datasets.data.diagnostic=[]",
        *(f"data.datasets.data.processors.normalizer.config.{kind}=[]" for kind in ("std", "max", "none")),
        f"model.num_channels={case['channels']}", f"model.processor.num_layers={case['layers']}",
        *(f"model.{part}.num_heads={heads}" for part in parts),
        *(f"model.{part}.gradient_checkpointing={recompute}" for part in parts),
        "model.bounding.datasets.data=[]", "model.compile=[]", "training.metrics.datasets.data=[]",
        f"training.ensemble_size_per_device={case['members']}", "training.precision='32'",
        "dataloader.batch_size.training=1", "dataloader.training.datasets.data.end=2020-01-02",
        "dataloader.validation.datasets.data.start=2020-01-01", "dataloader.validation.datasets.data.end=2020-01-02",
        "dataloader.test.datasets.data.start=2020-01-01",
    ]  # fmt: skip


def save_graph(graph: Any, path: Path) -> None:
    """Positions of nodes and edges with their features, as arrays."""
    arrays = {f"{kind}_x": graph[kind].x.numpy() for kind in ("data", "hidden")}  # radians
    for source, _, target in graph.edge_types:
        edge = graph[source, "to", target]
        features = [edge["edge_length"], edge["edge_dirs"]]
        arrays[f"{source}-{target}"] = edge.edge_index.numpy()
        arrays[f"{source}-{target}_features"] = np.concatenate([x.reshape(len(x), -1).numpy() for x in features], 1)
    np.savez(path, **arrays)


def build(folder: Path, case: dict[str, Any]) -> Any:
    """anemoi-training's trainer of the case's ensemble model, on one thread; its graph goes to FOLDER/<case>.npz."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    import torch

    torch.set_num_threads(1)
    library = torch.library.Library("torchvision", "FRAGMENT")  # its wheel does not fit a CPU build of torch
    for operator in ("nms", "qnms"):
        with contextlib.suppress(RuntimeError):
            library.define(operator + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    build.kept = library  # type: ignore[attr-defined]  # what it defines goes with it
    from anemoi.training.train.train import AnemoiTrainer
    from hydra import compose, initialize_config_module

    predicted = case["variables"] - case["forcings"]
    store = folder / f"{case['grid']}-{predicted}-{case['forcings']}.zarr"
    make_store(store, case["grid"], predicted, case["forcings"])
    with initialize_config_module(version_base=None, config_module="anemoi.training.config"):
        config = compose("ensemble_crps", overrides=overrides(case, folder, store))
    trainer = AnemoiTrainer(config)
    save_graph(trainer.graph_data, folder / f"{case['name']}.npz")
    return trainer


def main() -> None:
    """Build, then step on demand."""
    folder, case = Path(sys.argv[1]), json.loads(sys.argv[2])
    trainer = build(folder, case)
    import torch

    model = trainer.model.train()
    points = trainer.graph_data["data"].num_nodes
    torch.manual_seed(0)
    raw = torch.randn(1, model.n_step_input + model.n_step_output, 1, points, case["variables"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def step() -> None:
        batch = model._normalize_batch({"data": raw.clone()})
        model._prepare_loss_scalers()
        model._step(batch, validation_mode=False).loss.sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    serve(step, sum(p.numel() for p in model.parameters()))


def serve(step: Any, parameters: int) -> None:
    """Say what was built; make a step for each line that comes, or a profile of one; stop at the end of lines."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    base = int(pages) * os.sysconf("SC_PAGESIZE") / 2**20
    print(json.dumps({"parameters": parameters, "base_mb": base}), flush=True)
    for line in sys.stdin:
        begin = time.process_time()
        if line.strip() == "profile":
            print(json.dumps(profile(step)), flush=True)
            continue
        step()
        seconds = time.process_time() - begin
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "peak_mb": peak - base}), flush=True)


def profile(step: Any) -> list[tuple[str, float]]:
    """The operators that take most, with their share of the time."""
    import torch

    with torch.profiler.profile() as run:
        step()
    events = sorted(run.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    return [(event.key, event.self_cpu_time_total / total) for event in events[:8]]


if __name__ == "__main__":
    main()
