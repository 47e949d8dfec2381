"""Processes as a mesh with three named axes: data (samples), ensemble (members), grid (points, nodes and edges).

A lone process is a mesh of one, without torch.distributed. Ranks run along the grid first, then along the ensemble,
then along the data: processes of one grid exchange most, and share a host.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # before there are groups: at its import it keeps the one of all for good
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from forecast.core.errors import ForecastError, Stopped
from forecast.core.progress import console
from forecast.core.sections import TrainingSection
from forecast.core.world import World, world
from forecast.training import rendezvous

AXES = ("data", "ensemble", "grid")


class Axis(NamedTuple):
    """One axis as this process sees it.

    Attributes:
        rank: its place along the axis. size: of the axis. group: the processes that differ in this place alone.
    """

    rank: int = 0
    size: int = 1
    group: dist.ProcessGroup | None = None

    def part(self, size: int) -> slice:
        """This process's share of 0..size, even and in order."""
        return slice(size * self.rank // self.size, size * (self.rank + 1) // self.size)

    def parts(self, size: int) -> list[slice]:
        """Everybody's share."""
        return [self._replace(rank=rank).part(size) for rank in range(self.size)]


class Mesh:
    """The processes of a run.

    Attributes:
        world: this process among all. data, ensemble, grid: the axes. device_mesh: torch's, None of a lone process.
        store: what processes tell each other by name; None of a lone process.
    """

    def __init__(
        self, at: World | None = None, device_mesh: DeviceMesh | None = None, store: dist.Store | None = None
    ) -> None:
        self.world, self.store, self._ended = at or World(), store, False
        self.over(device_mesh)

    def over(self, device_mesh: DeviceMesh | None) -> None:
        """Take the groups of a mesh, or let go of those that there are."""
        self.device_mesh = device_mesh
        axes = [_axis(device_mesh, name) for name in AXES] if device_mesh is not None else [Axis()] * 3
        self.data, self.ensemble, self.grid = axes

    @property
    def rank(self) -> int:
        """Number of this process."""
        return self.world.rank

    @property
    def size(self) -> int:
        """Number of processes."""
        return self.world.size

    @property
    def first(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    @property
    def spread(self) -> bool:
        """Whether there are several processes."""
        return self.device_mesh is not None

    def __str__(self) -> str:
        return " x ".join(f"{name} {axis.size}" for name, axis in zip(AXES, self._axes, strict=True))

    @property
    def shared(self) -> list[str]:
        """Axes with several processes."""
        return [name for name, axis in zip(AXES, self._axes, strict=True) if axis.size > 1]

    @property
    def _axes(self) -> tuple[Axis, Axis, Axis]:
        return self.data, self.ensemble, self.grid

    def barrier(self) -> None:
        """Wait until all processes are here."""
        if self.spread:
            dist.barrier()

    @contextlib.contextmanager
    def ending(self) -> Iterator[None]:
        """At the end of the block, and where all stop in it, wait until no process needs an answer of another one.

        Through the store: a barrier's last message may be lost where its sender closes the connection.
        """
        try:
            yield
        except Stopped:
            self._wait("ended", patience())
            raise
        self._wait("ended", patience())

    def gone(self) -> None:
        """After an end in good order: rank 0, which may hold the store, goes last."""
        if self._ended:
            with contextlib.suppress(RuntimeError, dist.DistError):
                self._wait("gone", timedelta(seconds=10))

    def _wait(self, where: str, timeout: timedelta) -> None:
        """Wait until all have come here; on the way out rank 0 alone does."""
        if self.store is None:
            return
        if self.store.add(where, 1) == self.size:
            self.store.set(f"{where} all", "1")
        if self.first or not self._ended:
            self.store.wait([f"{where} all"], timeout)
        self._ended = True

    def sum(self, values: Tensor) -> Tensor:
        """`values` added over all processes, in place."""
        if self.spread:
            dist.all_reduce(values)
        return values

    def any(self, flag: bool, device: torch.device | str = "cpu") -> bool:
        """Whether any process says so; all hear the same."""
        return bool(self.sum(torch.tensor(int(flag), device=device if self.spread else "cpu")).item())

    def gather(self, values: Sequence[float], device: torch.device | str = "cpu") -> np.ndarray:
        """(processes, values) everybody's few numbers, to all."""
        table = torch.zeros(self.size, len(values), dtype=torch.float64)
        table[self.rank] = torch.tensor(values, dtype=torch.float64)
        return self.sum(table.to(device) if self.spread else table).cpu().numpy()

    def host(self, rank: int) -> str:
        """` on HOST` of a process, where it is known."""
        with contextlib.suppress(RuntimeError):
            if self.store is not None and self.store.check([f"about/{rank}"]):
                return f" on {json.loads(self.store.get(f'about/{rank}'))[0]}"
        return ""

    def told(self, find: Callable[[bool], Path | None], flag: bool) -> Path | None:
        """What rank 0 finds, to all, who wait meanwhile; `find` is given whether any process has the flag.

        Raises:
            ForecastError: on all, if rank 0 meets one.
        """
        found, fault, flag = None, "", self.any(flag)
        if self.first:
            try:
                found = find(flag)
            except ForecastError as error:
                fault = str(error)
        self.barrier()
        fault = self.broadcast(fault) or ""
        if fault:
            raise ForecastError(fault)
        path = self.broadcast(str(found) if found else None)
        return Path(path) if path else None

    def broadcast(self, text: str | None) -> str | None:
        """What rank 0 says, to all."""
        if self.store is None:
            return text
        self._told = getattr(self, "_told", 0) + 1
        key = f"told/{self._told}"
        if self.first:
            self.store.set(key, "-" if text is None else f"+{text}")
        said = self.store.get(key).decode()
        return None if said == "-" else said[1:]

    @contextlib.contextmanager
    def one_voice(self) -> Iterator[None]:
        """Within the block an error that several processes meet is told by one, by rank 0 where it meets it.

        Raises:
            ForecastError: in the process that tells it, with its rank unless that is 0.
            SystemExit: silently, in the others.
        """
        try:
            yield
        except Stopped as stopped:  # all stop together
            if self.first:
                raise
            raise SystemExit(stopped.code) from None
        except ForecastError as error:
            if not self._speaks():
                raise SystemExit(1) from None
            raise error if self.first else ForecastError(f"rank {self.rank}: {error}") from None
        except (RuntimeError, dist.DistError):
            if not self._speaks():  # a process that was waited for has gone, and has said why
                raise SystemExit(1) from None
            raise

    def _speaks(self) -> bool:
        """Whether this process is to tell what went wrong: the first to say so, rank 0 having a second's start."""
        if self.store is None:
            return True
        with contextlib.suppress(RuntimeError):  # a store that has gone with rank 0 leaves the word to everyone
            if not self.first:
                with contextlib.suppress(dist.DistStoreError):
                    self.store.wait(["failed"], timedelta(seconds=2))
            speaks = self.store.add("failed", 1) == 1
            until = (
                time.monotonic() + 3
            )  # seconds in which the others may hear, for the store may end with this process
            while self.first and self.store.add("failed", 0) < self.size and time.monotonic() < until:
                time.sleep(0.05)
            return speaks
        return not self.first


def sizes(section: TrainingSection, ranks: int) -> tuple[int, int, int]:
    """Sizes of the axes for so many processes.

    Raises:
        ForecastError: processes that do not fill the mesh, or one that would be left without a sample or a member.
    """
    wanted, members = section.mesh, min(stage.members or section.members for stage in section.stages)
    inner = wanted.ensemble * wanted.grid
    data = wanted.data or max(ranks // inner, 1)
    if data * inner != ranks:
        named = f"data {wanted.data} x " if wanted.data else ""
        count = f"{wanted.data * inner}" if wanted.data else f"a multiple of {inner}"
        raise ForecastError(
            f"training.mesh: {named}ensemble {wanted.ensemble} x grid {wanted.grid} does not fit {ranks} "
            f"process{'es' * (ranks > 1)}: start {count}, or change the axes"
        )
    if section.batch_size // data < section.accumulate:
        pieces = f" in {section.accumulate} pieces" if section.accumulate > 1 else ""
        raise ForecastError(
            f"training.mesh: data {data}{pieces} leaves processes without a sample of training.batch_size="
            f"{section.batch_size}: raise it to at least {data * section.accumulate}, or put processes on another axis"
        )
    if members < wanted.ensemble:
        raise ForecastError(
            f"training.mesh: ensemble {wanted.ensemble} leaves processes without a member of {members}: raise "
            "training.members (and those of the stages), or put processes on another axis"
        )
    return data, wanted.ensemble, wanted.grid


@contextlib.contextmanager
def joined(section: TrainingSection, about: Mapping[str, str] | None = None) -> Iterator[Mesh]:
    """The mesh of the processes that torchrun or srun started, or of this one alone; left at the block's end.

    Ranks but the first do not print.

    Args:
        section: mesh and device; processes on CUDA talk by nccl, each with the device of its local rank.
        about: names and values in which all processes must agree, beside versions.

    Raises:
        ForecastError: on rank 0, within a minute: a mesh that does not fit, processes that do not come or differ.
    """
    here = world()
    if here.size == 1:
        sizes(section, 1)
        yield Mesh()
        return
    console.quiet = here.rank > 0
    try:
        shape = sizes(section, here.size)
        kind = "cuda" if section.device != "cpu" and torch.cuda.is_available() else "cpu"
        store = rendezvous.meet(here, {**(about or {}), "device": kind})
    except ForecastError:
        if here.rank == 0:
            raise
        raise SystemExit(1) from None
    if kind == "cuda":
        torch.cuda.set_device(here.local % torch.cuda.device_count())
    backend = {"cuda": "cpu:gloo,cuda:nccl", "cpu": "gloo"}[kind]
    dist.init_process_group(backend, store=store, rank=here.rank, world_size=here.size, timeout=patience())
    mesh = Mesh(here, store=store)
    try:
        mesh.over(init_device_mesh(kind, shape, mesh_dim_names=AXES))
        console.print(f"mesh of {here.size} processes: {mesh}")
        with mesh.one_voice(), mesh.ending():
            yield mesh
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)  # which hold the model
        raise
    finally:
        mesh.over(None)
        gc.collect()
        dist.destroy_process_group()
        mesh.gone()


def patience() -> timedelta:
    """How long a process waits for the others within a run: validation and checkpoints take their time."""
    return timedelta(seconds=float(os.environ.get("FORECAST_COLLECTIVE_SECONDS", "1800")))


def _axis(mesh: Any, name: str) -> Axis:
    return Axis(mesh.get_local_rank(name), mesh.size(AXES.index(name)), mesh.get_group(name))
