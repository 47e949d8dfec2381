"""Scores of forecasts that are still being made: sums are added as steps come out, fields may go afterwards."""

from __future__ import annotations

import json
import os
import shutil
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np

from forecast.core.forecasts import Forecasts
from forecast.core.times import format_time
from forecast.verification.case import save_case
from forecast.verification.job import DAY, Job
from forecast.verification.results import Scores, slug
from forecast.verification.score import check_folder, finish
from forecast.verification.scorer import Missing
from forecast.verification.sums import Sums


class Online:
    """Follows a forecast store; the sums of each start are kept beside the folder of scores until all are there.

    Sums have a slot for each start and lead time, so it does not matter who filled one, when, or how often: they are
    those of `forecast verify` on the same fields, bit for bit.

    Args:
        job: what to score; its only forecast store must have been created.
        out: the folder of scores. title: of the report.

    Raises:
        ForecastError: nothing in common with the truth, another kind of folder at `out`.
    """

    def __init__(self, job: Job, out: Path, title: str = "") -> None:
        check_folder(out)
        self._job, self._out, self._title = job, out, title
        self._engine = job.engine(ahead=True)
        (path,) = job.forecasts.values()
        self._store = Forecasts.open(path)
        self._parts = out.with_name(out.name + ".parts")
        self._parts.mkdir(parents=True, exist_ok=True)
        self._open: dict[int, tuple[dict[str, Sums], set[int], list[tuple[str, Missing]]]] = {}

    def has(self, start: int) -> bool:
        """Whether the sums of a start are kept, or nothing is to be scored of it."""
        return self._place(start) is None or self._file(self._store.starts[start]).is_dir()

    def step(self, start: int, lead: int) -> None:
        """Add a lead time of which all members are there."""
        place = self._place(start)
        leads = np.flatnonzero(self._engine.plan.leads == self._store.leads[lead])
        if place is not None and leads.size:
            self._add(place, start, int(leads[0]))

    def end(self, start: int) -> None:
        """Add what is missing of a start and keep its sums."""
        place = self._place(start)
        if place is None:
            return
        for lead in np.flatnonzero(self._engine.plan.scored[place]):
            self._add(place, start, int(lead))
        sums, _, found = self._open.pop(start)
        folder = self._file(self._store.starts[start])
        draft = folder.with_suffix(f".{os.getpid()}")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        for label, one in sums.items():
            pairs = {f"{name} {k}": array for name, pair in one.arrays.items() for k, array in enumerate(pair)}
            np.savez_compressed(draft / f"{slug(label)}.npz", allow_pickle=False, **pairs)
        (draft / "missing.json").write_text(json.dumps([[label, *missing] for label, missing in found]))
        if place == self._engine.plan.cases[0][0]:
            save_case(draft / "case.nc", self._engine.sources[0], self._engine.truth, self._engine.plan, around=5 * DAY)
        draft.rename(folder)

    def finish(self) -> Scores:
        """Write the folder of scores from the sums of all starts; with it the parts go."""
        plan = self._engine.plan
        months = plan.starts.astype("datetime64[M]")
        parts = [self._month(np.flatnonzero(months == month)) for month in np.unique(months)]
        sums = {label: reduce(add, (part[label] for part in parts)) for label in parts[0]}
        folders = [self._file(start) for start in plan.starts]
        for folder in folders:
            found = json.loads((folder / "missing.json").read_text())
            self._engine.count([(label, Missing(*numbers)) for label, *numbers in found])
        (case,) = self._parts.glob("*/case.nc")
        scores = finish(self._job, self._engine, sums, self._out, self._title, case)
        shutil.rmtree(self._parts)
        return scores

    def _month(self, places: np.ndarray) -> dict[str, Sums]:
        """The sums of the starts at `places` of the plan, all of one month, by label."""
        sums = self._engine.zeros(self._engine.plan.starts[places])
        for k, start in enumerate(self._engine.plan.starts[places]):
            for label, one in sums.items():
                with np.load(self._file(start) / f"{slug(label)}.npz") as kept:
                    for name, (total, weight) in one.arrays.items():
                        total[:, k], weight[:, k] = kept[f"{name} 0"][:, 0], kept[f"{name} 1"][:, 0]
        return {label: one.compact() for label, one in sums.items()}

    def _add(self, place: int, start: int, lead: int) -> None:
        plan = self._engine.plan
        if start not in self._open:
            self._open[start] = self._engine.zeros(plan.starts[[place]]), set(), []
        sums, done, found = self._open[start]
        if lead not in done and plan.scored[place, lead]:
            found += self._engine.score((place, lead), sums)
            done.add(lead)

    def _place(self, start: int) -> int | None:
        """The start's position in the plan, if anything of it is scored."""
        found = np.flatnonzero(self._engine.plan.starts == self._store.starts[start])
        return int(found[0]) if found.size else None

    def _file(self, start: np.datetime64) -> Path:
        return self._parts / format_time(start).replace(":", "")
