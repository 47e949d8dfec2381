"""Our side of bench_rollout.py's comparison with anemoi-inference: rollouts of the forecaster on anemoi's graph."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_step_ours import fields, read_graph, section

from forecast.core.sections import LossSection
from forecast.inference.rollout import Calls, rollout
from forecast.models import graph as graphs
from forecast.models.forecaster import build

START = np.datetime64("2020-01-02T00", "s")


def runner(case: dict[str, Any]) -> tuple[Any, int]:
    """A function that rolls a member out over some steps, states as numpy arrays, and the number of parameters."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    known = fields(case)
    model = build(section(case), known, LossSection(tendency_weighting=False)).eval()
    given = np.random.default_rng(0).normal(size=(1, known.grid_size, len(known.static))).astype(np.float32)
    window = torch.randn(1, 2, known.grid_size, len(known.prognostic))
    calls = Calls(model, lambda dates: given)

    def run(member: int, steps: int) -> int:
        states = rollout(calls, window, START, [member], 1, steps)
        return sum(np.isfinite(state.numpy()).all() for state in states)

    return run, sum(p.numel() for p in model.parameters())


def serve(folder: Path, case: dict[str, Any]) -> None:
    """Build, then for each line a member of so many steps: CPU seconds."""
    few = {**case, "grid": "o2", "refinement": 0, "layers": 1, "window": 2}
    runner(few)[0](0, 2)  # loads compiled loops
    graph = read_graph(folder / f"{case['name']}.npz")
    graphs.build = lambda *_: graph  # type: ignore[assignment]
    run, parameters = runner(case)
    print(json.dumps({"parameters": parameters}), flush=True)
    for member, line in enumerate(sys.stdin):
        begin = time.process_time()
        count = run(member, int(line))
        print(json.dumps({"seconds": time.process_time() - begin, "steps": int(count)}), flush=True)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), json.loads(sys.argv[2]))
