"""A learnt system with random weights on the tiny archive, and a command that runs it."""

import argparse
from pathlib import Path

import numpy as np
import torch

from forecast.core.config import Config
from forecast.core.store import Store
from forecast.inference.ensemble import generate
from forecast.inference.starts import parse_starts
from forecast.inference.system import LearntSystem
from forecast.models.serialise import save_forecaster
from pipelines.train import forecaster
from tests.inference.fakes import peak

STARTS = parse_starts(["2001-01-03T00..2001-01-04T00/24h"])
LEAD = np.timedelta64(30, "h")


def checkpoint(folder: Path, config: Config, store: Store) -> Path:
    """A forecaster whose weights are all random, so that noise and every input act on its output."""
    model = forecaster(config, store)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    save_forecaster(folder, model)
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="An ensemble; prints peaks of memory with larger ones.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("out")
    given = parser.parse_args()
    system = LearntSystem(given.folder / "checkpoint", Store.open(given.folder / "analysis.zarr"))
    generate(system, STARTS, 7, LEAD, given.out, 3)
    for members, steps in [(2, 2), (2, 60), (30, 2)]:
        generate(system, STARTS, members, steps * system.step, f"{given.out}-{members}-{steps}", 3)
        print(peak())
