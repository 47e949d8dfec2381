"""All of this process in float64, in which two layouts that compute the same agree to 1e-11, and no mistake can hide.

The loops for the CPU know float32 alone; their operators' general versions, in plain torch, take their place.
"""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor
from torch._library.custom_ops import OPDEFS

from forecast.models import noise, sliding

_OFF = contextlib.ExitStack()


def switch_on() -> None:
    """From now on, for good. Forecasters that are built after that are to be given `.double()`."""
    torch.set_default_dtype(torch.float64)
    Tensor.float = Tensor.bfloat16 = Tensor.double  # type: ignore[method-assign]
    for operator in list(OPDEFS.values()):
        if operator._namespace == "forecast" and "cpu" in operator._backend_fns:
            _OFF.enter_context(operator.set_kernel_enabled("cpu", enabled=False))
    draw = noise.draw
    noise.draw = lambda *given: draw(*given).double()
    sliding.attend = sliding._in_batch  # whose gradient is torch's own
