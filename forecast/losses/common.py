"""What every loss shares: reduction with weight and mask, precision, checks, and modules made of functions."""

from __future__ import annotations

import functools
import inspect
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from forecast.core.errors import ForecastError

Reduction = Literal["mean", "sum", "none"]
AT_CALL = ("weight", "mask", "generator", "index")
"""keywords that belong to the data of a call and not to a loss's settings"""


def reduce(value: Tensor, reduction: str = "mean", weight: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
    """A loss per element made one number, or left as it is.

    Args:
        value: (B, *) loss of each element.
        reduction: mean: sum(w * value) / sum(w) over the elements kept; sum: sum(w * value); none: w * value, zero
            where masked.
        weight: broadcastable to value, not negative. mask: broadcastable to value, True where an element counts.

    Returns:
        The reduced loss. Where nothing is kept it is a zero that depends on `value`, so that every rank has a graph.

    Raises:
        ForecastError: an unknown reduction, or weight or mask that do not broadcast to value.
    """
    if reduction not in ("mean", "sum", "none"):
        raise ForecastError(f"reduction={reduction!r}: must be mean, sum or none")
    total = torch.ones((), dtype=value.dtype, device=value.device)
    for name, factor in (("weight", weight), ("mask", mask)):
        if factor is not None:
            total = total * broadcast(name, factor, value).to(value.dtype)
    if mask is not None:  # a masked NaN must not survive as 0 * NaN, nor in the gradient
        value = value.masked_fill(~broadcast("mask", mask, value).bool(), 0.0)
    value = value * total
    if reduction == "none":
        return value
    if reduction == "sum":
        return value.sum()
    count = total.expand(value.shape).sum()
    return value.sum() / torch.where(count > 0, count, torch.ones_like(count))


def broadcast(name: str, factor: Tensor, value: Tensor) -> Tensor:
    """`factor` expanded to the shape of `value`, or a ForecastError that says which argument does not fit."""
    try:
        return factor.broadcast_to(value.shape)
    except RuntimeError:
        raise ForecastError(f"{name} of shape {tuple(factor.shape)} does not fit {tuple(value.shape)}") from None


def wide(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: floating tensors come in as float32 at least, and autocast is off inside."""

    @functools.wraps(function)
    def inner(*args: Any, **kwargs: Any) -> Any:
        args = tuple(_widened(value) for value in args)
        kwargs = {name: _widened(value) for name, value in kwargs.items()}
        devices = {value.device.type for value in (*args, *kwargs.values()) if isinstance(value, Tensor)}
        with torch.autocast(devices.pop() if devices else "cpu", enabled=False):
            return function(*args, **kwargs)

    return inner


def _widened(value: Any) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.to(torch.promote_types(value.dtype, torch.float32))
    return value


def from_memory(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator of losses that were built without a source at hand: the first call warns."""
    warned: list[bool] = []

    @functools.wraps(function)
    def inner(*args: Any, **kwargs: Any) -> Any:
        if not warned:
            warned.append(True)
            warnings.warn(f"{function.__name__} was built from memory of its paper: an experiment", stacklevel=2)
        return function(*args, **kwargs)

    inner.__dict__["from_memory"] = True
    return inner


def empty(*inputs: Tensor) -> Tensor:
    """A zero that depends on the inputs: the value of a loss over an empty set."""
    return sum((torch.where(x.isfinite(), x, torch.zeros_like(x)).sum() * 0.0 for x in inputs), torch.zeros(()))


def require(condition: bool, argument: str, value: object, expected: str) -> None:
    """Raise a ForecastError that names argument, value and what was expected, unless `condition` holds."""
    if not condition:
        raise ForecastError(f"{argument}={value}: {expected}")


def same_shape(**tensors: Tensor) -> None:
    """Raise a ForecastError unless all tensors, given by argument name, have the shape of the first."""
    (first, like), *others = tensors.items()
    for name, tensor in others:
        if tensor.shape != like.shape:
            raise ForecastError(
                f"{name} of shape {tuple(tensor.shape)} must have the shape of {first}, {tuple(like.shape)}"
            )


def normal_cdf(z: Tensor) -> Tensor:
    """Phi(z), exact in the lower tail, where torch.special.ndtr is zero from -8.3 on."""
    return torch.erfc(-z * math.sqrt(0.5)) / 2


def check_ensemble(members: Tensor, truth: Tensor, ensemble_dim: int, allow_deterministic: bool = False) -> int:
    """The number of members.

    Raises:
        ForecastError: truth is not shaped as the members without `ensemble_dim`; fewer than two members (than one with
            `allow_deterministic`).
    """
    require(-members.ndim <= ensemble_dim < members.ndim, "ensemble_dim", ensemble_dim, f"members have {members.ndim}")
    expected = list(members.shape)
    count = expected.pop(ensemble_dim)
    if list(truth.shape) != expected:
        raise ForecastError(
            f"truth of shape {tuple(truth.shape)} must be {tuple(expected)}: members without dimension {ensemble_dim}"
        )
    least = 1 if allow_deterministic else 2
    require(count >= least, "members", count, f"at least {least} along dimension {ensemble_dim} are needed")
    return count


def without_masked(value: Tensor, mask: Tensor | None) -> Tensor:
    """`value`, zero where the mask is False, so that what is missing there reaches neither loss nor gradient."""
    if mask is None:
        return value
    return torch.where(broadcast("mask", mask, value).bool(), value, torch.zeros_like(value))


def leave_out(mask: Tensor | None, shape: torch.Size, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Inputs (*shape, *), zero where the mask, broadcastable to `shape`, is False; see `without_masked`."""
    if mask is None:
        return inputs
    kept = broadcast("mask", mask, torch.empty(shape, device="meta")).bool()
    return tuple(x.masked_fill(~kept.view(*shape, *[1] * (x.ndim - len(shape))), 0.0) for x in inputs)


class Loss(nn.Module):
    """A loss function with its settings fixed: `class DiceLoss(Loss, of=dice)` takes the keywords of `dice`.

    Positional parameters of the function, and those in `AT_CALL`, are given at each call; all others are settings.
    Settings that are tensors (kept as buffers, not in the state) or modules move with the loss from device to device.
    """

    function: ClassVar[Callable[..., Any]]
    settings: ClassVar[dict[str, inspect.Parameter]]

    def __init_subclass__(cls, of: Callable[..., Any] | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if of is None:
            return
        cls.function = staticmethod(of)
        given = inspect.signature(of).parameters
        cls.settings = {
            name: parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for name, parameter in given.items()
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY and name not in AT_CALL
        }
        cls.__signature__ = inspect.Signature(list(cls.settings.values()))  # type: ignore[attr-defined]
        cls.__doc__ = cls.__doc__ or f"`{of.__name__}` with its settings fixed.\n\n{inspect.getdoc(of)}"

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        unknown = sorted(set(settings) - set(self.settings))
        if unknown:
            raise ForecastError(f"{type(self).__name__} has no setting `{unknown[0]}`; it has {_listed(self.settings)}")
        missing = [name for name, p in self.settings.items() if p.default is p.empty and name not in settings]
        if missing:
            raise ForecastError(f"{type(self).__name__} needs `{missing[0]}`")
        given = {name: p.default for name, p in self.settings.items()} | settings
        self.held = tuple(name for name, value in given.items() if isinstance(value, Tensor | nn.Module))
        self.options = {name: value for name, value in given.items() if name not in self.held}
        for name in self.held:
            if isinstance(given[name], Tensor):
                self.register_buffer(name, given[name], persistent=False)
            else:
                self.add_module(name, given[name])

    def forward(self, *inputs: Any, **at_call: Any) -> Any:
        """The function on these inputs."""
        held = {name: getattr(self, name) for name in self.held}
        return self.function(*inputs, **self.options, **held, **at_call)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.options.items())


def _listed(names: Sequence[str] | dict[str, Any]) -> str:
    return ", ".join(names) or "none"
