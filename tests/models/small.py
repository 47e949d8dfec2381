"""A small forecaster on a 8x16 Gaussian grid, and batches for it."""

from __future__ import annotations

import numpy as np
import torch

from forecast.core import grids
from forecast.core.model_sections import GraphTransformerSection
from forecast.data.batch import Batch
from forecast.models.fields import Fields
from forecast.models.forecaster import Forecaster, build

SMALL = GraphTransformerSection(
    mesh_refinement=1, width=16, heads=2, layers=2, grid_width=8, grid_heads=2, trainable_features=2,
    encoder_neighbours=5, processor_neighbours=4, coarse_neighbours=2, decoder_neighbours=3,
)  # fmt: skip


def statistics(mean: float, stdev: float, tendency: float) -> dict[str, float]:
    return {"mean": mean, "stdev": stdev, "minimum": mean - 3 * stdev, "maximum": mean + 3 * stdev,
            "tendency_stdev": tendency}  # fmt: skip


def fields() -> Fields:
    """Two prognostic variables, one diagnostic, one static field, one forcing."""
    grid = grids.gaussian(8)
    return Fields(
        prognostic=("z_500", "2t"),
        diagnostic=("tp",),
        static=("lsm",),
        forcings=("cos_latitude",),
        latitudes=grid.latitudes,
        longitudes=grid.longitudes,
        areas=grid.areas,
        statistics={
            "z_500": statistics(54_000.0, 3_000.0, 150.0),
            "2t": statistics(280.0, 15.0, 1.0),
            "tp": statistics(0.0006, 0.0012, 0.0005),
            "lsm": statistics(0.3, 0.4, 0.0),
        },
        step=21_600,
        normalisation={"tp": "std"},
    )


def batch(fields: Fields, samples: int = 2, steps: int = 1, seed: int = 0) -> Batch:
    """Windows of random states, steps of 6 hours, all from the analysis."""
    times = fields.input_steps + steps
    generator = torch.Generator().manual_seed(seed)
    mean = torch.tensor(fields.column("mean", fields.variables), dtype=torch.float32)
    stdev = torch.tensor(fields.column("stdev", fields.variables), dtype=torch.float32)
    shape = (samples, times, fields.grid_size)
    states = mean + 0.3 * stdev * torch.randn(*shape, len(fields.variables), generator=generator)
    forcings = torch.rand(*shape, len(fields.forcings) + len(fields.static), generator=generator)
    dates = np.datetime64("2001-01-01T00", "s") + np.arange(times) * np.timedelta64(fields.step, "s")
    return Batch(
        states=states,
        forcings=forcings,
        dates=np.tile(dates, (samples, 1)),
        starts_from_analysis=torch.ones(samples, dtype=torch.bool),
        keys=tuple(range(10, 10 + samples)),
        input_steps=fields.input_steps,
    )


def trained(fields: Fields, seed: int = 0, **changes: object) -> Forecaster:
    """A forecaster whose zero-initialised parts are random, as after training."""
    torch.manual_seed(seed)
    model = build(GraphTransformerSection(**{**SMALL.model_dump(), **changes}), fields)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    return model
