"""anemoi-inference's side of bench_rollout.py, run by the environment that has it: rollouts of its runner.

    python bench_rollout_peer.py FOLDER '{"grid": "o32", "refinement": 3, ...}'

Builds anemoi-training's ensemble model of the case with random weights, saves it as its training does (inference
checkpoint with metadata), writes its graph to FOLDER/<case>.npz and prints a line of JSON. Then, for each line that it
reads, the number of steps, it runs a member with anemoi-inference's SimpleRunner and prints the CPU seconds of that.
"""

from __future__ import annotations

import datetime
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from bench_step_peer import build, octahedral


def checkpoint(folder: Path, case: dict[str, Any]) -> Path:
    """An inference checkpoint of a model that nobody trained."""
    trainer = build(folder, case)
    import torch
    from anemoi.utils.checkpoints import save_metadata

    model = trainer.model.model.eval()
    path = folder / f"inference-{case['name']}.ckpt"
    metadata, model.metadata = dict(model.metadata), None
    torch.save(model, path)
    save_metadata(path, metadata, supporting_arrays=model.supporting_arrays)
    return path


def main() -> None:
    """Build, then roll out on demand."""
    folder, case = Path(sys.argv[1]), json.loads(sys.argv[2])
    path = checkpoint(folder, case)
    from anemoi.inference.runners.simple import SimpleRunner

    runner = SimpleRunner(str(path), device="cpu", precision="32", allow_nans=True)
    points = len(octahedral(int(case["grid"][1:]))[0])
    names = [f"p{i:03d}" for i in range(case["variables"] - case["forcings"])]
    names += [f"q{i:03d}" for i in range(case["forcings"])]
    fields = {name: np.random.default_rng(0).normal(size=(2, points)).astype(np.float32) for name in names}
    date = datetime.datetime(2020, 1, 2)
    parameters = sum(p.numel() for p in runner.model.parameters())
    print(json.dumps({"parameters": parameters, "points": points}), flush=True)
    for line in sys.stdin:
        begin, count = time.process_time(), 0
        for _ in runner.run(input_states={"date": date, "fields": dict(fields)}, lead_time=6 * int(line)):
            count += 1
        print(json.dumps({"seconds": time.process_time() - begin, "steps": count}), flush=True)


if __name__ == "__main__":
    main()
