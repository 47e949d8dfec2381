"""What all forecasters share: a step for members, the loss of a rollout; physical units outside, normalised inside."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from forecast import losses
from forecast.core import seeding
from forecast.core.errors import ForecastError
from forecast.core.sections import LossSection
from forecast.core.variables import minimum
from forecast.data.batch import Batch
from forecast.models import noise as noises
from forecast.models.features import Features, Network
from forecast.models.fields import Fields
from forecast.models.normaliser import Normaliser
from forecast.models.offers import Step
from forecast.models.score import Score
from forecast.models.terms import Terms

Given = tuple[list[Tensor], Tensor, Tensor, Tensor]
"""T past states (B, M or 1, G, P), forcings (B, G, F), flags (B,), times (B, 3)"""


class Outcome(NamedTuple):
    """What one step gives.

    Attributes:
        state: (B, M, G, V), normalised. features: of the network that made it.
        terms: name -> a term that the kind of forecaster adds to its loss, e.g. a divergence, its weight included.
        shown: name -> a number that is shown beside the loss.
    """

    state: Tensor
    features: Features
    terms: dict[str, Tensor]
    shown: dict[str, Tensor] = {}  # noqa: RUF012 - never written


def clock(dates: np.ndarray, step: int, device: torch.device | str = "cpu") -> Tensor:
    """(B, 3) of steps whose newest input states are of `dates` (B,): number of the step, hour / 24, day of year / 365.

    Steps count from 0, for the one that leaves the analysis; days from 1, and the last of a leap year is 365, too.
    """
    dates = np.asarray(dates, dtype="datetime64[s]")
    day, year = dates.astype("datetime64[D]"), dates.astype("datetime64[Y]")
    hour = (dates - day) / np.timedelta64(1, "h")
    of_year = np.minimum((day - year.astype("datetime64[D]")) / np.timedelta64(1, "D") + 1, 365)
    columns = [np.full(len(dates), step), hour / 24, of_year / 365]
    return torch.tensor(np.stack(columns, axis=1), dtype=torch.float32, device=device)


class Forecaster(nn.Module):
    """What forecasters of every kind have in common: states in, states out, and the loss of a rollout.

    A kind says how it makes its network (`_make_network`) and what one step does (`_advance`). The network has
    `noise_shape` and `hidden_width`, the width of the features that event heads read.

    Attributes:
        section, fields, loss: what it was built from.
        inputs: columns of what the network may read: states, forcings, static fields, step flag.
        precision: of the network's matrix products: float32, bfloat16 or auto. Kept with the weights.
        rescored: what training makes of the scores (S, B, G, V) of a rollout's steps, if it has a say in them.
        noise_shape: (N, C) mesh nodes and noise channels of one member and step. points: of the grid that it is given.
    """

    def __init__(self, section: Any, fields: Fields, loss: LossSection) -> None:
        super().__init__()
        self.section, self.fields, self.loss = section, fields, loss
        self.precision, self.points = "float32", fields.grid_size
        self.rescored: Callable[[Tensor, Sequence[Step]], Tensor] | None = None
        self.normalise = Normaliser(fields, fields.variables)
        self.normalise_static = Normaliser(fields, fields.static)
        self.prognostic = len(fields.prognostic)
        self.inputs = fields.input_steps * self.prognostic + len(fields.forcings) + len(fields.static) + 1
        self.network: Network = self._make_network()
        self.noise_shape = self.network.noise_shape
        self._register(_increments(fields, self.normalise), _lower(fields, self.normalise))
        self.score = Score(loss, fields)
        self.terms = Terms(loss.terms, fields, self.network)
        self._taught_by: dict[str, list[Forecaster]] = {}
        weights = losses.weights.from_section(loss, fields.variables, fields.areas, self.step_scale.double().numpy())
        self.register_buffer("weights", torch.tensor(weights, dtype=torch.float32), persistent=False)

    def _make_network(self) -> Network:
        raise NotImplementedError

    def _advance(
        self,
        past: list[Tensor],
        forcings: Tensor,
        from_analysis: Tensor,
        times: Tensor,
        noise: Tensor,
        truth: Tensor | None = None,
    ) -> Outcome:
        """One step in normalised units.

        Args:
            past: T states (B, M or 1, G, P), newest last. forcings: (B, G, F). from_analysis: (B,) flags.
            times: (B, 3) as `clock`. noise: (B, M, N, C). truth: (B, G, V) the state to be forecast, in training only.
        """
        raise NotImplementedError

    def check_members(self, numbers: Iterable[int]) -> None:
        """Whether training with such numbers of members makes sense.

        Raises:
            ForecastError: says what would.
        """

    def begin_update(self, update: int) -> None:
        """Told before every update of training how many with several members came before it."""

    def diagnose(self, batches: Iterable[Batch], members: int, seed: int) -> dict[str, dict[str, list[float | None]]]:
        """What validation reports beside the scores: kind of number -> what it is of -> values."""
        return {}

    step_scale: Tensor
    mean: Tensor
    lower: Tensor
    weights: Tensor

    def _register(self, step_scale: Tensor, lower: Tensor) -> None:
        self.register_buffer("step_scale", step_scale, persistent=False)
        self.register_buffer("lower", lower, persistent=False)
        mean = torch.tensor(self.fields.column("mean", self.fields.variables), dtype=torch.float32)
        self.register_buffer("mean", self.normalise(mean), persistent=False)

    def step(
        self,
        window: Tensor,
        forcings: Tensor,
        first: bool,
        noise: Tensor,
        times: Tensor | None = None,
        events: bool = False,
    ) -> Tensor:
        """One forecast step.

        Args:
            window: (B, M or 1, T, G, V) states, physical units, T = input_steps, newest last; diagnostic columns may
                be absent and are not read. Members that share their state may be given once (dimension 1).
            forcings: (B, G, F) computed forcings and static fields at the date of the newest state.
            first: whether the window holds analyses, not forecasts.
            noise: (B, M, N, C) standard normals, N and C as `noise_shape`.
            times: (B, 3) as `clock`; may be left out where the kind of forecaster does not read it.
            events: whether probabilities of events (`terms.probabilities`) follow as further columns.

        Returns:
            (B, M, G, V) states one step later, physical units.
        """
        p = self.prognostic
        past, present = self._imputed(self.normalise(window[..., :p]))
        flag = torch.full((len(window),), first, device=window.device)
        times = torch.full((len(window), 3), torch.nan, device=window.device) if times is None else times
        outcome = self._advance(list(past.unbind(2)), self._forcings(forcings), flag, times, noise)
        states = self.normalise.inverse(outcome.state)
        if present is not None:
            states = torch.cat([states[..., :p].where(present[:, :, -1], torch.nan), states[..., p:]], dim=-1)
        return torch.cat([states, self.terms.predict(outcome.features.hidden)], dim=-1) if events else states

    def training_loss(self, batch: Batch, members: int, noise_keys: Sequence[int]) -> dict[str, Tensor]:
        """Terms of the loss of a rollout of `batch.rollout` steps, averaged over steps.

        Args:
            noise_keys: (B,) one key per sample; its members and steps derive theirs from it.

        Returns:
            `loss`, which is minimised, and detached: per variable the unweighted score in normalised units, and each
            further term.

        Raises:
            ForecastError: values that are not finite, or a batch that does not fit the fields.
        """
        self._check(batch)
        states, present = self._imputed(self.normalise(batch.states))
        forcings = self._forcings(batch.forcings)
        inputs, teachers = self.fields.input_steps, self._teachers()
        past = [states[:, None, t, :, : self.prognostic] for t in range(inputs)]
        from_analysis, taken, further = batch.starts_from_analysis, list[Step](), []
        shown: list[dict[str, Tensor]] = []
        for s in range(batch.rollout):
            times = clock(batch.dates[:, inputs - 1 + s], s, states.device)
            given = (past, forcings[:, inputs - 1 + s], from_analysis, times)
            there = None if present is None else present[:, inputs + s]
            observed = (given, states[:, inputs + s], there, batch, members, noise_keys, s)
            step, own, beside = self._observe(*observed)
            taken.append(step)
            with torch.no_grad():
                same = {name: [(t.terms, t._observe(*observed)[0]) for t in found] for name, found in teachers.items()}
            last = s == batch.rollout - 1
            further.append(own | self._further(taken, same, last))
            shown.append(beside)
            past = [*past[1:], step.members[..., : self.prognostic]]
            from_analysis = torch.zeros_like(from_analysis)
        scores = torch.stack([step.score for step in taken])
        if self.rescored is not None:
            scores = self.rescored(scores, taken)
        return self._sum(scores.mean(dim=(0, 1)), further) | _means(shown)

    def _further(self, steps: Sequence[Step], teachers: Mapping[str, Any], last: bool) -> dict[str, Tensor]:
        """Value of each further term after a step of the rollout, the `last` or not."""
        found: dict[str, Tensor] = self.terms(steps, self.weights, self.network, teachers, last)
        return found

    def _score(self, members: Tensor, truth: Tensor) -> Tensor:
        """(B, G, V) of one step."""
        score: Tensor = self.score(members, truth)
        return score

    def _observe(
        self,
        given: Given,
        truth: Tensor,
        present: Tensor | None,
        batch: Batch,
        members: int,
        keys: Sequence[int],
        step: int,
    ) -> tuple[Step, dict[str, Tensor], dict[str, Tensor]]:
        """One step from past states, forcings, flags and times; the kind's own terms, and what it shows.

        Where the truth is not `present` (B, G, V), members are zero as it is.
        It is recomputed for its gradient if so configured.
        """
        past, forcings, from_analysis, times = given
        noise = self._noise(keys, members, step)
        arguments = (*given, noise, truth)
        if self.section.activation_checkpointing in ("step", "both", True) and torch.is_grad_enabled():
            outcome = checkpoint(self._advance, *arguments, use_reentrant=False)
        else:
            outcome = self._advance(*arguments)

        def run(past: list[Tensor], forcings: Tensor, noise: Tensor) -> tuple[Tensor, Features]:
            again = self._advance(past, forcings, from_analysis, times, noise, truth)
            return again.state, again.features

        state, dates = outcome.state, batch.dates[:, self.fields.input_steps + step]
        if present is not None:
            state = state.where(present[:, None], 0.0)
        score, places = self._score(state, truth), batch.places
        seen = Step(state, truth, score, outcome.features, keys, past, forcings, noise, run, places, dates)
        return seen, outcome.terms, outcome.shown

    def _teachers(self) -> dict[str, list[Forecaster]]:
        """Term -> its teachers, read when they are first needed and no part of this module."""
        for name, term in self.loss.terms.items():
            if term.teachers and name not in self._taught_by:
                read = [load_teacher(folder, self.fields) for folder in term.teachers]
                self._taught_by[name] = [teacher.to(self.lower.device) for teacher in read]
        return self._taught_by

    def _sum(self, score: Tensor, further: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The loss, and detached: per-variable means of the score (G, V), and every term."""
        area_means = torch.einsum("gv,g->v", score.detach(), self.weights.sum(dim=1))
        names = (f"{self.loss.name}/{name}" for name in self.fields.variables)
        loss = (score * self.weights).sum()
        parts = {name: torch.stack([step[name] for step in further if name in step]).mean() for name in further[-1]}
        for name, part in parts.items():
            loss = loss + (self.loss.terms[name].weight if name in self.loss.terms else 1.0) * part
        shown = {f"terms/{name}": part.detach() for name, part in parts.items()}
        return {"loss": loss, **dict(zip(names, area_means, strict=True)), **shown}

    def _imputed(self, states: Tensor) -> tuple[Tensor, Tensor | None]:
        """Normalised states with zeros in gaps, and where there are none; the states alone where none may be."""
        if not self.fields.masked:
            return states, None
        return states.nan_to_num(nan=0.0), ~states.isnan()

    def _forcings(self, forcings: Tensor) -> Tensor:
        """Static fields, the last columns, normalised."""
        static = len(self.fields.static)
        if not static:
            return forcings
        return torch.cat([forcings[..., :-static], self.normalise_static(forcings[..., -static:])], dim=-1)

    def _noise(self, keys: Sequence[int], members: int, step: int) -> Tensor:
        """(B, M, N, C) from the samples' keys."""
        here = self._members(members)
        each = [seeding.key(key, "train-noise", member, step) for key in keys for member in here]
        return self.draw(each).unflatten(0, (len(keys), len(here)))

    def _members(self, members: int) -> Sequence[int]:
        """Those that are computed here."""
        return range(members)

    def draw(self, keys: Sequence[int]) -> Tensor:
        """(len(keys), N, C) standard normals of members and steps with such keys."""
        return noises.draw(keys, self.noise_shape, self.lower.device)

    def _check(self, batch: Batch) -> None:
        shape = (self.points, len(self.fields.variables))
        if tuple(batch.states.shape[2:]) != shape or batch.input_steps != self.fields.input_steps:
            raise ForecastError(
                f"batch of states {tuple(batch.states.shape)} with {batch.input_steps} input steps; the forecaster "
                f"wants {shape[0]} points, {shape[1]} variables and {self.fields.input_steps} input steps"
            )
        bad = ~torch.isfinite(batch.states)
        if self.fields.masked:
            bad[..., [self.fields.variables.index(name) for name in self.fields.masked]] = False
        if bad.any():
            at = bad.any(dim=2).nonzero()[0].tolist()
            name, date = self.fields.variables[at[2]], batch.dates[at[0], at[1]]
            raise ForecastError(
                f"`{name}` at {date} has missing values: name it under data.masked if it always has gaps"
            )


def _means(steps: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Means over the steps of a rollout, detached."""
    return {name: torch.stack([step[name] for step in steps]).mean().detach() for name in steps[0]}


def load_teacher(folder: str, fields: Fields) -> Forecaster:
    """The forecaster in `folder`, which must read and write the same fields.

    Raises:
        ForecastError: no checkpoint there, or other fields.
    """
    from forecast.models.serialise import load_forecaster  # which needs this module to build one

    teacher = load_forecaster(folder).requires_grad_(False)
    mine, theirs = fields.to_json(), teacher.fields.to_json()
    differing = [name for name in mine if mine[name] != theirs[name]]
    if differing:
        raise ForecastError(f"loss.terms: the teacher {folder} has other {differing[0]}: train both on one store")
    return teacher


def _increments(fields: Fields, normaliser: Normaliser) -> Tensor:
    """(V,) normalised size of a unit of network output: tendency standard deviation, 1 for diagnostic variables."""
    tendency = fields.column("tendency_stdev", fields.prognostic)
    for name, value in zip(fields.prognostic, tendency, strict=True):
        if not value > 0:
            raise ForecastError(f"`{name}` does not change from step to step: list it under data.static")
    physical = np.concatenate([tendency, fields.column("stdev", fields.diagnostic)])
    return torch.tensor(normaliser.spread(physical), dtype=torch.float32)


def _lower(fields: Fields, normaliser: Normaliser) -> Tensor:
    """(V,) normalised physical minimum, minus infinity where there is none."""
    bounds = [minimum(name) for name in fields.variables]
    return normaliser(torch.tensor([-np.inf if bound is None else bound for bound in bounds], dtype=torch.float32))
