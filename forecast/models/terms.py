"""Losses beside the score of the members: on events, on the latent, on the weights, with or without a teacher.

A loss of the library says by the names of its parameters what it wants (`members`, `logits`, `first`, `teacher`, ...);
a term gives it what its offer (`offers`) has under these names.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from forecast import losses
from forecast.core import seeding
from forecast.core.errors import ForecastError
from forecast.core.grids import from_points
from forecast.core.sections import Event, Of, Term
from forecast.models.attention import attention_layers
from forecast.models.events import EventHead, head_name
from forecast.models.features import Network
from forecast.models.fields import Fields
from forecast.models.offers import About, Offer, OfWeights, Sizes, Step, Taught
from forecast.models.offers_critic import OfCritic
from forecast.models.offers_events import OfDistribution, OfEvent
from forecast.models.offers_latent import OfAttention, OfCode, OfLatent
from forecast.models.offers_members import OfMembers, OfRollout

OFFERS: dict[Of, type[Offer]] = {
    "members": OfMembers,
    "rollout": OfRollout,
    "event": OfEvent,
    "distribution": OfDistribution,
    "latent": OfLatent,
    "code": OfCode,
    "attention": OfAttention,
    "critic": OfCritic,
    "weights": OfWeights,
}
AT_CALL = ("weight", "generator", "nothing", "everything")
"""inputs that a loss is given wherever it takes them and there are any"""
_LOGITS = {"logits", "scores", "forecast", "prediction", "student"}


class Terms(nn.Module):
    """The further terms of a forecaster's loss, the event heads that some of them share, and what learns with them.

    Args:
        terms: from the config. fields, network: of the forecaster.

    Raises:
        ForecastError: an unknown loss or option, an event of no variable, or a loss that wants what is not there.
    """

    def __init__(self, terms: Mapping[str, Term], fields: Fields, network: Network) -> None:
        super().__init__()
        events = {head_name(term.event): term.event for term in terms.values() if term.event is not None}
        heads = {name: EventHead(event, fields, network.hidden_width) for name, event in events.items()}
        read = {head_name(term.event) for term in terms.values() if term.event is not None and term.of == "event"}
        self.heads = nn.ModuleDict({name: head for name, head in heads.items() if name in read})
        self.terms = dict(terms)
        layers = attention_layers(network)
        sizes = Sizes(len(fields.variables), network.hidden_width, network.latent_width, len(layers),
                      layers[0].heads if layers else 0)  # fmt: skip
        grid = from_points(fields.latitudes, fields.longitudes) if terms else None
        self.about: dict[str, About] = {}
        self.losses, self.companions = nn.ModuleDict(), nn.ModuleDict()
        for name, term in terms.items():
            takes = losses.registry.entry(term.loss).takes
            head = heads[head_name(term.event)] if term.event is not None else None
            assert grid is not None
            about = About(name, term, takes, (), (), fields, grid, head)
            _check(about, sizes)
            context = {"grid": grid, "variables": fields.variables, **OFFERS[term.of].context(about, sizes)}
            self.losses[name] = losses.build({"name": term.loss, **term.options}, **context)
            self.about[name] = about = _with_inputs(about, self.losses[name])
            key, companion = _companion_name(about), OFFERS[term.of].companion(about, sizes)
            if companion is not None and key not in self.companions:
                self.companions[key] = companion

    def forward(
        self,
        steps: Sequence[Step],
        weights: Tensor,
        network: nn.Module,
        teachers: Mapping[str, Sequence[tuple[Terms, Step]]],
        last: bool = True,
    ) -> dict[str, Tensor]:
        """Value of each term, before its weight.

        Args:
            steps: of the rollout, the newest last. weights: (G, V) of the score, summing to 1.
            network: whose matrices terms `of: weights` take.
            teachers: term -> the teachers' terms (for their heads) and their steps from the same states.
            last: whether the rollout ends, and terms of it are due.
        """
        return {
            name: self._value(name, steps, weights, network, teachers.get(name, ()))
            for name, term in self.terms.items()
            if term.of != "rollout" or last
        }

    def _value(
        self,
        name: str,
        steps: Sequence[Step],
        weights: Tensor,
        network: nn.Module,
        teachers: Sequence[tuple[Terms, Step]],
    ) -> Tensor:
        term, about = self.terms[name], self.about[name]
        seed = seeding.key(steps[-1].keys[0], "loss") >> 1
        generator = torch.Generator(steps[-1].truth.device).manual_seed(seed)
        of_event = term.of == "event" and term.event is not None
        taught = [Taught(terms.head(term.event) if of_event and term.event else None, step) for terms, step in teachers]
        companion = dict(self.companions.items()).get(_companion_name(about))
        offer = OFFERS[term.of](steps, about, weights, network, companion, taught, generator)
        inputs = [getattr(offer, parameter) for parameter in about.needed if parameter != "index"]
        at_call = {parameter: getattr(offer, parameter) for parameter in about.optional}
        if "index" in about.needed:
            at_call["index"] = offer.index  # type: ignore[attr-defined]
        value = self.losses[name](*inputs, **{key: given for key, given in at_call.items() if given is not None})
        return value[0] if isinstance(value, tuple) else value  # a combined loss tells its parts as well

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
        readers: dict[str, list[str]] = {name: [] for name in self.heads}
        for about in self.about.values():
            if about.term.of == "event" and about.term.event is not None and about.wants(*_LOGITS):
                readers[head_name(about.term.event)].append(about.term.loss)
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


def _check(about: About, sizes: Sizes) -> None:
    """That the forecaster has what the term is of."""
    term, where = about.term, f"loss.terms.{about.name}"
    if term.of in ("latent", "code") and not sizes.latent:
        raise ForecastError(f"{where}: this kind of model has no latent")
    if term.of == "attention" and not sizes.layers:
        told = "a graph transformer of compact blocks does, unless its processor has windows"
        raise ForecastError(f"{where}: this model tells no attention; {told}")
    if term.variable is not None and term.variable not in about.fields.variables:
        known = ", ".join(about.fields.variables)
        raise ForecastError(f"{where}: a distribution of `{term.variable}`; the forecaster predicts {known}")


def _with_inputs(about: About, module: nn.Module) -> About:
    """With the names of the inputs that a loss needs, and of those that it takes.

    Raises:
        ForecastError: it needs what is not offered.
    """
    parameters = _parameters(module)
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = tuple(p.name for p in positional if p.default is p.empty)
    given = {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}
    if "index" in given and ("samples" in about.term.options or about.term.loss == "aggregate"):
        needed += () if "index" in needed else ("index",) if about.term.loss != "aggregate" else ()
    offer, term = OFFERS[about.term.of], about.term
    there = {name for name in needed if hasattr(offer, name) and (term.teachers or name not in offer.taught)}
    for name in needed:
        if name not in there:
            without = "" if term.teachers else " and no teacher"
            raise ForecastError(
                f"loss.terms.{about.name}: `{term.loss}` wants `{name}`, which training with `of: {term.of}`{without} "
                "does not offer"
            )
    optional = [name for name in AT_CALL if name in given and hasattr(offer, name)]
    if about.term.loss == "aggregate":
        optional.append("index")
    return About(about.name, term, about.takes, needed, tuple(optional), about.fields, about.grid, about.head)


def _parameters(module: nn.Module) -> list[inspect.Parameter]:
    """Of the loss, or of that which it wraps."""
    if type(module).__module__ == losses.wrappers.__name__:
        parts = getattr(module, "terms", None) or getattr(module, "parts", None)
        inner: Any = module.base if parts is None else next(iter(parts.children()))
        return _parameters(inner)
    return list(inspect.signature(getattr(module, "function", module.forward)).parameters.values())


def _companion_name(about: About) -> str:
    """Terms of one sparse code share it, as do those of one critic; else a companion is the term's own."""
    if about.term.of == "critic" and not about.wants("marginal"):
        return "critic" if about.term.event is None else f"critic of {head_name(about.term.event)}"
    return "code" if about.term.of == "code" else about.name
