"""Losses by short name, as a config asks for them."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn

from forecast.core.errors import ForecastError
from forecast.losses.ensemble import AlmostFairCRPS

_LOSSES: dict[str, Callable[..., nn.Module]] = {
    "almost_fair_crps": AlmostFairCRPS,
    "fair_crps": partial(AlmostFairCRPS, alpha=1.0),
    "crps": partial(AlmostFairCRPS, alpha=0.0),
}


def names() -> tuple[str, ...]:
    """Short names of all losses."""
    return tuple(_LOSSES)


def build(spec: Mapping[str, Any]) -> nn.Module:
    """The loss that `spec` names, e.g. {"name": "almost_fair_crps", "alpha": 0.95}.

    Raises:
        ForecastError: an unknown name or option; names the nearest known one.
    """
    options = dict(spec)
    name = _known(options.pop("name", ""), names(), "loss")
    make = _LOSSES[name]
    fixed = make.keywords if isinstance(make, partial) else {}
    accepted = [option for option in inspect.signature(make).parameters if option not in fixed]
    return make(**{_known(option, accepted, f"option of {name}"): value for option, value in options.items()})


def _known(name: str, known: tuple[str, ...] | list[str], what: str) -> str:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
        raise ForecastError(f"unknown {what} `{name}`" + (f", did you mean `{near[0]}`?" if near else ""))
    return name
