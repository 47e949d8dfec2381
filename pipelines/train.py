"""Train: the store's windows, in keyed order, through the curriculum into a forecaster."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from forecast.core import seeding
from forecast.core.config import Config
from forecast.core.sections import DataSection
from forecast.core.store import Store
from forecast.data import tendencies
from forecast.data.dataset import Dataset
from forecast.models.fields import Fields
from forecast.models.forecaster import Forecaster, build
from forecast.training.checkpoint import Checkpoints
from forecast.training.mesh import Mesh, joined
from forecast.training.parallelize import divide
from forecast.training.preempt import restarted
from forecast.training.resume import take_over
from forecast.training.techniques.adaptation import mixed_fields
from forecast.training.trainer import Trainer
from forecast.training.validate import Validation


def train(config: Config, resume: bool = False, until: int | None = None) -> Path:
    """Train the forecaster of `config`, whose store is there; the folder of checkpoints, metrics and curves.

    Args:
        resume: go on from the newest checkpoint, if any. until: stop, with a checkpoint, after so many updates.

    Raises:
        ForecastError: what does not fit, checkpoints that would be overwritten, a loss that is not finite.
    """
    checkpoints = Checkpoints(config.path("training"), config.training.keep)
    with joined(config.training) as mesh:
        _trainer(config, checkpoints, mesh.told(checkpoints.find, resume or restarted()), mesh).run(until)
    return checkpoints.folder


def _trainer(config: Config, checkpoints: Checkpoints, newest: Path | None, mesh: Mesh) -> Trainer:
    """That of a fresh forecaster, of one that goes on from the checkpoint `newest`, or from another run's weights."""
    data, stores, section = config.data, config.store, config.training
    truth = Store.open(config.path(stores.path))
    analysis = Store.open(config.path(stores.analysis)) if stores.analysis and section.analysis_share else None
    model = forecaster(config, truth)
    points = divide(model, section, mesh)
    validation = Validation(Dataset(data, data.validation, truth, analysis, points=points), section, config.seed)
    windows = Dataset(data, data.train, truth, analysis, section.analysis_share, points)
    trainer = Trainer(config, model, windows, validation, checkpoints, mesh)
    if newest is not None:
        trainer.resume(newest)
    elif section.start_from is not None:
        take_over(trainer.model, section.start_from)
    return trainer


def forecaster(config: Config, store: Store) -> Forecaster:
    """The fresh forecaster of a run; its weights follow from the seed."""
    torch.manual_seed(seeding.key(config.seed, "weights") >> 1)
    return build(config.model, mixed_fields(fields(config.data, store), config.training.techniques), config.loss)


def fields(data: DataSection, store: Store) -> Fields:
    """What a forecaster of these data reads and writes, with the store's statistics."""
    columns = {**store.statistics, "tendency_stdev": tendencies.stdev(store, data.step, data.train)}
    predicted = (*data.prognostic, *data.diagnostic, *data.static)
    places = store.position(predicted)
    statistics = [{kind: float(x[v]) for kind, x in columns.items() if np.isfinite(x[v])} for v in places]
    return Fields(
        **{name: getattr(data, name) for name in ("prognostic", "diagnostic", "static", "forcings")},
        **{name: getattr(store.grid, name) for name in ("latitudes", "longitudes", "areas")},
        statistics=dict(zip(predicted, statistics, strict=True)),
        normalisation=data.normalisation,
        masked=data.masked,
        step=int(data.step / np.timedelta64(1, "s")),
        input_steps=data.input_steps,
    )
