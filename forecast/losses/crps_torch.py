"""The CRPS family in plain torch: what devices without the loops of crps_kernels.py run, and float64.

From sorted members too, a slab of points at a time, so that what is needed beside the gradients stays small.
Members are (O, M, I), truth and all other fields (O, I).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from forecast.losses.crps_layout import rule

SLAB = 1 << 21
"""members of a slab"""


class Inputs(NamedTuple):
    """Members, truth, thresholds (or mean and standard deviation of a weight that is `smooth`), weights of members."""

    members: Tensor
    truth: Tensor
    first: Tensor | None
    second: Tensor | None
    share: Tensor | None
    alpha: float
    smooth: bool


def slabs(inputs: Inputs) -> Iterator[tuple[Inputs, tuple[slice, slice]]]:
    """The inputs a part of the points at a time, with the place of the part in O and I."""
    outer, count, inner = inputs.members.shape
    deep = max(1, min(outer, SLAB // max(1, count * inner)))
    wide = max(1, min(inner, SLAB // max(1, count * deep)))
    for o in range(0, outer, deep):
        for i in range(0, inner, wide):
            place = slice(o, o + deep), slice(i, i + wide)
            members, truth = inputs.members[place[0], :, place[1]], inputs.truth[place]
            first, second, share = (None if x is None else x[place[0], ..., place[1]] for x in inputs[2:5])
            yield Inputs(members, truth, first, second, share, inputs.alpha, inputs.smooth), place


def score(inputs: Inputs) -> Tensor:
    """(O, I) score at each point, float32 or wider."""
    wide = torch.promote_types(inputs.members.dtype, torch.float32)
    out = inputs.truth.new_empty(inputs.truth.shape, dtype=wide)
    for part, (o, i) in slabs(inputs):
        out[o, i] = _score(part, wide)
    return out


def gradient(inputs: Inputs, up: Tensor, by_share: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients by members, truth and, if asked for, weights of members, of the score times `up` (O, I)."""
    wide = torch.promote_types(inputs.members.dtype, torch.float32)
    to_members = torch.empty_like(inputs.members)
    to_truth = torch.empty_like(inputs.truth)
    to_share = None if not by_share else torch.empty(inputs.members.shape, dtype=wide, device=up.device)
    for part, (o, i) in slabs(inputs):
        slopes = _gradient(part, wide, by_share)
        factor = up[o, i]
        kept = factor != 0  # a masked NaN must not reach the gradient
        for out, slope in zip((to_members, to_truth, to_share), slopes, strict=True):
            if out is not None and slope is not None:
                scale, where = (factor, kept) if slope.ndim == 2 else (factor[:, None], kept[:, None])
                out[(o, ..., i)] = torch.where(where, slope * scale, 0.0).to(out.dtype)
    return to_members, to_truth, to_share


class _Sorted(NamedTuple):
    """Members in order, their errors in terms of the chaining function, their weights, which are divided by their sum
    `whole`, and what gaps are scaled with."""

    values: Tensor
    order: Tensor
    error: Tensor
    mass: Tensor
    gain: Tensor
    whole: Tensor


def _sorted(part: Inputs, wide: torch.dtype) -> _Sorted:
    values, order = part.members.to(wide).sort(dim=1)
    error = _chain(values, part) - _chain(part.truth.to(wide).unsqueeze(1), part)
    count = values.shape[1]
    if part.share is None:
        mass = values.new_full((1, 1, 1), 1 / count).expand_as(values)
        gain = values.new_tensor((count - 1 + part.alpha) / max(count - 1, 1))
        return _Sorted(values, order, error, mass, gain, values.new_tensor(count))
    mass = part.share.to(wide).expand_as(values).gather(1, order)
    whole = mass.double().sum(1, keepdim=True)
    square = mass.double().square().sum(1, keepdim=True) / whole.square()
    gain = torch.where(square < 1 - 1e-9, 1 - part.alpha + part.alpha / (1 - square), 0.0).to(wide)
    return _Sorted(values, order, error, torch.where(whole > 0, mass / whole, 0.0).to(wide), gain, whole.to(wide))


def _score(part: Inputs, wide: torch.dtype) -> Tensor:
    of = _sorted(part, wide)
    if part.share is None:
        count = of.values.shape[1]
        floor, step = rule(count, part.alpha)[:2]
        left = (floor + step * torch.arange(count, dtype=torch.float64, device=of.values.device)).to(wide)[:, None]
        return torch.where(of.error > 0, of.error * left.flip(0), -of.error * left).sum(1)
    balance = 2 * of.mass.cumsum(1) - of.mass - 1
    terms = of.mass * (of.error.abs() - of.gain * balance * of.error)
    return torch.where(of.mass != 0, terms, 0.0).sum(1)


def _gradient(part: Inputs, wide: torch.dtype, by_share: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """By members, truth, weights. Members that tie see neither more nor less of one another."""
    of = _sorted(part, wide)
    sign = (of.values - part.truth.to(wide).unsqueeze(1)).sign()
    if part.share is None:
        count = of.values.shape[1]
        floor, step = (number * count for number in rule(count, part.alpha)[:2])
        counts = torch.ones_like(of.values)
        balance = _beyond(of.values, counts) - _beyond(of.values.flip(1), counts).flip(1)
        slope = torch.where(sign != 0, sign * (floor + step / 2 * (count - 1 - sign * balance)), -step / 2 * balance)
    else:
        balance = _beyond(of.values, of.mass) - _beyond(of.values.flip(1), of.mass.flip(1)).flip(1)
        slope = sign - of.gain * balance
    slope = slope * of.mass * _chain_slope(of.values, part)
    to_truth = -(sign * of.mass).sum(1) * _chain_slope(part.truth.to(wide), part)
    to_share = _by_share(of, part.alpha) if by_share else None
    return _back(slope, of.order), to_truth, None if to_share is None else _back(to_share, of.order)


def _by_share(of: _Sorted, alpha: float) -> Tensor:
    """|e_j| - gain sum_k w_k |e_j - e_k| - alpha w_j / (1 - sum w^2)^2 sum_jk w_j w_k |e_j - e_k|, less its mean, by w
    before it is scaled."""
    through, error = of.mass.cumsum(1), (of.mass * of.error).cumsum(1)
    gaps = of.error * (2 * through - through[:, -1:]) - 2 * error + error[:, -1:]
    square = of.mass.square().sum(1, keepdim=True)
    fair = torch.where(of.gain != 0, alpha / (1 - square).clamp_min(1e-9).square(), 0.0)
    slope = of.error.abs() - of.gain * gaps - fair * of.mass * (of.mass * gaps).sum(1, keepdim=True)
    slope = slope - (of.mass * slope).sum(1, keepdim=True)
    return torch.where(of.whole > 0, slope / of.whole, 0.0)


def _back(ranked: Tensor, order: Tensor) -> Tensor:
    return torch.empty_like(ranked).scatter_(1, order, ranked)


def _beyond(values: Tensor, mass: Tensor) -> Tensor:
    """Mass of those before each in `values`, sorted along dimension 1, that differ from it."""
    before = mass.cumsum(1) - mass
    new = torch.ones_like(values, dtype=torch.bool)
    new[:, 1:] = values[:, 1:] != values[:, :-1]
    return torch.where(new, before, 0.0).cummax(1).values


def _chain(z: Tensor, part: Inputs) -> Tensor:
    first, second = (_like(x, z) for x in part[2:4])
    if part.smooth and first is not None and second is not None:
        u = (z - first) / second
        return second * (0.5 * u * torch.erfc(-u / math.sqrt(2)) + torch.exp(-0.5 * u * u) / math.sqrt(2 * math.pi))
    return z if first is None and second is None else z.clamp(first, second)


def _chain_slope(z: Tensor, part: Inputs) -> Tensor:
    first, second = (_like(x, z) for x in part[2:4])
    if part.smooth and first is not None and second is not None:
        return 0.5 * torch.erfc((first - z) / second / math.sqrt(2))
    slope = torch.ones_like(z)
    if first is not None:
        slope = slope * ((z > first).to(z.dtype) + (z >= first)) / 2
    if second is not None:
        slope = slope * ((z < second).to(z.dtype) + (z <= second)) / 2
    return slope


def _like(limit: Tensor | None, z: Tensor) -> Tensor | None:
    return limit if limit is None or z.ndim == 2 else limit.unsqueeze(1)
