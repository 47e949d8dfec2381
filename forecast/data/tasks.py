"""Units of work that Dask hands to threads, to processes of its own, or to the workers of a scheduler.

A task is a small object that can be sent anywhere, called with a number. It writes what it makes to the shared disk,
whole or not at all, so one that died is begun anew elsewhere, and one that was given out twice does no harm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import dask
import numpy as np

from forecast.core.archive_sections import ArchiveSource, StoreSection
from forecast.core.errors import ForecastError
from forecast.core.progress import bar
from forecast.core.times import format_time
from forecast.data import climatology, outliers, plausible
from forecast.data.slabs import DiskError, SlabWriter
from forecast.data.sources import Source


@dataclass(frozen=True)
class Outcome:
    """What became of a unit of work.

    Attributes:
        item: its number. size: bytes of states that it made.
        problem: why it could not be done; dates: those that could not be read.
        fatal: the input is wrong, rather than out of reach.
    """

    item: int
    size: int = 0
    problem: str = ""
    dates: tuple[np.datetime64, ...] = ()
    fatal: bool = False


class Task(Protocol):
    """A unit of work, by number."""

    def __call__(self, item: int) -> Outcome:
        """Do it."""
        ...


@dataclass(frozen=True, eq=False)
class SlabTask:
    """Reads a slab from the source and writes it."""

    source: Source
    slabs: SlabWriter
    stamps: tuple[str, ...]
    section: ArchiveSource
    accept_all: bool = False

    def __call__(self, item: int) -> Outcome:
        """Dates that cannot be read are found one by one, and listed or left missing."""
        layout = self.slabs.layout
        bad: list[tuple[np.datetime64, str]] = []
        where = layout.slabs[item]
        wanted = layout.dates[where][layout.present[where]]
        try:
            states = self._states(where, wanted)
        except (ForecastError, OSError):
            states, bad = self._one_by_one(where, wanted)
        if bad and self.section.unreadable == "stop":
            return Outcome(item, 0, f"{format_time(bad[0][0])}: {bad[0][1]}", tuple(date for date, _ in bad))
        try:
            if not self.accept_all:
                plausible.check(layout.variables, layout.dates[where], states)
                outliers.check(layout.variables, layout.dates[where], states, layout.columns)
            self.slabs.write(item, states, self.stamps[item])
        except DiskError:
            raise
        except ForecastError as error:
            return Outcome(item, 0, str(error), fatal=True)
        return Outcome(item, states.nbytes)

    def _states(self, where: slice, wanted: np.ndarray) -> np.ndarray:
        """(t, V, members, G), NaN at missing dates."""
        present = self.slabs.layout.present[where]
        if present.all():
            return self.source.read(wanted)
        states = self._nothing(where)
        if wanted.size:
            states[present] = self.source.read(wanted)
        return states

    def _one_by_one(self, where: slice, wanted: np.ndarray) -> tuple[np.ndarray, list[tuple[np.datetime64, str]]]:
        states, bad = self._nothing(where), []
        for date in wanted:
            at = int(np.searchsorted(self.slabs.layout.dates[where], date))
            try:
                states[at] = self.source.read(np.array([date]))[0]
            except (ForecastError, OSError) as error:
                bad.append((date, str(error)))
        return states, bad

    def _nothing(self, where: slice) -> np.ndarray:
        return np.full((where.stop - where.start, *self.slabs.layout.shape[1:]), np.nan, np.float32)


@dataclass(frozen=True, eq=False)
class BorderTask:
    """Records the tendencies across a slab's beginning."""

    slabs: SlabWriter

    def __call__(self, item: int) -> Outcome:
        """See `SlabWriter.border`."""
        self.slabs.border(item)
        return Outcome(item)


@dataclass(frozen=True, eq=False)
class ClimatologyTask:
    """Merges the states of one calendar day and hour."""

    slabs: SlabWriter

    def __call__(self, item: int) -> Outcome:
        """See `climatology.write`."""
        climatology.write(self.slabs, item)
        return Outcome(item)


def run(task: Task, items: Sequence[int], store: StoreSection, what: str) -> list[Outcome]:
    """Do a task for all items, several at a time; shows progress, rate and time left.

    Raises:
        ForecastError: the scheduler cannot be reached or was lost; what a task raises.
    """
    outcomes: list[Outcome] = []
    if not items:
        return outcomes
    with bar(what, len(items)) as progress:

        def done(outcome: Outcome) -> None:
            outcomes.append(outcome)
            progress.advance()
            progress.rate(sum(o.size for o in outcomes))

        if store.scheduler == "threads":
            _on_threads(task, items, store.workers, done)
        else:
            with _client(store) as client:
                _on_cluster(client, task, items, done)
    return outcomes


def _on_threads(task: Task, items: Sequence[int], workers: int, done: Callable[[Outcome], None]) -> None:
    with ThreadPoolExecutor(workers) as pool:
        dask.compute(*(dask.delayed(lambda k: done(task(k)))(item) for item in items), scheduler="threads", pool=pool)


def _on_cluster(client: Any, task: Task, items: Sequence[int], done: Callable[[Outcome], None]) -> None:
    from distributed import as_completed
    from distributed.client import FutureCancelledError
    from distributed.scheduler import KilledWorker

    try:
        sent = client.scatter(task, broadcast=True, hash=False)
        futures = [client.submit(_call, sent, item, pure=False) for item in items]
        for future in as_completed(futures):
            done(future.result())
    except KilledWorker as error:
        raise ForecastError(f"workers died again and again over one piece of work, out of memory? ({error})") from None
    except (OSError, FutureCancelledError, TimeoutError) as error:
        if isinstance(error, DiskError):
            raise
        raise ForecastError(f"the Dask scheduler was lost ({error}); what is finished is kept, run again") from None


def _call(task: Task, item: int) -> Outcome:
    return task(item)


@contextmanager
def _client(store: StoreSection) -> Iterator[Any]:
    """A client of the scheduler, or of a cluster of processes on this machine.

    Raises:
        ForecastError: dask.distributed is not installed, or no scheduler answers.
    """
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        raise ForecastError('store.scheduler needs dask.distributed: pip install "dask[distributed]"') from None
    if store.scheduler == "processes":
        with (
            LocalCluster(n_workers=store.workers, threads_per_worker=1, dashboard_address=None) as cluster,
            Client(cluster) as client,
        ):
            yield client
        return
    try:
        client = Client(store.scheduler, timeout="20s")
    except (OSError, ValueError, TimeoutError) as error:
        raise ForecastError(f"no Dask scheduler answers at {store.scheduler} ({error})") from None
    with client:
        yield client
