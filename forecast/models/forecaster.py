"""The forecaster: one step for members, and the loss of a rollout. Physical units outside, normalised inside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from forecast import losses
from forecast.core import seeding
from forecast.core.errors import ForecastError
from forecast.core.sections import LossSection, ModelSection
from forecast.core.variables import minimum
from forecast.data.batch import Batch
from forecast.models import graph as graphs
from forecast.models import noise as noises
from forecast.models.fields import Fields
from forecast.models.graph_transformer import Features, GraphTransformer
from forecast.models.normaliser import Normaliser
from forecast.models.terms import Step, Terms

FROM_ANALYSIS, AUTOREGRESSIVE = 1.0, 2.0


def build(section: ModelSection, fields: Fields, loss: LossSection | None = None) -> Forecaster:
    """A fresh forecaster, which forecasts persistence; its weights come from torch's global generator.

    Raises:
        ForecastError: statistics missing, or a graph that the grid cannot fill.
    """
    return Forecaster(section, fields, loss or LossSection())


class Forecaster(nn.Module):
    """x(t + step) = x(t) + f(x(t), x(t - step), forcings, noise) for prognostic variables, f alone for diagnostic ones.

    f is in units of each variable's tendency standard deviation. Variables with a physical minimum are kept above it.

    Attributes:
        section, fields, loss: what it was built from.
        precision: of the network's matrix products: float32, bfloat16 or auto. Kept with the weights.
        noise_shape: (N, C) mesh nodes and noise channels of one member and step.
    """

    def __init__(self, section: ModelSection, fields: Fields, loss: LossSection) -> None:
        super().__init__()
        self.section, self.fields, self.loss = section, fields, loss
        self.precision = "float32"
        self.normalise = Normaliser(fields, fields.variables)
        self.normalise_static = Normaliser(fields, fields.static)
        self.prognostic = len(fields.prognostic)
        inputs = fields.input_steps * self.prognostic + len(fields.forcings) + len(fields.static) + 1
        graph = graphs.build(fields.latitudes, fields.longitudes, section)
        self.network = GraphTransformer(section, graph, inputs, len(fields.variables))
        self.noise_shape = self.network.noise_shape
        self._register(_increments(fields, self.normalise), _lower(fields, self.normalise))
        options = {"alpha": loss.alpha} if loss.name == "almost_fair_crps" else {}
        self.score = losses.build({"name": loss.name, "reduction": "none", **options, **loss.options})
        self.terms = Terms(loss.terms, fields, 2 * section.grid_width)
        self._taught_by: dict[str, Forecaster] = {}
        weights = losses.weights.from_section(loss, fields.variables, fields.areas, self.step_scale.double().numpy())
        self.register_buffer("weights", torch.tensor(weights, dtype=torch.float32), persistent=False)

    step_scale: Tensor
    mean: Tensor
    lower: Tensor
    weights: Tensor

    def _register(self, step_scale: Tensor, lower: Tensor) -> None:
        self.register_buffer("step_scale", step_scale, persistent=False)
        self.register_buffer("lower", lower, persistent=False)
        mean = torch.tensor(self.fields.column("mean", self.fields.variables), dtype=torch.float32)
        self.register_buffer("mean", self.normalise(mean), persistent=False)

    def step(self, window: Tensor, forcings: Tensor, first: bool, noise: Tensor) -> Tensor:
        """One forecast step.

        Args:
            window: (B, M or 1, T, G, V) states, physical units, T = input_steps, newest last; diagnostic columns may
                be absent and are not read. Members that share their state may be given once (dimension 1).
            forcings: (B, G, F) computed forcings and static fields at the date of the newest state.
            first: whether the window holds analyses, not forecasts.
            noise: (B, M, N, C) standard normals, N and C as `noise_shape`.

        Returns:
            (B, M, G, V) states one step later, physical units.
        """
        p = self.prognostic
        past = (window[..., :p] - self.normalise.offset[:p]) / self.normalise.scale[:p]
        flag = torch.full((len(window),), first, device=window.device)
        state, _ = self._advance(list(past.unbind(2)), self._forcings(forcings), flag, noise)
        return self.normalise.inverse(state)

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
        states, forcings = self.normalise(batch.states), self._forcings(batch.forcings)
        inputs, teachers = self.fields.input_steps, self._teachers()
        past = [states[:, None, t, :, : self.prognostic] for t in range(inputs)]
        from_analysis, scores, further = batch.starts_from_analysis, [], []
        for s in range(batch.rollout):
            given = (past, forcings[:, inputs - 1 + s], from_analysis)
            step = self._observe(given, states[:, inputs + s], noise_keys, members, s)
            scores.append(self._score(step))
            with torch.no_grad():
                same = {name: (t.terms, t._observe(given, step.truth, noise_keys, members, s)) for name, t in teachers}
            further.append(self.terms(step, self.weights, self.network, same))
            past = [*past[1:], step.members[..., : self.prognostic]]
            from_analysis = torch.zeros_like(from_analysis)
        return self._sum(torch.stack(scores).mean(dim=(0, 1)), further)

    def _score(self, step: Step) -> Tensor:
        """(B, G, V) of one step; the absolute error of a lone member, which no fair score can rate."""
        if step.members.shape[1] == 1:
            return (step.members[:, 0] - step.truth).abs()
        return self.score(step.members, step.truth)

    def _observe(
        self, given: tuple[list[Tensor], Tensor, Tensor], truth: Tensor, keys: Sequence[int], members: int, step: int
    ) -> Step:
        """One step from past states, forcings and flags; activations are recomputed if so configured."""
        arguments = (*given, self._noise(keys, members, step))
        if self.section.activation_checkpointing and torch.is_grad_enabled():
            state, features = checkpoint(self._advance, *arguments, use_reentrant=False)
        else:
            state, features = self._advance(*arguments)
        return Step(state, truth, features, keys)

    def _teachers(self) -> list[tuple[str, Forecaster]]:
        """Term -> its teacher, read when it is first needed and no part of this module."""
        for name, term in self.loss.terms.items():
            if term.teacher is not None and name not in self._taught_by:
                self._taught_by[name] = load_teacher(term.teacher, self.fields).to(self.lower.device)
        return list(self._taught_by.items())

    def _sum(self, score: Tensor, further: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The loss, and detached: per-variable means of the score (G, V), and every term."""
        area_means = torch.einsum("gv,g->v", score.detach(), self.weights.sum(dim=1))
        names = (f"{self.loss.name}/{name}" for name in self.fields.variables)
        loss = (score * self.weights).sum()
        parts = {name: torch.stack([step[name] for step in further]).mean() for name in self.loss.terms}
        for name, term in self.loss.terms.items():
            loss = loss + term.weight * parts[name]
        shown = {f"terms/{name}": part.detach() for name, part in parts.items()}
        return {"loss": loss, **dict(zip(names, area_means, strict=True)), **shown}

    def _advance(
        self, past: list[Tensor], forcings: Tensor, from_analysis: Tensor, noise: Tensor
    ) -> tuple[Tensor, Features]:
        """(B, M, G, V) normalised states after T states (B, M or 1, G, P), forcings (B, G, F), flags (B,), noise."""
        members = max(state.shape[1] for state in past)
        newest, p = past[-1], self.prognostic
        flag = torch.where(from_analysis, FROM_ANALYSIS, AUTOREGRESSIVE)[:, None, None, None]
        changes = [(late - early) / self.step_scale[:p] for early, late in zip(past[:-1], past[1:], strict=True)]
        inputs = [newest, *changes, forcings[:, None], flag.expand(-1, 1, newest.shape[2], 1)]
        x = torch.cat([part.expand(-1, members, -1, -1) for part in inputs], dim=-1)
        half = multiplies_in_half(self.precision, x.device)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=half):
            increment, features = self.network(x, noise)
        base = torch.cat([newest, self.mean[p:].expand(*newest.shape[:-1], -1)], dim=-1)
        return torch.maximum(base + increment.float() * self.step_scale, self.lower), features

    def _forcings(self, forcings: Tensor) -> Tensor:
        """Static fields, the last columns, normalised."""
        static = len(self.fields.static)
        if not static:
            return forcings
        return torch.cat([forcings[..., :-static], self.normalise_static(forcings[..., -static:])], dim=-1)

    def _noise(self, keys: Sequence[int], members: int, step: int) -> Tensor:
        """(B, M, N, C) from the samples' keys."""
        each = [seeding.key(key, "train-noise", member, step) for key in keys for member in range(members)]
        return noises.draw(each, self.noise_shape, self.lower.device).unflatten(0, (len(keys), members))

    def _check(self, batch: Batch) -> None:
        shape = (self.fields.grid_size, len(self.fields.variables))
        if tuple(batch.states.shape[2:]) != shape or batch.input_steps != self.fields.input_steps:
            raise ForecastError(
                f"batch of states {tuple(batch.states.shape)} with {batch.input_steps} input steps; the forecaster "
                f"wants {shape[0]} points, {shape[1]} variables and {self.fields.input_steps} input steps"
            )
        if not torch.isfinite(batch.states).all():
            bad = (~torch.isfinite(batch.states)).any(dim=2).nonzero()[0].tolist()
            name, date = self.fields.variables[bad[2]], batch.dates[bad[0], bad[1]]
            raise ForecastError(f"`{name}` at {date} has missing values: variables with gaps cannot be forecast")


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


def multiplies_in_half(precision: str, device: torch.device) -> bool:
    """Whether the network's matrices are multiplied in bfloat16; states, norms, attention and scores never are.

    `auto` takes bfloat16 where the device multiplies it natively (GPUs from Ampere on, CPUs with AVX512-BF16 or AMX);
    elsewhere it would be slower than float32.
    """
    if precision != "auto":
        return precision == "bfloat16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # absent in older torch
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))


def _increments(fields: Fields, normaliser: Normaliser) -> Tensor:
    """(V,) normalised size of a unit of network output: tendency standard deviation, 1 for diagnostic variables."""
    tendency = fields.column("tendency_stdev", fields.prognostic)
    for name, value in zip(fields.prognostic, tendency, strict=True):
        if not value > 0:
            raise ForecastError(f"`{name}` does not change from step to step: list it under data.static")
    scale = normaliser.scale.double().numpy()
    own = tendency / scale[: len(tendency)]
    diagnostic = fields.column("stdev", fields.diagnostic) / scale[len(tendency) :]
    return torch.tensor(np.concatenate([own, diagnostic]), dtype=torch.float32)


def _lower(fields: Fields, normaliser: Normaliser) -> Tensor:
    """(V,) normalised physical minimum, minus infinity where there is none."""
    bounds = [minimum(name) for name in fields.variables]
    return normaliser(torch.tensor([-np.inf if bound is None else bound for bound in bounds], dtype=torch.float32))
