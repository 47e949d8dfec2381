"""Losses beside the score of the members: on events, on the latent, on the weights, with or without a teacher.

A loss of the library says by the names of its parameters what it wants (`members`, `logits`, `first`, `teacher`, ...);
a term gives it what the forecaster has to offer under these names.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from forecast import losses
from forecast.core import seeding
from forecast.core.errors import ForecastError
from forecast.core.grids import from_points
from forecast.core.sections import Event, Term
from forecast.models.events import EventHead, head_name
from forecast.models.features import Features
from forecast.models.fields import Fields

_LOGITS = {"logits", "scores", "forecast", "prediction", "student"}


@dataclass(frozen=True)
class Step:
    """One step of a rollout, as the terms see it.

    Attributes:
        members: (B, M, G, V) states, normalised. truth: (B, G, V), normalised.
        features: of the network that made the members.
        keys: (B,) keys of the samples, for losses that draw.
    """

    members: Tensor
    truth: Tensor
    features: Features
    keys: Sequence[int]


class Terms(nn.Module):
    """The further terms of a forecaster's loss, and the event heads that some of them share.

    Args:
        terms: from the config. fields: of the forecaster. width: of the features that heads read.

    Raises:
        ForecastError: an unknown loss or option, an event of no variable, or a loss that wants what is not there.
    """

    def __init__(self, terms: Mapping[str, Term], fields: Fields, width: int) -> None:
        super().__init__()
        events = {head_name(term.event): term.event for term in terms.values() if term.event is not None}
        self.heads = nn.ModuleDict({name: EventHead(event, fields, width) for name, event in events.items()})
        self.terms = dict(terms)
        self.grid = from_points(fields.latitudes, fields.longitudes) if terms else None
        context = {"grid": self.grid, "variables": fields.variables}
        built = {name: losses.build({"name": term.loss, **term.options}, **context) for name, term in terms.items()}
        self.losses = nn.ModuleDict(built)
        self.wanted = {name: _wanted(module) for name, module in self.losses.items()}

    def forward(
        self, step: Step, weights: Tensor, network: nn.Module, teachers: Mapping[str, tuple[Terms, Step]]
    ) -> dict[str, Tensor]:
        """Value of each term, before its weight.

        Args:
            weights: (G, V) of the score, summing to 1. network: whose matrices terms `of: weights` take.
            teachers: term -> the teacher's terms (for its heads) and its step from the same states.
        """
        out = {}
        for name, term in self.terms.items():
            offer = self._offer(name, step, weights, network)
            if name in teachers:
                theirs, same = teachers[name]
                offer |= {"student": _compared(self, term, step), "teacher": _compared(theirs, term, same)}
            out[name] = self._call(name, offer)
        return out

    def _offer(self, name: str, step: Step, weights: Tensor, network: nn.Module) -> dict[str, Any]:
        term = self.terms[name]
        generator = torch.Generator(step.truth.device).manual_seed(seeding.key(step.keys[0], "loss") >> 1)
        common: dict[str, Any] = {"generator": generator}
        if term.event is not None:
            rows = "features" in self.wanted[name][0]
            takes = "rows" if rows else losses.registry.entry(term.loss).takes
            return common | self._event(term.event, step, weights, takes)
        if term.of == "weights":
            return common | {"weights": [p for p in network.parameters() if p.ndim == 2]}
        if term.of == "latent":
            return common | _latent(step.features.latent)
        common |= {"members": step.members, "references": step.truth[:, None], "weight": weights / weights.mean()}
        if not {"forecast", "prediction", "student"} & set(self.wanted[name][0]):
            return common | _distribution(step.members) | {"truth": step.truth}
        each, truth = step.members.flatten(0, 1), step.truth.repeat_interleave(step.members.shape[1], dim=0)
        return common | {"forecast": each, "prediction": each, "truth": truth, "target": truth}

    def _event(self, event: Event, step: Step, weights: Tensor, takes: str) -> dict[str, Any]:
        head = self.head(event)
        logits, labels = head(step.features.hidden), head.labels(step.truth)
        weight = {"weight": weights.sum(dim=1) * len(weights)}
        if takes == "rows":
            each = weight["weight"].expand(len(logits), -1).flatten()
            weight["weight"] = each if labels.ndim < 3 else each[:, None]
            logits = logits.flatten() if head.alone else logits.movedim(1, -1).flatten(0, 1)
            labels = labels.flatten() if labels.ndim < 3 else labels.movedim(1, -1).flatten(0, 1)
        if takes == "maps":  # which are scored whole, so that no point has a weight
            if self.grid is None or not self.grid.is_regular:
                raise ForecastError("loss.terms: a loss of maps needs a grid of rows and columns")
            logits, labels = (x.unflatten(-1, self.grid.shape) for x in (logits, labels))
            weight = {}
        offer = dict.fromkeys(("logits", "scores", "forecast", "prediction"), logits)
        offer["features"] = step.features.hidden.mean(dim=1).float().flatten(0, 1)
        return offer | dict.fromkeys(("labels", "label", "outcome", "truth", "target"), labels) | weight

    def begin_epoch(self, epoch: int) -> None:
        """Tell losses that go by epochs that the next one, counted from 0, begins."""
        for module in self.losses.modules():
            begin: Any = getattr(module, "set_epoch", None)
            if begin is not None:
                begin(epoch)

    @property
    def probabilities(self) -> dict[str, dict[str, Any]]:
        """Name -> CF attributes of what `predict` gives: the heads that some term trains, in order."""
        named: dict[str, dict[str, Any]] = {}
        for head, trained_with in self._trained():
            named |= {name: {**about, "trained_with": trained_with} for name, about in head.columns.items()}
        return named

    def predict(self, hidden: Tensor) -> Tensor:
        """(B, M, G, K) probabilities of events, K as `probabilities`, from features (B, M, G, width)."""
        parts = [head.probabilities(hidden) for head, _ in self._trained()]
        return torch.cat(parts, dim=-1) if parts else hidden.new_empty(*hidden.shape[:-1], 0, dtype=torch.float32)

    def _trained(self) -> list[tuple[EventHead, str]]:
        """The heads whose logits some term reads, and the losses of these terms."""
        readers = {name: [term.loss for key, term in self.terms.items() if term.event is not None
                          and head_name(term.event) == name and _LOGITS & set(self.wanted[key][0])]
                   for name in self.heads}  # fmt: skip
        return [(self._head(name), ", ".join(losses)) for name, losses in readers.items() if losses]

    def head(self, event: Event) -> EventHead:
        """The head of an event.

        Raises:
            ForecastError: no term has trained one.
        """
        name = head_name(event)
        if name not in self.heads:
            raise ForecastError(f"loss.terms: the teacher has no head for {name}: train it with such a term as well")
        return self._head(name)

    def _head(self, name: str) -> EventHead:
        head = self.heads[name]
        assert isinstance(head, EventHead)
        return head

    def _call(self, name: str, offer: dict[str, Any]) -> Tensor:
        needed, optional = self.wanted[name]
        missing = [parameter for parameter in needed if parameter not in offer]
        if missing:
            term = self.terms[name]
            raise ForecastError(
                f"loss.terms.{name}: `{term.loss}` wants `{missing[0]}`, which training with `of: {term.of}`"
                f"{'' if term.teacher else ' and no teacher'} does not offer"
            )
        given = {parameter: offer[parameter] for parameter in optional if parameter in offer}
        value = self.losses[name](*(offer[parameter] for parameter in needed), **given)
        return value[0] if isinstance(value, tuple) else value  # a combined loss tells its parts as well


def _latent(latent: Tensor) -> dict[str, Tensor]:
    """Rows (R, D) of the first two members, mesh nodes being samples, and the moments of each, (1, D)."""
    first, second = (latent[:, m].float().flatten(0, 1) for m in (0, 1))
    offer = {"features": first, "first": first, "second": second}
    for name, rows in (("", first), ("first_", first), ("second_", second), ("prior_", second)):
        variance, mean = torch.var_mean(rows, dim=0, keepdim=True)
        offer |= {f"{name}mean": mean, f"{name}logvar": variance.clamp_min(1e-6).log()}
    return offer


def _distribution(members: Tensor) -> dict[str, Tensor]:
    """The ensemble (B, M, G, V) as a normal distribution, as quantiles and as an interval, at each point."""
    variance, mean = torch.var_mean(members, dim=1)
    ordered = members.sort(dim=1).values
    sigma = variance.clamp_min(1e-8).sqrt()
    return {"mean": mean, "sigma": sigma, "variance": variance, "quantiles": ordered, "lower": ordered[:, 0],
            "upper": ordered[:, -1]}  # fmt: skip


def _compared(terms: Terms, term: Term, step: Step) -> Tensor:
    """What of a student and its teacher is compared: logits (B, K, G), features (R, D) or states (B * M, G, V)."""
    if term.event is not None:
        logits = terms.head(term.event)(step.features.hidden)
        return logits if logits.ndim == 3 else logits[:, None]
    if term.of == "latent":
        return step.features.latent.float().flatten(0, 2)
    return step.members.flatten(0, 1)


def _wanted(module: nn.Module) -> tuple[list[str], list[str]]:
    """Names of the inputs that a loss needs, and of those that it takes."""
    if isinstance(module, losses.wrappers.CombinedLoss):
        return _wanted(next(iter(module.terms.values())))
    function = getattr(module, "function", module.forward)
    parameters = inspect.signature(function).parameters.values()
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = [p.name for p in positional if p.default is p.empty]
    return needed, [p.name for p in parameters if p.name in ("weight", "generator")]
