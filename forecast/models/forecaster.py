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
from forecast.models.graph_transformer import GraphTransformer
from forecast.models.normaliser import Normaliser

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
        self.score = losses.build({"name": loss.name, **options})
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
        return self.normalise.inverse(self._advance(list(past.unbind(2)), self._forcings(forcings), flag, noise))

    def training_loss(self, batch: Batch, members: int, noise_keys: Sequence[int]) -> dict[str, Tensor]:
        """Terms of the loss of a rollout of `batch.rollout` steps, averaged over steps.

        Args:
            noise_keys: (B,) one key per sample; its members and steps derive theirs from it.

        Returns:
            `loss`, which is minimised, and per variable the detached, unweighted score in normalised units.

        Raises:
            ForecastError: values that are not finite, or a batch that does not fit the fields.
        """
        self._check(batch)
        states, forcings = self.normalise(batch.states), self._forcings(batch.forcings)
        steps, inputs = batch.rollout, self.fields.input_steps
        past = [states[:, None, t, :, : self.prognostic] for t in range(inputs)]
        from_analysis, pointwise = batch.starts_from_analysis, []
        for s in range(steps):
            noise = self._noise(noise_keys, members, s)
            state = self._recomputed(past, forcings[:, inputs - 1 + s], from_analysis, noise)
            target = states[:, inputs + s]
            pointwise.append((state[:, 0] - target).abs() if members == 1 else self.score(state, target))
            past = [*past[1:], state[..., : self.prognostic]]
            from_analysis = torch.zeros_like(from_analysis)
        return self._terms(torch.stack(pointwise).mean(dim=(0, 1)))

    def _recomputed(self, *arguments: Any) -> Tensor:
        """`_advance`, its activations recomputed in the backward pass if so configured."""
        if not self.section.activation_checkpointing:
            return self._advance(*arguments)
        return checkpoint(self._advance, *arguments, use_reentrant=False)

    def _terms(self, score: Tensor) -> dict[str, Tensor]:
        """Weighted sum and per-variable means of the score (G, V)."""
        area_means = torch.einsum("gv,g->v", score.detach(), self.weights.sum(dim=1))
        names = (f"{self.loss.name}/{name}" for name in self.fields.variables)
        return {"loss": (score * self.weights).sum(), **dict(zip(names, area_means, strict=True))}

    def _advance(self, past: list[Tensor], forcings: Tensor, from_analysis: Tensor, noise: Tensor) -> Tensor:
        """(B, M, G, V) normalised states after T states (B, M or 1, G, P), forcings (B, G, F), flags (B,), noise."""
        members = max(state.shape[1] for state in past)
        newest, p = past[-1], self.prognostic
        flag = torch.where(from_analysis, FROM_ANALYSIS, AUTOREGRESSIVE)[:, None, None, None]
        changes = [(late - early) / self.step_scale[:p] for early, late in zip(past[:-1], past[1:], strict=True)]
        inputs = [newest, *changes, forcings[:, None], flag.expand(-1, 1, newest.shape[2], 1)]
        x = torch.cat([part.expand(-1, members, -1, -1) for part in inputs], dim=-1)
        half = multiplies_in_half(self.precision, x.device)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=half):
            increment = self.network(x, noise).float()
        base = torch.cat([newest, self.mean[p:].expand(*newest.shape[:-1], -1)], dim=-1)
        return torch.maximum(base + increment * self.step_scale, self.lower)

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
