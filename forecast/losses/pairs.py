"""What losses over sets of samples share: which samples count, and sums over all pairs, a block of rows at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from forecast.losses.common import require, without_masked

ENTRIES = 2**22
"""pairs that are held at once, whatever the number of samples"""

NEVER = -1e30
"""log of a term that is left out of a sum; finite, so that a sum of no terms has a gradient"""


def by_rows(function: Callable[..., Tensor], count: int, columns: int, *tensors: Tensor) -> Tensor:
    """`function(rows, *tensors)` for slices of `count` rows, concatenated; each slice is recomputed in backward.

    Memory is that of one slice, of about ENTRIES / columns rows. What fits into one slice is not recomputed, and only
    that can be differentiated twice. Gradients reach `tensors` alone, not what `function` holds.
    """
    step = max(1, ENTRIES // max(columns, 1))
    if step >= count:
        return function(slice(0, count), *tensors)
    return _ByRows.apply(function, count, step, *tensors)


class _ByRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], count: int, step: int, *tensors: Tensor) -> Tensor:
        ctx.function, ctx.slices = function, [slice(at, min(at + step, count)) for at in range(0, count, step)]
        ctx.save_for_backward(*tensors)
        first = function(ctx.slices[0], *tensors)
        # one tensor for all: small ones made between large ones would break up the heap
        total = first.new_empty((count, *first.shape[1:]))
        total[ctx.slices[0]] = first
        del first
        for rows in ctx.slices[1:]:
            total[rows] = function(rows, *tensors)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[3:]
        inputs = [tensor.detach().requires_grad_(need) for tensor, need in zip(ctx.saved_tensors, needed, strict=True)]
        leaves = [tensor for tensor, need in zip(inputs, needed, strict=True) if need]
        sums = [torch.zeros_like(leaf) for leaf in leaves]
        for rows in ctx.slices:
            with torch.enable_grad(), torch.autocast(grad.device.type, enabled=False):
                value = ctx.function(rows, *inputs)
            for total, part in zip(
                sums, torch.autograd.grad(value, leaves, grad[rows], allow_unused=True), strict=True
            ):
                if part is not None:
                    total += part
        found = iter(sums)
        return None, None, None, *(next(found) if need else None for need in needed)


def squared_distances(first: Tensor, second: Tensor) -> Tensor:
    """(N, M) squared Euclidean distances, not negative; exact to the rounding of |x|^2 + |y|^2 (see `centred`)."""
    norms = first.square().sum(1)[:, None] + second.square().sum(1)
    return (norms - 2 * first @ second.T).clamp_min(0.0)


def centred(*sets: Tensor) -> tuple[Tensor, ...]:
    """The sets less their common mean: distances stay, and their rounding errors shrink."""
    if not sum(len(part) for part in sets):
        return sets
    mean = torch.cat([part.detach() for part in sets]).mean(0)
    return tuple(part - mean for part in sets)


def logmeanexp(value: Tensor, dim: int) -> Tensor:
    """log of the mean of exp(value) along dim."""
    return value.logsumexp(dim) - math.log(max(value.shape[dim], 1))


def check_features(least: int = 1, **sets: Tensor) -> None:
    """Raise a ForecastError unless all sets, given by argument name, are (N, D) with one D and N >= `least` or 0."""
    width = None
    for name, part in sets.items():
        require(part.ndim == 2, name, tuple(part.shape), "must be (samples, features)")
        require(part.shape[0] == 0 or part.shape[0] >= least, name, tuple(part.shape), f"needs {least} samples")
        width = part.shape[1] if width is None else width
        require(part.shape[1] == width, name, tuple(part.shape), f"must have {width} features")


def check_labels(labels: Tensor, count: int) -> None:
    """Raise a ForecastError unless labels is (count,)."""
    require(labels.shape == (count,), "labels", tuple(labels.shape), f"must be ({count},)")


def positive(**settings: float) -> None:
    """Raise a ForecastError that names the first setting that is not positive."""
    for name, value in settings.items():
        require(value > 0, name, value, "must be positive")


def kept(mask: Tensor | None, *tensors: Tensor) -> tuple[Tensor, ...]:
    """The samples (first axis) where mask is True: what is left out is neither an anchor nor a negative."""
    if mask is None:
        return tensors
    require(mask.shape == tensors[0].shape[:1], "mask", tuple(mask.shape), f"must be ({len(tensors[0])},)")
    return tuple(tensor[mask.bool()] for tensor in tensors)


def blank(mask: Tensor | None, *tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors (N, *), zero for the samples where mask is False: nothing of them reaches loss or gradient."""
    if mask is None:
        return tensors
    require(mask.shape == tensors[0].shape[:1], "mask", tuple(mask.shape), f"must be ({len(tensors[0])},)")
    return tuple(without_masked(tensor, mask.reshape(-1, *[1] * (tensor.ndim - 1))) for tensor in tensors)


def spread(value: Tensor, mask: Tensor | None) -> Tensor:
    """A value for each sample of what `kept` left, at the places of all samples; zero elsewhere."""
    if mask is None:
        return value
    full = value.new_zeros(mask.shape[0])
    return full.masked_scatter(mask.bool(), value)


def shares(weight: Tensor | None, mask: Tensor | None, *sets: Tensor) -> tuple[Tensor, ...]:
    """Shares of the samples that count, which sum to 1, then the sets without the others.

    Args:
        weight: (N,), not negative. mask: (N,), True where a sample counts. sets: (N, ...).

    Raises:
        ForecastError: weight or mask of another shape, a negative weight.
    """
    count = len(sets[0])
    if weight is None:
        sets = kept(mask, *sets)
        return sets[0].new_full((len(sets[0]),), 1.0 / max(len(sets[0]), 1)), *sets
    require(weight.shape == (count,), "weight", tuple(weight.shape), f"must be ({count},)")
    require(bool((weight >= 0).all()), "weight", float(weight.min()) if count else 0.0, "must not be negative")
    counts = weight > 0
    weight, *rest = kept(counts if mask is None else counts & mask.bool(), weight.to(sets[0].dtype), *sets)
    return weight / weight.sum(), *rest
