"""The state of training as named tensors: what a checkpoint holds, and how it is put back on any number of ranks."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor

from forecast.core.errors import ForecastError
from forecast.models.forecaster import Forecaster
from forecast.training.ema import Average
from forecast.training.storage import Reader

Tensors = dict[str, Tensor]


def gather(model: Forecaster, average: Average, moments: Mapping[str, Tensor]) -> Tensors:
    """`<group>/<name>` -> tensor as it lies on this rank: groups `model`, `ema`, and `optimizer` for `moments`."""
    weights = model.state_dict()
    groups: dict[str, Mapping[str, Tensor]] = {
        "model": weights,
        "ema": {**weights, **average.weights},  # what losses remember is no weight, and has no average
        "optimizer": moments,
    }
    return {f"{group}/{name}": tensor.detach() for group, held in groups.items() for name, tensor in held.items()}


@torch.no_grad()
def restore(folder: Path, model: Forecaster, average: Average) -> Tensors:
    """Put weights and averages back, whatever number of ranks wrote them; each rank reads what it holds.

    Returns:
        `moments`, laid out as the parameter that their names end with; what belongs to none is whole.

    Raises:
        ForecastError: pieces are missing, or it is a checkpoint of another model.
    """
    reader, weights = Reader(folder), model.state_dict()
    for group in ("model", "ema"):
        _check_same(folder, reader.tensors(group), weights)
    parameters = dict(model.named_parameters())
    moments = {name: _room(name, like, parameters) for name, like in reader.tensors("optimizer").items()}
    groups: dict[str, Mapping[str, Tensor]] = {"model": weights, "ema": average.weights, "optimizer": moments}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        wanted = {f"{group}/{name}": tensor for group, held in groups.items() for name, tensor in held.items()}
        dcp.load(wanted, storage_reader=reader, no_dist=True)
    return moments


def _room(name: str, like: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
    of = name
    while of not in parameters and of:
        of = of.partition(".")[2]
    if of and parameters[of].shape == like.shape:
        return torch.zeros_like(parameters[of], dtype=like.dtype)
    return torch.zeros(like.shape, dtype=like.dtype)


def _check_same(folder: Path, saved: Tensors, model: Tensors) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in model.items()}
    found = {name: tuple(tensor.shape) for name, tensor in saved.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise ForecastError(
                f"{folder} is a checkpoint of another model: `{name}` is {found.get(name, 'absent')} where this one "
                f"has {expected.get(name, 'none')}"
            )
