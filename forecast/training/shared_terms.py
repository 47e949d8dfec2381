"""Further terms of the loss on a mesh: each process computes them of some samples, which it is given whole.

Members, points and features of a sample come together on one process, so a term sees what it sees in one process that
has so many samples; values are weighted by the share of the samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from forecast.core.errors import ForecastError
from forecast.models.features import Features
from forecast.models.offers import About, Step
from forecast.models.score import Score
from forecast.models.terms import OFFERS, Terms
from forecast.training.whole import Samples

Taught = Mapping[str, Sequence[tuple[Terms, Step]]]


class Needs:
    """What of a step the terms of a forecaster read, beside states and truth.

    Raises:
        ForecastError: a term that makes a pass of its own through the network.
    """

    def __init__(self, terms: Terms, axes: str) -> None:
        every = list(terms.about.values())
        for about in every:
            if about.wants(*OFFERS[about.term.of].passes):
                raise ForecastError(
                    f"loss.terms.{about.name}: `{about.term.loss}` makes a pass of its own through the network, of "
                    f"which each process of a mesh with {axes} has a part: use the data axis alone"
                )
        self.hidden = any(about.term.of in ("event", "distribution") or _has_features(about) for about in every)
        self.latent = any(about.term.of in ("latent", "code") or about.wants("latents") for about in every)
        self.past = any(about.wants("condition", "inputs") for about in every)
        self.score = any(about.wants("losses", "target") for about in every)


class Everywhere(Terms):
    """Terms in which every weight takes part on every process in every update, even where no sample is."""

    def forward(
        self, steps: Sequence[Step], weights: Tensor, network: Any, teachers: Taught, last: bool = True
    ) -> dict[str, Tensor]:
        """As of all terms; without steps they are zero."""
        found = dict.fromkeys(_due(self, last), weights.new_zeros(()))
        if steps:
            found = super().forward(steps, weights, network, teachers, last)
        tie = 0.0 * torch.stack([p.sum() for p in self.parameters()]).sum()
        return {name: value + tie for name, value in found.items()}


def _due(terms: Terms, last: bool) -> list[str]:
    """Names of those that have a value at this step."""
    return [name for name, term in terms.terms.items() if term.of != "rollout" or last]


def _has_features(about: About) -> bool:
    return about.term.of in ("members", "rollout") and about.wants("latent", "latents", "prediction")


class WholeTerms:
    """The terms of one forecaster, step by step of a rollout.

    Args:
        axes: of the mesh, for messages.
    """

    def __init__(self, terms: Terms, score: Score, axes: str) -> None:
        self._needs, self._score = Needs(terms, axes), score
        self._steps: list[Step] = []
        self._tied = 0

    def __call__(
        self, terms: Terms, weights: Tensor, network: Any, steps: Sequence[Step], teachers: Taught, last: bool,
        samples: Samples,
    ) -> dict[str, Tensor]:  # fmt: skip
        """This process's part of each term; the parts add up to the term."""
        if len(steps) == 1:
            self._steps, self._tied = [], 0
        self._steps.append(self._whole(steps[-1], samples))
        taught = {name: [(t, self._whole(step, samples)) for t, step in found] for name, found in teachers.items()}
        due = _due(terms, last)
        found = dict.fromkeys(due, steps[-1].members.new_zeros(()))
        if samples.part or isinstance(terms, Everywhere):
            found = terms(self._steps if samples.part else [], weights, network, taught, last)
        found = {name: samples.part * value for name, value in found.items()}
        if due:
            found[due[0]] = found[due[0]] + self._tie()
        return found

    def _tie(self) -> Tensor:
        """Zero, of all that was exchanged: so all processes make all exchanges backwards, whatever a term takes."""
        steps, self._tied = self._steps[self._tied :], len(self._steps)
        given = [x for step in steps for x in (step.members, *step.features, *step.past)]
        return 0.0 * torch.stack([x.sum() for x in given]).sum()

    def _whole(self, step: Step, samples: Samples) -> Step:
        needs, mine = self._needs, samples.mine
        members, truth = samples.members(step.members), samples.fields(step.truth)
        features, past = step.features, [members[:, :, :0]]
        hidden = samples.members(features.hidden) if needs.hidden else members[..., :0]
        latent = samples.latents(features.latent) if needs.latent else members[..., :0]
        if needs.past:
            past = [samples.members(step.past[-1].expand(-1, step.members.shape[1], -1, -1))]
        score = self._score(members, truth) if needs.score and len(truth) else truth
        return replace(
            step, members=members, truth=truth, score=score, features=Features(hidden, latent), past=past,
            keys=step.keys[mine], dates=step.dates[mine], places=None if step.places is None else step.places[mine],
        )  # fmt: skip
