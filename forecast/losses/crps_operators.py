"""The CRPS family as operators with gradients, reduction and weights fused.

On the CPU loops do the work in one pass (crps_kernels.py), elsewhere and in float64 plain torch (crps_torch.py). For
the gradient nothing is kept but the inputs: to find ranks anew takes less time than to write and read them.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from forecast.core import threads
from forecast.core.errors import ForecastError
from forecast.losses import crps_kernels, crps_torch
from forecast.losses import crps_layout as layout
from forecast.losses.common import broadcast, check_ensemble, reduce, require
from forecast.losses.crps_layout import Cube, Field, Points
from forecast.losses.crps_torch import Inputs


class Chain(NamedTuple):
    """A weight of thresholds by its chaining function: clipping to [first, second], or `smooth`, a normal cdf."""

    first: Tensor | None
    second: Tensor | None
    smooth: bool = False


def ensemble_score(
    members: Tensor, truth: Tensor, alpha: float, ensemble_dim: int, allow_deterministic: bool, reduction: str,
    weight: Tensor | None, mask: Tensor | None, chain: Chain | None = None, share: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Almost fair CRPS with all its variants; see forecast.losses.ensemble.

    Args:
        chain: thresholds broadcastable to truth, of no gradient. share: weights of members, broadcastable to members;
            where all are 0, so is the score.
    """
    check_ensemble(members, truth, ensemble_dim, allow_deterministic)
    require(0 <= alpha <= 1, "alpha", alpha, "must lie in [0, 1]")
    require(reduction in ("mean", "sum", "none"), "reduction", reduction, "must be mean, sum or none")
    if weight is not None and weight.requires_grad:
        options = (alpha, ensemble_dim, allow_deterministic, "none", None, mask, chain, share)
        return reduce(ensemble_score(members, truth, *options), reduction, weight, mask)
    wide = torch.promote_types(torch.promote_types(members.dtype, torch.float32), truth.dtype)
    dim, chain = ensemble_dim % members.ndim, chain or Chain(None, None)
    given = {"weight": weight, "mask": mask, "lower threshold": chain.first, "upper threshold": chain.second}
    fields = [_field(name, x, truth, dim, wide) for name, x in given.items()]
    if members.dtype not in (wide, torch.bfloat16) or wide == torch.float64:
        members = members.to(wide)
    cube = _cube(members, dim)
    share = None if share is None else _cube(share.to(wide).broadcast_to(members.shape), dim)
    value, _ = _crps(cube, _flat(truth.to(wide), dim), *fields, share, alpha, chain.smooth, reduction)
    return value.reshape(truth.shape) if reduction == "none" else value


def _cube(x: Tensor, dim: int) -> Tensor:
    """(O, M, I), a view where strides allow."""
    return x.reshape(math.prod(x.shape[:dim]), x.shape[dim], math.prod(x.shape[dim + 1 :]))


def _flat(x: Tensor, dim: int) -> Tensor:
    return x.reshape(math.prod(x.shape[:dim]), math.prod(x.shape[dim:]))


def _field(name: str, x: Tensor | None, truth: Tensor, dim: int, wide: torch.dtype) -> Tensor | None:
    if x is None:
        return None
    return _flat(broadcast(name, x.detach().to(torch.bool if name == "mask" else wide), truth), dim)


@torch.library.custom_op("forecast::crps", mutates_args=())
def _crps(
    members: Tensor, truth: Tensor, weight: Tensor | None, mask: Tensor | None, first: Tensor | None,
    second: Tensor | None, share: Tensor | None, alpha: float, smooth: bool, reduction: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Score, reduced or (O, I), and the sum of weights that it was divided by."""
    value = _weighted(crps_torch.score(Inputs(members, truth, first, second, share, alpha, smooth)), weight, mask)
    if reduction == "none":
        return value, torch.ones((), dtype=torch.float64, device=value.device)
    count = _weighted(value.new_ones(1, 1), weight, mask).expand_as(value).sum(dtype=torch.float64)
    return _reduced(value.sum(dtype=torch.float64), count, reduction, value.dtype)


def _weighted(value: Tensor, weight: Tensor | None, mask: Tensor | None) -> Tensor:
    value = value if weight is None else value * weight
    return value if mask is None else torch.where(mask, value, 0.0)


def _reduced(total: Tensor, count: Tensor, reduction: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    count = torch.where(count != 0, count, 1.0) if reduction == "mean" else torch.ones_like(count)
    return (total / count).to(dtype), count


@torch.library.custom_op("forecast::crps_gradient", mutates_args=())
def _crps_gradient(
    up: Tensor, members: Tensor, truth: Tensor, weight: Tensor | None, mask: Tensor | None, first: Tensor | None,
    second: Tensor | None, share: Tensor | None, alpha: float, smooth: bool, others: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients by members and, if `others`, by truth and weights of members; up is (O, I)."""
    inputs = Inputs(members, truth, first, second, share, alpha, smooth)
    slopes = crps_torch.gradient(inputs, _weighted(up, weight, mask), others and share is not None)
    to_truth, to_share = slopes[1:] if others else (None, None)
    return (
        slopes[0],
        up.new_empty(0) if to_truth is None else to_truth,
        up.new_empty(0) if to_share is None else to_share,
    )


@_crps.register_kernel("cpu")
def _(
    members: Tensor, truth: Tensor, weight: Tensor | None, mask: Tensor | None, first: Tensor | None,
    second: Tensor | None, share: Tensor | None, alpha: float, smooth: bool, reduction: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    if truth.dtype == torch.float64:
        return _crps._init_fn(members, truth, weight, mask, first, second, share, alpha, smooth, reduction)
    plan = _Plan(members, truth, weight, mask, first, second, share, alpha, smooth)
    out = truth.new_empty(truth.shape if reduction == "none" else (1, 1))
    sums = np.zeros((plan.pieces, 2))
    arguments = (*plan.inputs, layout.comparators(plan.shape[1]), plan.field(out), reduction != "none", sums)
    plan.run(crps_kernels.score, arguments)
    if reduction == "none":
        return out, torch.ones((), dtype=torch.float64)
    total, count = torch.from_numpy(sums.sum(0))
    return _reduced(total, count, reduction, truth.dtype)


@_crps_gradient.register_kernel("cpu")
def _(
    up: Tensor, members: Tensor, truth: Tensor, weight: Tensor | None, mask: Tensor | None, first: Tensor | None,
    second: Tensor | None, share: Tensor | None, alpha: float, smooth: bool, others: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    if others or truth.dtype == torch.float64:
        return _crps_gradient._init_fn(up, members, truth, weight, mask, first, second, share, alpha, smooth, others)
    plan = _Plan(members, truth, weight, mask, first, second, share, alpha, smooth, up)
    out = torch.empty_like(members)
    plan.run(crps_kernels.gradient, (*plan.inputs, layout.comparators(plan.shape[1]), plan.cube(out)))
    return out, truth.new_empty(0), truth.new_empty(0)


class _Plan:
    """Arrays and pieces as the loops want them. Lanes are inner points, or outer ones where there are few inner."""

    def __init__(
        self, members: Tensor, truth: Tensor, weight: Tensor | None, mask: Tensor | None, first: Tensor | None,
        second: Tensor | None, share: Tensor | None, alpha: float, smooth: bool, up: Tensor | None = None,
    ) -> None:  # fmt: skip
        outer, count, inner = members.shape
        self.turned = inner < layout.LANES // 2 and outer > inner
        self.shape = (inner, count, outer) if self.turned else (outer, count, inner)
        self.pieces = -(-self.shape[0] * -(-self.shape[2] // (layout.LANES * layout.TILE)) // layout.PIECE)
        absent = {"weight": 1.0, "first": -math.inf, "second": math.inf, "up": 1.0}
        given = {"weight": weight, "first": first, "second": second, "up": up}
        fields = {k: self.field(truth.new_full((1, 1), absent[k]) if x is None else x) for k, x in given.items()}
        kept = torch.ones(1, 1, dtype=torch.bool) if mask is None else mask
        points = Points(truth=self.field(truth), mask=self.field(kept.view(torch.uint8)), **fields)
        shares = self.cube(truth.new_ones(1, 1, 1) if share is None else share, bits=False)
        chain = layout.SMOOTH if smooth else layout.PLAIN if first is None and second is None else layout.CLIPPED
        rule = layout.rule(count, alpha, share is not None, chain)
        lone = np.array([[field.values[:1].sum()] * layout.LANES for field in points], np.float64)
        self.inputs = (self.shape, self.cube(members), shares, points, lone, rule)

    def run(self, loop: Any, arguments: tuple[Any, ...]) -> None:
        """`loop` over all pieces, on as many threads as torch uses."""
        if min(self.shape):
            threads.share(lambda begin, end: loop(begin, end, *arguments), self.pieces, torch.get_num_threads())

    def field(self, x: Tensor) -> Field:
        x = x.T if self.turned else x
        outer, inner = _strides(x)
        return Field(_memory(x), outer, inner)

    def cube(self, x: Tensor, bits: bool = True) -> Cube:
        x = x.transpose(0, 2) if self.turned else x
        shift = 16 if x.dtype == torch.bfloat16 else 0
        outer, member, inner = _strides(x)
        return Cube(_memory(x.view(torch.int16 if shift else torch.int32) if bits else x), outer, member, inner, shift)


def _strides(x: Tensor) -> list[int]:
    return [0 if size == 1 else stride for size, stride in zip(x.shape, x.stride(), strict=True)]


def _memory(x: Tensor) -> np.ndarray:
    """All that `x` spans, in one dimension."""
    span = 1 + sum((n - 1) * stride for n, stride in zip(x.shape, x.stride(), strict=True)) if x.numel() else 0
    return x.detach().as_strided((span,), (1,)).numpy()


@_crps.register_fake
def _(
    members: Tensor, truth: Tensor, weight: Tensor | None, mask: Tensor | None, first: Tensor | None,
    second: Tensor | None, share: Tensor | None, alpha: float, smooth: bool, reduction: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return truth.new_empty(truth.shape if reduction == "none" else ()), truth.new_empty((), dtype=torch.float64)


@_crps_gradient.register_fake
def _(
    up: Tensor, members: Tensor, truth: Tensor, weight: Tensor | None, mask: Tensor | None, first: Tensor | None,
    second: Tensor | None, share: Tensor | None, alpha: float, smooth: bool, others: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    to_truth = torch.empty_like(truth) if others else truth.new_empty(0)
    by_share = others and share is not None
    return torch.empty_like(members), to_truth, truth.new_empty(members.shape if by_share else 0)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:7], output[1])
    ctx.settings = inputs[7:]
    ctx.mark_non_differentiable(output[1])


def _gradients(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    *inputs, count = ctx.saved_tensors
    alpha, smooth, reduction = ctx.settings
    up = grad if reduction == "none" else (grad / count).to(grad.dtype).expand_as(inputs[1])
    wanted = ctx.needs_input_grad
    to_members, to_truth, to_share = _crps_gradient(up, *inputs, alpha, smooth, wanted[1] or wanted[6])
    first = to_members if wanted[0] else None
    return first, to_truth if wanted[1] else None, *[None] * 4, to_share if wanted[6] else None, *[None] * 3


def _keep_gradient(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:8])
    ctx.settings = inputs[8:]


def _by_up(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    """The gradient is linear in `up`; by the members its derivative is 0, except for a smooth weight."""
    up, *inputs = ctx.saved_tensors
    if ctx.settings[1]:
        raise ForecastError("threshold_weighted_crps: no second derivative where the weight is a normal cdf")
    slopes = _crps_gradient(torch.ones_like(up), *inputs, *ctx.settings)
    terms = [slope * grad for slope, grad in zip(slopes, grads, strict=True) if grad.numel()]
    return sum(x.sum(1) if x.ndim == 3 else x for x in terms), *[None] * 10


_crps.register_autograd(_gradients, setup_context=_keep)
_crps_gradient.register_autograd(_by_up, setup_context=_keep_gradient)
