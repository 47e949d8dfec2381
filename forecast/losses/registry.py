"""Losses by short name, as a config asks for them, and what is known of each."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from torch import nn

from forecast.core.errors import ForecastError

Takes = Literal["ensemble", "field", "event", "maps", "classes", "rows", "latent", "teacher", "parameters", "other"]
Status = Literal["verified", "derived", "third-party", "from memory"]

Made = TypeVar("Made", bound=Callable[..., nn.Module])


@dataclass(frozen=True)
class Entry:
    """A loss of the library.

    Attributes:
        name: short name. make: its module. family: the file it lives in.
        formula: one line. source: paper or code. use: what it is good for in a weather ensemble.
        status: verified in official code or the paper's text; derived; third-party: read in others' code only;
            from memory: built without a source at hand, warns once.
        takes: what it is fed: ensemble (members, truth); field (forecast, truth); event (logits, 0 or 1 labels); maps
            (the same, of rows and columns); classes (logits, class numbers); rows (logits (R, K) of
            samples, their labels); latent (features of one or two views);
            teacher (student, teacher); parameters (weights or activations of a network); other.
        extra: optional packages that it needs, installed as `forecast[<extra>]`; None for torch alone.
    """

    name: str
    make: Callable[..., nn.Module]
    family: str
    formula: str
    source: str
    use: str
    status: Status
    takes: Takes
    extra: str | None = None


_ENTRIES: dict[str, Entry] = {}
_TRANSFORMS: dict[str, Callable[..., nn.Module]] = {}


def register(
    name: str, *, formula: str, source: str, use: str, status: Status, takes: Takes, extra: str | None = None
) -> Callable[[Made], Made]:
    """Decorator of a module (or of a function that makes one): puts it into the registry under `name`."""

    def add(make: Made) -> Made:
        if name in _ENTRIES:
            raise ValueError(f"two losses named {name}")
        family = make.__module__.removeprefix("forecast.losses.")
        _ENTRIES[name] = Entry(name, make, family, formula, source, use, status, takes, extra)
        return make

    return add


def names() -> tuple[str, ...]:
    """Short names of all losses."""
    return tuple(_ENTRIES)


def entries() -> tuple[Entry, ...]:
    """All losses, in the order in which they are registered."""
    return tuple(_ENTRIES.values())


def entry(name: str) -> Entry:
    """What is known of the loss `name`.

    Raises:
        ForecastError: unknown; names the nearest known one.
    """
    return _ENTRIES[_known(name, names(), "loss")]


def has_option(name: str, option: str) -> bool:
    """Whether the loss `name` takes `option`; ForecastError where there is no such loss."""
    return option in inspect.signature(entry(name).make).parameters


def transform(name: str) -> Callable[[Made], Made]:
    """Decorator of a transform of fields: losses that take a `transform` find it under `name`."""

    def add(make: Made) -> Made:
        if name in _TRANSFORMS:
            raise ValueError(f"two transforms named {name}")
        _TRANSFORMS[name] = make
        return make

    return add


def build(spec: Mapping[str, Any], **context: Any) -> nn.Module:
    """The loss that `spec` names, e.g. {"name": "almost_fair_crps", "alpha": 0.95}.

    Options that are specs themselves are built too, alone, in lists or by name: {"name": "combined", "terms": {"local":
    {"name": "crps"}, "waves": {"name": "spectral_crps", "transform": {"name": "harmonics", "truncation": 21}}}}.

    Args:
        context: what no config can hold, such as the `grid`; given to every loss or transform with such a parameter.

    Raises:
        ForecastError: an unknown name or option, or a missing one; names the nearest known one.
    """
    name = spec.get("name", "")
    return _made(entry(name).make, name, spec, context)


def _made(make: Callable[..., nn.Module], name: str, spec: Mapping[str, Any], context: Mapping[str, Any]) -> nn.Module:
    parameters = inspect.signature(make).parameters
    given = {
        _known(option, list(parameters), f"option of {name}"): _nested(option, value, context)
        for option, value in spec.items()
        if option != "name"
    }
    given = {option: value for option, value in context.items() if option in parameters} | given
    for option, parameter in parameters.items():
        if option not in given and parameter.default is parameter.empty:
            raise ForecastError(f"loss `{name}` needs `{option}`")
    return make(**given)


def _nested(option: str, value: Any, context: Mapping[str, Any]) -> Any:
    """`value` with all specs inside it built."""
    if isinstance(value, Mapping):
        if "name" not in value:
            return {key: _nested(option, part, context) for key, part in value.items()}
        if option != "transform":
            return build(value, **context)
        name = _known(value["name"], tuple(_TRANSFORMS), "transform")
        return _made(_TRANSFORMS[name], name, value, context)
    return [_nested(option, part, context) for part in value] if isinstance(value, list | tuple) else value


def _known(name: str, known: tuple[str, ...] | list[str], what: str) -> str:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
        raise ForecastError(f"unknown {what} `{name}`" + (f", did you mean `{near[0]}`?" if near else ""))
    return name
