"""Forecasters as files that hold numbers and plain text only: safetensors and JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

import forecast
from forecast.core.errors import ForecastError
from forecast.core.model_sections import ModelSection
from forecast.core.sections import LossSection
from forecast.models.fields import Fields
from forecast.models.forecaster import Forecaster, build

FORMAT = "forecast-checkpoint-1"
SIDE_CAR, WEIGHTS, AVERAGE = "checkpoint.json", "model.safetensors", "ema.safetensors"


def save_forecaster(folder: Path, model: Forecaster, average: Mapping[str, Tensor] | None = None) -> None:
    """Write the forecaster into `folder`: side-car, weights and, if given, the averaged weights.

    Each file is written beside its place and renamed, the side-car last; a folder without it is no checkpoint.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / WEIGHTS, lambda path: save_file(_plain(model.state_dict()), path))
    if average is not None:
        whole = {**model.state_dict(), **average}  # what losses remember is no weight, and has no average
        _replace(folder / AVERAGE, lambda path: save_file(_plain(whole), path))
    text = side_car(model, averaged=average is not None)
    _replace(folder / SIDE_CAR, lambda path: path.write_text(text))


def load_forecaster(folder: str | Path, averaged: bool = True) -> Forecaster:
    """The forecaster in `folder` on the CPU, with its averaged weights where there are any and `averaged` is set.

    Raises:
        ForecastError: no checkpoint, a torn file, or one that another program wrote.
    """
    folder = Path(folder)
    described = read_side_car(folder)
    try:
        model = build(
            TypeAdapter(ModelSection).validate_python(described["model"]),
            Fields.from_json(described["fields"]),
            LossSection.model_validate(described["loss"]),
        )
    except (KeyError, TypeError, ValueError, ValidationError) as error:
        reason = " ".join(str(error).split())
        raise ForecastError(f"{folder / SIDE_CAR} does not describe a forecaster of this version: {reason}") from None
    model.precision = described.get("precision", "float32")
    model.load_state_dict(load_weights(folder / (AVERAGE if averaged and described["averaged"] else WEIGHTS), model))
    return model


def load_weights(path: Path, model: Forecaster) -> dict[str, Tensor]:
    """Tensors of a weights file, checked against the model's names and shapes.

    Raises:
        ForecastError: absent, torn, or of another model.
    """
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ForecastError(f"cannot read weights {path}: {error}; use another checkpoint") from None
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise ForecastError(f"{path}: `{name}` is {found.get(name)} where the model has {expected.get(name)}")
    return weights


def side_car(model: Forecaster, averaged: bool) -> str:
    """What else there is to know of a forecaster, beside its weights: JSON."""
    about = {
        "format": FORMAT,
        "code_version": forecast.__version__,
        "averaged": averaged,
        "precision": model.precision,
        "parameters": sum(p.numel() for p in model.parameters()),
        "model": model.section.model_dump(mode="json"),
        "loss": model.loss.model_dump(mode="json"),
        "fields": model.fields.to_json(),
    }
    return json.dumps(about, indent=1, allow_nan=False) + "\n"


def read_side_car(folder: Path) -> dict[str, Any]:
    """The side-car as it was written.

    Raises:
        ForecastError: no checkpoint there, a torn one, or of another format.
    """
    path = folder / SIDE_CAR
    try:
        described = json.loads(path.read_text())
    except FileNotFoundError:
        raise ForecastError(f"{folder} holds no checkpoint: {SIDE_CAR} is missing") from None
    except (OSError, ValueError) as error:
        raise ForecastError(f"{path} is torn or no JSON: {error}") from None
    if not isinstance(described, dict) or described.get("format") != FORMAT:
        raise ForecastError(f"{path} is no checkpoint of this program: `format` must be {FORMAT}")
    return described


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _replace(path: Path, write: Callable[[Path], Any]) -> None:
    partial = path.with_name(path.name + ".partial")
    write(partial)
    os.replace(partial, path)
