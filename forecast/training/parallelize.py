"""The one place where a plainly built forecaster meets hardware: device, precision, compilation, later a mesh."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from forecast.core.errors import ForecastError
from forecast.core.progress import console
from forecast.core.sections import TrainingSection
from forecast.data.batch import Batch
from forecast.models.forecaster import Forecaster

Loss = Callable[[Batch, int], dict[str, Tensor]]
"""(batch, members) -> named terms"""


def device(name: str) -> torch.device:
    """The device called `cpu` or `cuda`; `auto` takes CUDA where it is and says what it took.

    Raises:
        ForecastError: CUDA is asked for and not there.
    """
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise ForecastError("training.device is cuda, but torch sees no CUDA device: set it to cpu or auto")
    taken = torch.device("cuda" if name == "cuda" or (name == "auto" and there) else "cpu")
    if name == "auto":
        what = torch.cuda.get_device_name(taken) if taken.type == "cuda" else f"{torch.get_num_threads()} threads"
        console.print(f"training on {taken.type} ({what})")
    return taken


def loss(model: Forecaster, section: TrainingSection) -> Loss:
    """The terms of a batch's loss, as `section` wants them computed.

    The network is compiled or multiplies in bfloat16 where asked for; scores and their sum stay in float32.
    """
    model.precision = section.precision
    if section.compile:
        model.network.compile()

    def terms(batch: Batch, members: int) -> dict[str, Tensor]:
        return model.training_loss(batch, members, batch.keys)

    return terms
