"""What classification and event losses ask of their labels: the class axis, what to ignore, sets of elements.

Classes: logits (B, K, *) with the K classes along `class_dim`, by default 1 as in torch; integer labels of the shape
without that axis, or soft ones (probabilities) of the logits' shape. Maps of bins (B, G, K) take class_dim=-1.
Events: logits (B, *) and labels of the same shape in [0, 1], one element one yes-or-no event.
Labels out of range raise, NaN too, except where `mask` is False: there neither logits nor labels are looked at.
Area weights: `weight`, broadcastable to the labels, e.g. (G,) for labels (B, G).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from forecast.core.errors import ForecastError
from forecast.losses.common import require

TINY = 1e-12
"""below any probability or weight that means something, above float32's smallest number by far"""


class Classes(NamedTuple):
    """Checked input of a classification loss, classes last.

    Attributes:
        logits: (B, *, K). hard: (B, *) class numbers, 0 where ignored; None for soft labels.
        soft: (B, *, K) label probabilities; None for hard ones. mask: (B, *) True where an element counts, or None.
    """

    logits: Tensor
    hard: Tensor | None
    soft: Tensor | None
    mask: Tensor | None

    def number(self) -> Tensor:
        """(B, *) class numbers.

        Raises:
            ForecastError: the labels are soft, which not every loss can take.
        """
        if self.hard is None:
            raise ForecastError("labels: this loss takes integer class numbers, not probabilities")
        return self.hard

    def pick(self, by_class: Tensor) -> Tensor:
        """(B, *) value of the labelled class of (B, *, K) values, or their mean under soft labels."""
        if self.hard is None:
            return (by_class * self.one_hot()).sum(-1)
        return by_class.gather(-1, self.hard[..., None]).squeeze(-1)

    def one_hot(self) -> Tensor:
        """(B, *, K) label probabilities."""
        if self.hard is None:
            assert self.soft is not None
            return self.soft
        return torch.nn.functional.one_hot(self.hard, self.logits.shape[-1]).to(self.logits.dtype)


def classes(
    logits: Tensor,
    labels: Tensor,
    *,
    class_dim: int = 1,
    ignore_index: int = -100,
    mask: Tensor | None = None,
    from_logits: bool = True,
) -> Classes:
    """Inputs of a classification loss, checked, with the classes last.

    Raises:
        ForecastError: shapes that do not match, or labels that are neither a class nor `ignore_index`.
    """
    require(-logits.ndim <= class_dim < logits.ndim, "class_dim", class_dim, f"logits have {logits.ndim} dimensions")
    last = logits.movedim(class_dim, -1)
    if mask is not None:
        mask = broadcast(mask, "mask", last.shape[:-1]).bool()
        last = last.masked_fill(~mask[..., None], 0.0 if from_logits else 1.0)
    if not from_logits:
        _in_range(last.detach(), 0, 1, "a probability, as from_logits is False", "logits")
        last = last.clamp_min(TINY).log()
    if labels.is_floating_point():
        return Classes(last, None, _soft(labels, logits, class_dim, mask), mask)
    if labels.shape != last.shape[:-1]:
        raise ForecastError(
            f"labels of shape {tuple(labels.shape)} must have the logits' shape without class_dim={class_dim}, "
            f"{tuple(last.shape[:-1])}"
        )
    hard = labels.long()
    kept = hard != ignore_index
    if not bool(kept.all()):  # most calls ignore nothing and pay for no mask
        mask = kept if mask is None else mask & kept
    if mask is not None:
        hard = hard.masked_fill(~mask, 0)
    _in_range(hard, 0, last.shape[-1] - 1, f"a class number, 0 to {last.shape[-1] - 1}, or {ignore_index} to ignore")
    return Classes(last, hard, None, mask)


def _soft(labels: Tensor, logits: Tensor, class_dim: int, mask: Tensor | None) -> Tensor:
    if labels.shape != logits.shape:
        raise ForecastError(
            f"labels of shape {tuple(labels.shape)}: must be integers, or probabilities of the logits' shape "
            f"{tuple(logits.shape)}"
        )
    soft = labels.movedim(class_dim, -1)
    if mask is not None:
        soft = soft.masked_fill(~mask[..., None], 0.0)
    _in_range(soft, 0, 1, "a probability")
    return soft.to(logits.dtype)


def positive(temperature: Tensor, given: Classes) -> Tensor:
    """(B, *) temperatures, 1 where masked.

    Raises:
        ForecastError: a shape that does not fit, or a temperature that is not positive.
    """
    each = broadcast(temperature, "temperature", given.logits.shape[:-1])
    if given.mask is not None:
        each = each.masked_fill(~given.mask, 1.0)
    if not bool((each > 0).all()):
        raise ForecastError(f"temperature: {float(each.min()):g} must be positive")
    return each


def events(
    logits: Tensor, labels: Tensor, mask: Tensor | None = None, *, binary: bool = False
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Inputs of an event loss, checked: logits and labels of one shape, zero where masked, and the mask.

    Args:
        binary: whether labels must be 0 or 1, and not between.

    Raises:
        ForecastError: shapes that do not match, or labels outside [0, 1].
    """
    if labels.shape != logits.shape:
        raise ForecastError(f"labels of shape {tuple(labels.shape)} must have the logits' shape, {tuple(logits.shape)}")
    if mask is not None:
        mask = broadcast(mask, "mask", logits.shape).bool()
        logits, labels = logits.masked_fill(~mask, 0.0), labels.masked_fill(~mask, 0)
    labels = labels.to(logits.dtype)
    _in_range(labels, 0, 1, "in [0, 1]")
    if binary and not bool(((labels == 0) | (labels == 1)).all()):
        raise ForecastError("labels: this loss takes 0 or 1, and some lie between")
    return logits, labels, mask


def probability(logits: Tensor, from_logits: bool) -> Tensor:
    """Probability of the event.

    Raises:
        ForecastError: probabilities were promised and lie outside [0, 1].
    """
    if from_logits:
        return logits.sigmoid()
    _in_range(logits.detach(), 0, 1, "a probability, as from_logits is False", "logits")
    return logits


def broadcast(factor: Tensor, name: str, shape: torch.Size) -> Tensor:
    """`factor` expanded to `shape`.

    Raises:
        ForecastError: it does not fit.
    """
    try:
        return factor.broadcast_to(shape)
    except RuntimeError:
        raise ForecastError(f"{name} of shape {tuple(factor.shape)} does not fit {tuple(shape)}") from None


def set_dims(like: Tensor, batch: bool, event_dim: int | None) -> list[int]:
    """Dimensions over which a set goes: all but the sample, unless `batch`, and but `event_dim`."""
    require(event_dim is None or -like.ndim <= event_dim < like.ndim, "event_dim", event_dim, "no such dimension")
    apart = None if event_dim is None else event_dim % like.ndim
    return [dim for dim in range(like.ndim) if (batch or dim > 0) and dim != apart]


def total(value: Tensor, dims: list[int]) -> Tensor:
    """Sum over `dims`, of which there may be none."""
    return value.sum(dims) if dims else value


def counting(like: Tensor, weight: Tensor | None, mask: Tensor | None, dims: list[int]) -> Tensor:
    """Weights of mean one over the elements kept in each set, zero for the others: weighted sums count elements."""
    kept = torch.ones_like(like) if mask is None else mask.to(like.dtype)
    if weight is None:
        return kept
    weighted = broadcast(weight, "weight", like.shape).to(like.dtype) * kept
    keep = bool(dims)
    size = kept.sum(dims, keepdim=keep) if dims else kept
    return weighted * size / (weighted.sum(dims, keepdim=keep) if dims else weighted).clamp_min(TINY)


def _in_range(values: Tensor, low: float, high: float, expected: str, argument: str = "labels") -> None:
    if not values.numel():
        return
    least, most = (float(x) for x in values.detach().aminmax())
    if not (least >= low and most <= high):  # NaN fails too
        wrong = most if least >= low else least
        raise ForecastError(f"{argument}: {wrong:g} must be {expected}")
