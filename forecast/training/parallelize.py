"""The one place where a plainly built forecaster meets hardware: device, precision, compilation, the mesh."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from forecast.core.errors import ForecastError
from forecast.core.progress import console
from forecast.core.sections import TrainingSection
from forecast.data.batch import Batch
from forecast.models.forecaster import Forecaster
from forecast.models.fuxi_forecaster import FuxiForecaster
from forecast.models.graph_forecaster import GraphForecaster
from forecast.training import divided_graph, divided_windows, sharded, sharing
from forecast.training.mesh import Mesh
from forecast.training.shared_terms import WholeTerms


def device(name: str, mesh: Mesh | None = None) -> torch.device:
    """The device called `cpu` or `cuda`; `auto` takes CUDA where it is and says what it took.

    Processes of one host take its CUDA devices in turn.

    Raises:
        ForecastError: CUDA is asked for and not there.
    """
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise ForecastError("training.device is cuda, but torch sees no CUDA device: set it to cpu or auto")
    taken = torch.device("cuda" if name == "cuda" or (name == "auto" and there) else "cpu")
    if taken.type == "cuda" and mesh is not None and mesh.spread:
        taken = torch.device("cuda", mesh.world.local % torch.cuda.device_count())
    if name == "auto":
        what = torch.cuda.get_device_name(taken) if taken.type == "cuda" else f"{torch.get_num_threads()} threads"
        console.print(f"training on {taken.type} ({what})")
    return taken


def divide(model: Forecaster, section: TrainingSection, mesh: Mesh) -> slice:
    """Leave to the model what this process computes of members and points, in place; returns the points.

    Raises:
        ForecastError: what can't be divided so.
    """
    if mesh.ensemble.size * mesh.grid.size == 1:
        return slice(0, model.fields.grid_size)
    if section.compile and mesh.grid.size > 1:
        raise ForecastError("training.compile does not work with a grid axis, whose exchanges it can't see: set it off")
    terms = None
    if model.loss.terms:
        terms = WholeTerms(model.terms, model.score, f"ensemble {mesh.ensemble.size} x grid {mesh.grid.size}")
    part = _divided(model, mesh)
    part.terms, part.teach = terms, partial(_divided, mesh=mesh)
    return part.mine


def _divided(model: Forecaster, mesh: Mesh) -> sharing.Part:
    if isinstance(model, FuxiForecaster):
        geometry = model.network.geometry
        points, nodes = divided_windows.points(geometry, mesh.grid), divided_windows.tokens(geometry, mesh.grid)
        part = sharing.apply(model, mesh, points, nodes)
        if mesh.grid.size > 1:
            divided_windows.divide(model, part)
    else:
        assert isinstance(model, GraphForecaster)
        points, nodes = mesh.grid.parts(model.fields.grid_size), mesh.grid.parts(model.network.noise_shape[0])
        part = sharing.apply(model, mesh, points, nodes)
        if mesh.grid.size > 1:
            divided_graph.divide(model, part)
    return part


Terms = dict[str, Tensor]
"""name -> term of the loss; `loss` is their sum"""


class Objective:
    """The loss of a batch and its gradient, over all processes.

    Each process computes its own part of the loss; the parts add up to the loss, so gradients are summed over all
    processes, along whatever axis of the mesh they lie.

    Args:
        model: on its device. section: precision, compilation.

    Attributes:
        changed: what is made of a batch's terms before their gradient. clock: takes the time of the loss.
    """

    def __init__(self, model: Forecaster, section: TrainingSection, mesh: Mesh) -> None:
        self.model, self.mesh = model, mesh
        model.precision = section.precision
        if section.compile:
            model.network.compile()
        self.changed: Callable[[Terms], Terms] = lambda terms: terms
        self.clock: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        self._alone = _Part(self)
        self._together: nn.Module = self._alone
        if mesh.spread and section.mesh.parameters == "sharded":
            sharded.shard(model, section, mesh)
        elif mesh.spread:
            self._together = _replicated(self._alone, section)

    def __call__(
        self, pieces: Sequence[Batch], members: int, samples: int, backward: bool = True, alone: bool = False
    ) -> Terms:
        """The terms of the mean loss of an update, the same on all processes; its gradient is added to `.grad`.

        Args:
            pieces: this process's samples, in one batch or several. members: of each sample, over all processes.
            samples: of the update, over all processes. alone: only this process's part of the terms, with no gradient.
        """
        found = [
            self._add(piece, members, len(piece.keys) / samples, piece is pieces[-1], backward) for piece in pieces
        ]
        total = {name: torch.stack([terms[name] for terms in found]).sum() for name in found[0]}
        return total if alone else dict(zip(total, self.mesh.sum(torch.stack(list(total.values()))), strict=True))

    def sound(self, pieces: Sequence[Batch], members: int) -> bool:
        """Whether this process's own part of the loss, and of its gradient where weights are whole, is finite."""
        learnt = [p for p in self.model.parameters() if p.requires_grad and not isinstance(p, DTensor)]
        finite = True
        for piece in pieces:  # to the end, for others may wait for what is exchanged
            terms = self._alone(piece, members, 1.0)
            gradient = torch.autograd.grad(terms["loss"], learnt, allow_unused=True) if learnt else ()
            found = (x for x in (*terms.values(), *gradient) if x is not None)
            finite &= all([bool(torch.isfinite(x).all()) for x in found])
        return finite

    def _add(self, batch: Batch, members: int, share: float, last: bool, backward: bool) -> Terms:
        if not backward:
            return _detached(self._alone(batch, members, share))
        waits = isinstance(self._together, DistributedDataParallel) and not last
        with self._together.no_sync() if waits else contextlib.nullcontext():  # type: ignore[operator]
            with self.clock:
                terms: Terms = self._together(batch, members, share)
            terms["loss"].backward()
        return _detached(terms)

    def clip(self, most: float) -> Tensor:
        """Scale the gradient down to norm `most` where it is above; returns the norm before."""
        return sharded.whole(torch.nn.utils.clip_grad_norm_(self.model.parameters(), most))


class _Part(nn.Module):
    """The terms of a batch's loss times its share of the samples."""

    def __init__(self, of: Objective) -> None:
        super().__init__()
        self.model, self._of = of.model, (of,)  # a tuple hides what is no module

    def forward(self, batch: Batch, members: int, share: float) -> Terms:
        terms = self._of[0].changed(self.model.training_loss(batch, members, batch.keys))
        return {name: share * term for name, term in terms.items()}


def _detached(terms: Terms) -> Terms:
    return {name: term.detach() for name, term in terms.items()}


def _replicated(part: _Part, section: TrainingSection) -> DistributedDataParallel:
    """Weights on every process, gradients summed as they come; all processes have made the same weights."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")  # its successor still syncs once
        idle = _may_idle(part.model, section)
        wrapped = DistributedDataParallel(part, broadcast_buffers=False, init_sync=False, find_unused_parameters=idle)
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view")  # of patches with one channel
    wrapped.register_comm_hook(None, lambda _, bucket: _sum(bucket))
    return wrapped


def _may_idle(model: Forecaster, section: TrainingSection) -> bool:
    """Whether there are updates in which some parameters have no part."""
    if model.loss.terms or section.techniques or any(stage.members == 1 for stage in section.stages):
        return True
    if not isinstance(model, FuxiForecaster):
        return False
    divergence = model.section.divergence
    return not divergence.beta or divergence.balance in (0, 1) or model.section.prior_share == 1


def _sum(bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    future: Any = dist.all_reduce(bucket.buffer(), async_op=True).get_future()
    return future.then(lambda done: done.value()[0])
