"""A live view of a forecast store: what is finished, by whom, and how fast; for any number of processes and nodes."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from forecast.core.forecasts import Forecasts
from forecast.core.ledger import Ledgers
from forecast.core.progress import stdout
from forecast.core.times import format_time

LATELY = 60.0
"""seconds without a finished unit after which a process is not called at work"""


def watch(path: Path, every: float = 2.0, once: bool = False) -> None:
    """Show how far the store is until all is finished; read from its ledgers, so from any machine.

    Args:
        every: seconds between looks. once: look once.

    Raises:
        ForecastError: no forecast store there.
    """
    store = Forecasts.open(path)
    ledgers = Ledgers(path, store.starts, store.batches, len(store.leads))
    began, before = time.monotonic(), ledgers.count()
    with Live(_table(store, ledgers, 0.0), console=stdout, refresh_per_second=4) as live:
        while not once and not ledgers.finished.all():
            time.sleep(every)
            rate = (ledgers.count() - before) / (time.monotonic() - began)
            live.update(_table(store, ledgers, rate))


def _table(store: Forecasts, ledgers: Ledgers, rate: float) -> Group:
    """How far all is, then starts (those under way) and writers in rows."""
    done, all_of = int(ledgers.finished.sum()), ledgers.finished.size
    left = f", {(all_of - done) / rate / 60:.1f} min left" if rate and done < all_of else ""
    whole = int(ledgers.finished.all(axis=(1, 2)).sum())
    title = f"{store.path}\n{whole} of {len(store.starts)} starts, {done} of {all_of} units ({done / all_of:.0%}){left}"
    table = Table("what", "finished", "lately", box=None, pad_edge=False)
    share = ledgers.finished.mean(axis=(1, 2))
    for s in np.flatnonzero((share > 0) & (share < 1))[:12]:
        batches = " ".join(f"{part:.0%}" for part in ledgers.finished[s].mean(axis=1)[:16])
        table.add_row(f"start {format_time(store.starts[s])}", f"{share[s]:.0%}", f"member batches: {batches}")
    for ledger in sorted(store.path.glob("finished-*.jsonl")):
        lines, age = ledger.read_bytes().count(b"\n"), time.time() - ledger.stat().st_mtime
        state = "at work" if age < LATELY and done < all_of else f"silent for {age / 60:.0f} min"
        table.add_row(ledger.stem.removeprefix("finished-"), f"{lines} units", state)
    return Group(Text(title), table)
