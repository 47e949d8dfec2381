"""Event heads: how likely a variable exceeds values, or lies between which, at every grid point."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from forecast.core.errors import ForecastError
from forecast.core.sections import Event
from forecast.core.variables import metadata
from forecast.models.fields import Fields
from forecast.models.normaliser import Normaliser


class EventHead(nn.Module):
    """Logits of an event at every grid point, from the members' mean features; and its labels.

    Attributes:
        event: what it predicts. thresholds: (1 or edges,) in normalised units of the variable.
    """

    thresholds: Tensor

    def __init__(self, event: Event, fields: Fields, width: int) -> None:
        super().__init__()
        self.event = event
        if event.variable not in fields.variables:
            known = ", ".join(fields.variables)
            raise ForecastError(f"loss.terms: an event of `{event.variable}`; the forecaster predicts {known}")
        self.column, self.bins = fields.variables.index(event.variable), bool(event.edges)
        self.alone = isinstance(event.above, float)
        values = torch.tensor(_values(event), dtype=torch.float32)
        thresholds = Normaliser(fields, (event.variable,))(values[:, None])[:, 0]
        self.register_buffer("thresholds", thresholds, persistent=False)
        self.read = nn.Linear(width, len(values) + self.bins)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, G) logits of one exceedance, or (B, K, G) of several or of bins, from (B, M, G, width)."""
        logits = self.read(hidden.float().mean(dim=1))
        return logits[..., 0] if self.alone else logits.movedim(-1, 1)

    def labels(self, truth: Tensor) -> Tensor:
        """1 where a value is exceeded, else 0, of the logits' shape; or (B, G) numbers of bins. From (B, G, V)."""
        values = truth[..., self.column].contiguous()
        if self.bins:
            return torch.bucketize(values, self.thresholds)
        exceeded = (values[:, None] > self.thresholds[:, None]).float()
        return exceeded[:, 0] if self.alone else exceeded

    def probabilities(self, hidden: Tensor) -> Tensor:
        """(B, M, G, K) of each member alone, from (B, M, G, width); K as `columns`. Classes of bins sum to 1."""
        logits = self.read(hidden.float())
        return logits.softmax(dim=-1) if self.bins else logits.sigmoid()

    def bounds(self, fields: Fields) -> dict[str, list[float]]:
        """Edges of all bins, normalised, the outer ones as far as the archive's values go; nothing for exceedances."""
        if not self.bins:
            return {}
        extremes = torch.tensor([[fields.statistics[self.event.variable][name]] for name in ("minimum", "maximum")])
        low, high = Normaliser(fields, (self.event.variable,))(extremes.float())[:, 0].tolist()
        edges = self.thresholds.tolist()
        return {"edges": [min(low, edges[0] - 0.1), *edges, max(high, edges[-1] + 0.1)]}

    @property
    def columns(self) -> dict[str, dict[str, Any]]:
        """Name -> CF attributes of each probability."""
        return dict(_columns(self.event))


def head_name(event: Event) -> str:
    """Name of the event's head, which becomes part of the names of its weights."""
    words = [event.variable, "in" if event.edges else "above", *(f"{value:g}" for value in _values(event))]
    return " ".join(words).replace(".", "p")


def _values(event: Event) -> tuple[float, ...]:
    return event.edges or (event.above if isinstance(event.above, tuple) else (event.above or 0.0,))


def _columns(event: Event) -> Iterator[tuple[str, dict[str, Any]]]:
    """`probability_of_tp_above_0p004`, or `probability_of_tp_class_0` and following with their bounds."""
    known, values = metadata(event.variable), _values(event)
    what, units = known["long_name"], known["units"]
    about = {"units": "1", "valid_min": 0.0, "valid_max": 1.0, "event_variable": event.variable,
             "threshold_units": units, "comment": "of each member alone; the ensemble's is the mean over `number`; "
             "missing at lead time 0"}  # fmt: skip
    if not event.edges:
        for value in values:
            name = f"probability_of_{event.variable}_above_{_plain(value)}"
            yield name, {"long_name": f"Probability of {what} above {value:g} {units}", "threshold": value, **about}
        return
    for k, (low, high) in enumerate(zip((None, *values), (*values, None), strict=True)):
        bounds = {"lower_threshold": low, "upper_threshold": high}
        words = [f"{word} {value:g}" for word, value in (("above", low), ("up to", high)) if value is not None]
        name = f"probability_of_{event.variable}_class_{k}_of_{'_'.join(map(_plain, values))}"
        told = {key: value for key, value in bounds.items() if value is not None}
        yield name, {"long_name": f"Probability of {what} {' and '.join(words)} {units}", **told, **about}


def _plain(value: float) -> str:
    """A number as a part of a name; never digits alone, which at the end of a name are a pressure level."""
    text = f"{value:g}"
    return (f"{text}.0" if text.lstrip("-").isdigit() else text).replace(".", "p").replace("-", "minus")
