"""Losses by short name, as a config asks for them, and what is known of each."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from torch import nn

from forecast.core.errors import ForecastError

Takes = Literal["ensemble", "field", "event", "classes", "latent", "teacher", "parameters", "other"]
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
        takes: what it is fed: ensemble (members, truth); field (forecast, truth); event (logits, 0 or 1 labels);
            classes (logits, class numbers); latent (features of one or two views); teacher (student, teacher);
            parameters (weights or activations of a network); other.
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


def build(spec: Mapping[str, Any]) -> nn.Module:
    """The loss that `spec` names, e.g. {"name": "almost_fair_crps", "alpha": 0.95}.

    Raises:
        ForecastError: an unknown name or option; names the nearest known one.
    """
    options = dict(spec)
    found = entry(options.pop("name", ""))
    accepted = list(inspect.signature(found.make).parameters)
    return found.make(
        **{_known(option, accepted, f"option of {found.name}"): value for option, value in options.items()}
    )


def _known(name: str, known: tuple[str, ...] | list[str], what: str) -> str:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
        raise ForecastError(f"unknown {what} `{name}`" + (f", did you mean `{near[0]}`?" if near else ""))
    return name
