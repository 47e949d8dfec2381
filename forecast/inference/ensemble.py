"""Ensembles of any size: work items (start, member batch), shared over processes, resumed where they stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from forecast.core import threads
from forecast.core.errors import ForecastError
from forecast.core.forecasts import Forecasts, Layout, Unit
from forecast.core.grids import Grid
from forecast.core.progress import bar
from forecast.core.times import format_duration
from forecast.inference.batch import fitting
from forecast.inference.follow import Follower, Following
from forecast.inference.share import Claims, Item, Part, items
from forecast.inference.writer import ForecastWriter


class System(Protocol):
    """Whatever makes ensembles: a learnt forecaster, a physical model.

    Attributes:
        name: how reports call it.
        variables: (V,) names of what it forecasts. grid: G points. step: time between its states.
        block: members that cost as much as one: batches should be multiples of it.
    """

    @property
    def name(self) -> str: ...
    @property
    def variables(self) -> tuple[str, ...]: ...
    @property
    def grid(self) -> Grid: ...
    @property
    def step(self) -> np.timedelta64: ...
    @property
    def block(self) -> int: ...

    def forecast(self, start: np.datetime64, members: Sequence[int], steps: int) -> Iterator[np.ndarray]:
        """States (M, V, G) float32 in physical units at steps 0 (initial states), 1, ..., `steps`.

        A member's states are the same bits whichever others are asked for with it.
        """


def generate(
    system: System,
    starts: np.ndarray,
    members: int,
    lead: np.timedelta64,
    out: str | Path,
    member_batch: int | None = None,
    part: Part = (0, 1),
    settings: Mapping[str, Any] | None = None,
    follow: Callable[[Path], Follower] | None = None,
    drop: bool = False,
    elsewhere: Callable[[ForecastWriter, Following | None], None] | None = None,
) -> Path:
    """Forecast from `starts` (S,) with members 0..members-1 to `lead` into the store `out`; returns its path.

    Part (i, n) begins with the i-th of every n work items, then takes over what no other process is at work on; any n
    goes with any number of members, and a store may be finished with another n than it was begun with. One step of
    `member_batch` members is in memory (and a few that wait for the disk), whatever the numbers of starts, members and
    steps; if absent, it is that of the store, or what fits the memory. `settings` name what else the fields depend on
    (seed, checkpoint, analyses): a store that was begun with others is not gone on with. `follow` makes somebody who
    reads along, once the store is there; with `drop` the fields of a start are deleted when he is done with it.
    `elsewhere` computes in place of this process (cluster.py).

    Raises:
        ForecastError: a lead that is no multiple of the system's step, a store made with other settings, a store that
            another process of the same part is writing, a disk that is full.
    """
    if not 0 <= part[0] < part[1]:
        raise ForecastError(
            f"--part {part[0]}/{part[1]}: parts are numbered from 0/{part[1]} to {part[1] - 1}/{part[1]}"
        )
    layout = plan(system, starts, members, lead, member_batch, settings, out, part[1])
    with (
        ForecastWriter(out, layout, f"{part[0]}-of-{part[1]}") as writer,
        closing(Claims(writer.path / ".claims")) as claims,
        threads.prompt(),  # writer and follower beside the network
    ):
        following = Following(follow(writer.path), writer, claims, drop) if follow else None
        writer.listed = following.listed if following else None
        if elsewhere:
            elsewhere(writer, following)
        else:
            _compute(system, writer, items(layout, part, writer.ledgers, claims))
        if following:
            following.close()
    return Path(out)


def _compute(system: System, writer: ForecastWriter, work: Iterable[Item]) -> None:
    """Work items one after another; the bar shows the whole store, whoever is at work on it."""
    with bar(f"forecast {system.name}", writer.ledgers.finished.size) as progress:
        progress.at(writer.ledgers.count())
        for item in work:
            for _ in run_item(system, writer, item):
                progress.at(writer.ledgers.count())
        writer.flush()
        progress.at(writer.ledgers.count())


def run_item(system: System, writer: ForecastWriter, item: Item) -> Iterator[Unit]:
    """Forecast one work item up to the last unit that is missing; hand those to the writer, and yield each."""
    missing = np.flatnonzero(~writer.ledgers.finished[item])
    start, members = writer.layout.starts[item[0]], writer.layout.members_of(item[1])
    for step, states in enumerate(system.forecast(start, members.tolist(), int(missing[-1]))):
        if step in missing:
            writer.write((*item, step), states)
            yield (*item, step)


def plan(
    system: System,
    starts: np.ndarray,
    members: int,
    lead: np.timedelta64,
    member_batch: int | None = None,
    settings: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    processes: int = 1,
) -> Layout:
    """The store that `generate` would make.

    Raises:
        ForecastError: no start or member, or a lead that is no multiple of the system's step.
    """
    steps = lead / system.step
    if steps < 1 or steps != int(steps):
        raise ForecastError(
            f"lead {format_duration(lead)} is no multiple of the {format_duration(system.step)} step of {system.name}"
        )
    if members < 1 or (member_batch is not None and member_batch < 1) or not len(starts):
        raise ForecastError("an ensemble needs at least one start and one member")
    layout = Layout(
        variables=tuple(system.variables),
        starts=np.unique(np.asarray(starts, "datetime64[s]")),
        members=np.arange(members),
        leads=np.arange(int(steps) + 1) * system.step.astype("timedelta64[s]"),
        grid=system.grid,
        member_batch=min(member_batch or 1, members),
        settings={"system": system.name, **(settings or {})},
    )
    if member_batch is not None:
        return layout
    if out is not None and Path(out).exists():
        return replace(layout, member_batch=min(Forecasts.open(out).member_batch, members))
    state = 4 * len(layout.variables) * layout.grid.size
    return replace(layout, member_batch=fitting(members, len(layout.starts), state, system.block, processes))
