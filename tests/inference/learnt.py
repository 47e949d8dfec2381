"""A learnt system with random weights on the tiny archive, and a command that runs it."""

import argparse
import resource
from pathlib import Path

import torch

from forecast.core.config import Config
from forecast.core.store import Store
from forecast.inference.ensemble import generate
from forecast.inference.starts import parse_starts
from forecast.inference.system import LearntSystem
from forecast.models.serialise import save_forecaster
from pipelines.train import forecaster


def checkpoint(folder: Path, config: Config, store: Store) -> Path:
    """A forecaster whose weights are all random, so that noise and every input act on its output."""
    model = forecaster(config, store)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    save_forecaster(folder, model)
    return folder


def peak() -> int:
    """The most bytes of resident memory so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("out")
    parser.add_argument("--part", default="0/1")
    parser.add_argument("--memory", action="store_true", help="print the peaks after small, long and large ensembles")
    given = parser.parse_args()
    i, n = map(int, given.part.split("/"))
    store = Store.open(given.folder / "analysis.zarr")
    system = LearntSystem(given.folder / "checkpoint", store, micro_batch=3)
    starts = parse_starts(["2001-01-03T00..2001-01-04T00/24h"])
    if given.memory:
        for k, (members, steps) in enumerate([(2, 2), (2, 60), (30, 2)]):
            generate(system, starts, members, steps * system.step, f"{given.out}{k}", 3)
            print(peak())
    else:
        generate(system, starts, 7, 5 * system.step, given.out, 3, (i, n))
