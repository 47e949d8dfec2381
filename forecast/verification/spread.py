"""The work of one job over threads, processes, or the machines of a dask cluster.

A task is a run of starts. Each fills slots of its own, so the sums are the same, to the last bit, whoever made them.
"""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import Any

import numpy as np

from forecast.core.errors import ForecastError
from forecast.core.progress import bar
from forecast.verification.engine import Engine
from forecast.verification.job import Job
from forecast.verification.parts import Parts
from forecast.verification.scorer import Missing
from forecast.verification.sums import Sums

Part = tuple[dict[str, Sums], list[tuple[str, Missing]]]
_engines: dict[str, Engine] = {}


def spread(
    job: Job, engine: Engine, workers: int = 2, scheduler: str = "threads", parts: Parts | None = None
) -> dict[str, Sums]:
    """Score everything; sums by label, as `Engine.run`.

    Args:
        engine: made by the job, in this process.
        scheduler: `threads`; `processes`, for data whose reading holds the interpreter's lock (NetCDF, GRIB); or the
            address of a dask scheduler, tcp://host:8786, whose workers see the same files.
        parts: what an earlier run has finished; what is scored now goes there.

    Raises:
        ForecastError: a cluster that does not answer.
    """
    if scheduler == "threads":
        return engine.run(workers, parts)
    from distributed import Client, as_completed

    local = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None, "processes": True}
    where: dict[str, Any] = local if scheduler == "processes" else {"address": scheduler, "timeout": "20s"}
    try:
        client = Client(**where)
    except (OSError, ValueError) as error:
        raise ForecastError(f"no dask cluster at {scheduler}: {error or type(error).__name__}") from None
    done: dict[int, dict[str, Sums]] = {}
    with client, bar("scoring", len(engine.shares())) as progress:
        futures = {}
        for k, share in enumerate(engine.shares()):
            sums = engine.zeros(engine.plan.starts[share])
            found = parts.load(k, sums, np.arange(len(share))) if parts else None
            if found is None:
                futures[client.submit(score_starts, job, share, pure=False)] = k
            else:
                done[k] = sums
                engine.count(found)
        for future in as_completed(list(futures)):
            k = futures[future]
            done[k], found = future.result()
            if parts:
                parts.save(k, done[k], np.arange(len(engine.shares()[k])), found)
            engine.count(found)
            progress.advance()
    ordered = [done[k] for k in sorted(done)]
    return {label: reduce(add, (part[label] for part in ordered)).compact() for label in ordered[0]}


def score_starts(job: Job, places: np.ndarray) -> Part:
    """The sums of the starts at `places` of the plan; a process opens the stores of a job once."""
    key = repr(job)
    engine = _engines.get(key) or _engines.setdefault(key, job.engine())
    sums = engine.zeros(engine.plan.starts[places])
    wanted = set(places.tolist())
    found = [item for case in engine.plan.cases if case[0] in wanted for item in engine.score(case, sums)]
    return sums, found
