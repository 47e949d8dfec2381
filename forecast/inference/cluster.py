"""Work items on a dask.distributed cluster: its scheduler gives each worker the next one, and a lost one's to another.

Workers need the file system of the store, and `forecast` installed. Each opens the system once and keeps it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from forecast.core import threads
from forecast.core.errors import ForecastError
from forecast.core.progress import bar
from forecast.inference.ensemble import System, run_item
from forecast.inference.follow import Following
from forecast.inference.share import Item
from forecast.inference.writer import ForecastWriter

RETRIES = 3
"""of an item whose worker was lost or could not write"""
PATIENCE = "30s"
"""for a scheduler to answer"""
Opener = Callable[[str], tuple[System, ForecastWriter]]
"""makes, within a worker of that name, what it computes with; equal ones make the same, so that a worker keeps it"""


def compute(address: str, opener: Opener, writer: ForecastWriter, following: Following | None = None) -> None:
    """Compute all that is missing of the writer's store on a cluster.

    Args:
        address: of a scheduler (tcp://host:8786), or a number: so many workers on this machine for this run.
        opener: see `Opener`. writer: of this process; it creates the store, and writes nothing itself.
        following: told of every unit that came to be.

    Raises:
        ForecastError: dask.distributed is not installed, no scheduler at the address, an item that failed again and
            again (with what went wrong).
    """
    ledgers = writer.ledgers
    items = [item for item in np.ndindex(*ledgers.finished.shape[:2]) if not ledgers.finished[item].all()]
    with _client(address) as client, bar("forecast on the cluster", ledgers.finished.size) as progress:
        progress.at(ledgers.count())
        futures = client.map(_work, [opener] * len(items), items, pure=False, retries=RETRIES)
        done = _as_completed(futures)
        for future in done:
            if (error := future.exception()) is not None:
                client.cancel(futures)
                raise error if isinstance(error, ForecastError) else ForecastError(f"an item failed: {error!r}")
            progress.at(ledgers.count())
            for step in range(ledgers.finished.shape[2]) if following else ():
                following.listed((*future.result(), step))  # type: ignore[union-attr]


def _client(address: str) -> Any:
    from distributed import Client, LocalCluster  # slow to import, and only needed here

    if address.isdigit():
        return Client(LocalCluster(n_workers=int(address), threads_per_worker=1, dashboard_address=None))
    try:
        return Client(address, timeout=PATIENCE)
    except (OSError, ValueError, TimeoutError) as error:
        raise ForecastError(f"--cluster {address}: no dask scheduler answers there ({error})") from None


def _as_completed(futures: Any) -> Any:
    from distributed import as_completed

    return as_completed(futures)


def _work(opener: Opener, item: Item) -> Item:
    """Within a worker: one item, from where it was left."""
    from distributed import get_worker

    system, writer = _opened(opener, str(get_worker().name))
    writer.ledgers.update()
    if not writer.ledgers.finished[item].all():
        with threads.prompt():
            for _ in run_item(system, writer, item):
                pass
        writer.flush()
    return item


@cache
def _opened(opener: Opener, worker: str) -> tuple[System, ForecastWriter]:
    name = "".join(c if c.isalnum() else "-" for c in worker)
    return opener(f"worker-{name}")
