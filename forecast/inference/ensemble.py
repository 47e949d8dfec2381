"""Ensembles of any size: work items (start, member batch), shared over processes, resumed where they stopped."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from forecast.core.errors import ForecastError
from forecast.core.forecasts import Layout
from forecast.core.grids import Grid
from forecast.core.progress import bar
from forecast.core.times import format_duration
from forecast.inference.writer import ForecastWriter, Part


class System(Protocol):
    """Whatever makes ensembles: a learnt forecaster, a physical model.

    Attributes:
        name: how reports call it.
        variables: (V,) names of what it forecasts. grid: G points. step: time between its states.
    """

    @property
    def name(self) -> str: ...
    @property
    def variables(self) -> tuple[str, ...]: ...
    @property
    def grid(self) -> Grid: ...
    @property
    def step(self) -> np.timedelta64: ...

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
    member_batch: int = 10,
    part: Part = (0, 1),
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """Forecast from `starts` (S,) with members 0..members-1 to `lead` into the store `out`; returns its path.

    Part (i, n) takes the i-th of every n work items; any n goes with any number of members, and a store may be
    finished with another n than it was begun with. One step of `member_batch` members is in memory (and a few
    that wait for the disk), whatever the numbers of starts, members and steps. `settings` name what else the fields
    depend on (seed, checkpoint, analyses): a store that was begun with others is not gone on with.

    Raises:
        ForecastError: a lead that is no multiple of the system's step, a
            store made with other settings, a disk that is full.
    """
    layout = plan(system, starts, members, lead, member_batch, settings)
    if not 0 <= part[0] < part[1]:
        raise ForecastError(
            f"--part {part[0]}/{part[1]}: parts are numbered from 0/{part[1]} to {part[1] - 1}/{part[1]}"
        )
    with ForecastWriter(out, layout, part) as writer:
        items = list(np.ndindex(len(layout.starts), layout.batches))[part[0] :: part[1]]
        rows = {item: len(layout.members_of(item[1])) for item in items}
        with bar(f"forecast {system.name}", sum(rows.values()) * len(layout.leads)) as progress:
            progress.advance(sum(int(writer.units[item].sum()) * rows[item] for item in items))
            began, computed = time.monotonic(), 0
            for count in chain.from_iterable(_run(system, writer, item) for item in items):
                computed += count
                progress.advance(count)
                progress.note(f"{computed / max(time.monotonic() - began, 1e-3):.0f} member steps/s")
    return Path(out)


def plan(
    system: System,
    starts: np.ndarray,
    members: int,
    lead: np.timedelta64,
    member_batch: int,
    settings: Mapping[str, Any] | None = None,
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
    if members < 1 or member_batch < 1 or not len(starts):
        raise ForecastError("an ensemble needs at least one start and one member")
    return Layout(
        variables=tuple(system.variables),
        starts=np.unique(np.asarray(starts, "datetime64[s]")),
        members=np.arange(members),
        leads=np.arange(int(steps) + 1) * system.step.astype("timedelta64[s]"),
        grid=system.grid,
        member_batch=min(member_batch, members),
        settings={"system": system.name, **(settings or {})},
    )


def _run(system: System, writer: ForecastWriter, item: tuple[int, int]) -> Iterator[int]:
    """Forecast one work item up to the last unit that is missing; write those, and yield each one's member count."""
    missing = np.flatnonzero(~writer.units[item])
    if not missing.size:
        return
    start, members = writer.layout.starts[item[0]], writer.layout.members_of(item[1])
    for step, states in enumerate(system.forecast(start, members.tolist(), int(missing[-1]))):
        if step in missing:
            writer.write((*item, step), states)
            yield len(members)
