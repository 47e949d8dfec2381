"""Scores of tropical-cyclone tracks and of the probability to be struck.

Cyclones that the truth holds at a start are followed in every member from where they truly were, as ECMWF does for its
strike probabilities (van der Grijn 2002; Magnusson et al. 2021, ECMWF Technical Memorandum 888). A point is struck
where the centre passes within 120 km of it. Errors are great-circle distances.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from forecast.core.errors import ForecastError
from forecast.core.grids import Grid, unit_vectors
from forecast.core.progress import bar
from forecast.core.times import format_time
from forecast.verification.cyclones import (
    EARTH,
    HOUR,
    LOWER,
    UPPER,
    Centre,
    Criteria,
    Finder,
    Track,
    distance,
    follow,
    mean_position,
    stitch,
)
from forecast.verification.foreign import open_forecast, open_truth
from forecast.verification.naming import Names
from forecast.verification.plan import Plan, make_plan
from forecast.verification.sources import StoredForecast
from forecast.verification.states import States

STRIKE = 120.0
"""km within which a centre strikes"""
WANTED = ("msl", "10u", "10v", *UPPER, LOWER)


@dataclass(frozen=True)
class Case:
    """One cyclone from one start: its true track from there on and that of each member."""

    start: np.datetime64
    number: int
    truth: Track
    members: list[Track]


def score_cyclones(forecast: str | Path, truth: str | Path, out: Path, names: str = "") -> pd.DataFrame:
    """Follow every cyclone from every start; write tracks.csv, scores.csv and strikes.csv into `out`.

    Returns:
        The scores: columns score, lead_hours, value, cases.

    Raises:
        ForecastError: no mean sea level pressure, another grid than the truth's, a grid too coarse, no cyclone at any
            start.
    """
    names_ = Names.parse(names)
    store: Any = open_truth(truth, names_)
    source = StoredForecast(Path(forecast).stem, open_forecast(forecast, names_))
    known = tuple(name for name in WANTED if name in store.variables and name in source.store.variables)
    if "msl" not in known:
        raise ForecastError("cyclones are found in `msl`: the truth and the forecast must both hold it")
    states = States(store, known)
    plan = make_plan([source], states, states)
    finder, tracks = Finder(store.grid), true_tracks(states, plan)
    cases = list(followed(source, plan, finder, tracks))
    if not cases:
        raise ForecastError(f"{store.path}: no tropical cyclone at any of {len(plan.starts)} starts")
    out.mkdir(parents=True, exist_ok=True)
    _table(cases).to_csv(out / "tracks.csv", index=False)
    scores = pd.concat([track_scores(cases, plan.leads), *strike_scores(cases, store.grid, out)])
    scores.to_csv(out / "scores.csv", index=False)
    return scores


def true_tracks(states: States, plan: Plan) -> list[Track]:
    """Tracks in the truth, from a day before the first start to the last valid time."""
    first, last = plan.starts.min() - 24 * HOUR, plan.valid_times.max()
    dates = [when for when in states.store.dates.astype("datetime64[s]") if first <= when <= last and states.has(when)]
    finder = Finder(states.store.grid)
    found = [finder.centres(dict(zip(states.variables, states.get(when), strict=True))) for when in dates]
    return stitch(dates, found)


def followed(source: StoredForecast, plan: Plan, finder: Finder, tracks: Sequence[Track]) -> Iterator[Case]:
    """Every cyclone that is there at a start, in the truth and in each member."""
    with bar("following cyclones", len(plan.starts)) as progress:
        for start in plan.starts:
            here = [(number, track) for number, track in enumerate(tracks) if start in track]
            found = _centres(source, plan, finder, start) if here else []
            times = [start + lead for lead in plan.leads]
            for number, track in here:
                members = [follow((start, track[start]), times, member) for member in found]
                later = {when: centre for when, centre in track.items() if when in set(times)}
                yield Case(start, number, {start: track[start]} | later, members)
            progress.advance()


def _centres(source: StoredForecast, plan: Plan, finder: Finder, start: np.datetime64) -> list[list[list[Centre]]]:
    """Centres of each member at each lead."""
    found: list[list[list[Centre]]] = [[] for _ in range(source.members)]
    for lead in plan.leads:
        fields = {name: source.read(name, start, lead) for name in plan.variables}
        for member, centres in enumerate(found):
            centres.append(finder.centres({name: values[member] for name, values in fields.items()}))
    return found


def track_scores(cases: Sequence[Case], leads: np.ndarray) -> pd.DataFrame:
    """By lead: errors in km (members, ensemble mean), spread, in Pa and m/s, and how many members hold the cyclone.

    The mean counts where at least half of the members have the cyclone.
    """
    rows: list[dict[str, Any]] = []
    for lead in leads:
        found: dict[str, list[float]] = {}
        for case in cases:
            when = case.start + lead
            there = [track[when] for track in case.members if when in track]
            share = len(there) / len(case.members)
            if when not in case.truth:
                found.setdefault("false_alarm_share", []).append(share)
                continue
            for name, value in _errors(case.truth[when], there, share).items():
                found.setdefault(name, []).append(value)
        hours = float(lead / HOUR)
        rows += [{"score": name, "lead_hours": hours, "value": float(np.mean(values)), "cases": len(values)}
                 for name, values in found.items()]  # fmt: skip
    return pd.DataFrame(rows)


def _errors(truth: Centre, there: Sequence[Centre], share: float) -> dict[str, float]:
    found = {"hit_share": share}
    if there:
        found |= {
            "position_error_members": float(np.mean([distance(truth, centre) for centre in there])),
            "pressure_bias": float(np.mean([centre.pressure for centre in there]) - truth.pressure),
        }
        wind = float(np.mean([centre.wind for centre in there]) - truth.wind)
        found |= {"wind_bias": wind} if np.isfinite(wind) else {}
    if share >= 0.5:
        mean = mean_position(there)
        found["position_error_mean"] = distance(truth, mean)
        found["position_spread"] = float(np.mean([distance(mean, centre) for centre in there]))
    return found


def strike_scores(cases: Sequence[Case], grid: Grid, out: Path) -> list[pd.DataFrame]:
    """Brier score of the strike probabilities over the whole forecast, and its skill against their mean frequency.

    Over the points from 50 degrees south to 50 north, by area; strikes.csv holds the reliability: with how many members
    a point was struck, how much of the area that was, and how often it came true.
    """
    inside = np.abs(grid.latitudes) <= Criteria().latitude
    xyz, weights = grid.xyz[inside], grid.areas[inside] / grid.areas[inside].sum()
    size = len(cases[0].members)
    table = np.zeros((size + 1, 2))
    starts = sorted({case.start for case in cases})
    for start in starts:
        own = [case for case in cases if case.start == start]
        origins = {case.number: case.truth[start] for case in own}
        members = [np.any([struck({start: origins[case.number]} | case.members[m], xyz) for case in own], axis=0)
                   for m in range(size)]  # fmt: skip
        count = np.sum(members, axis=0)
        outcome = np.any([struck(case.truth, xyz) for case in own], axis=0)
        for happened in (0, 1):
            table[:, happened] += np.bincount(count, weights * (outcome == happened), size + 1) / len(starts)
    share, total = np.arange(size + 1) / size, table.sum(axis=1)
    frequency = np.divide(table[:, 1], total, out=np.full(size + 1, np.nan), where=total > 0)
    columns = {"probability": share, "area": total, "frequency": frequency}
    pd.DataFrame(columns).to_csv(out / "strikes.csv", index=False)
    brier = float((table[:, 1] * (1 - share) ** 2 + table[:, 0] * share**2).sum())
    rate = float(table[:, 1].sum())
    rows = {"strike_brier": brier, "strike_brier_skill": 1 - brier / (rate * (1 - rate)) if 0 < rate < 1 else np.nan}
    return [pd.DataFrame([{"score": name, "value": value, "cases": len(starts)} for name, value in rows.items()])]


def struck(track: Track, xyz: np.ndarray, radius: float = STRIKE) -> np.ndarray:
    """(G,) whether a track, drawn as great circles between its centres, passes within `radius` km of points (G, 3)."""
    points = unit_vectors(*np.array([centre[:2] for centre in track.values()]).T).reshape(-1, 3)
    path = [points[:1]]
    for a, b in zip(points[:-1], points[1:], strict=True):
        parts = max(1, int(np.ceil(EARTH * np.linalg.norm(b - a) / (radius / 4))))
        way = a + np.arange(1, parts + 1)[:, None] / parts * (b - a)
        path.append(way / np.linalg.norm(way, axis=1, keepdims=True))
    return np.asarray((xyz @ np.concatenate(path).T).max(axis=1) >= np.cos(radius / EARTH))


def _table(cases: Sequence[Case]) -> pd.DataFrame:
    rows = []
    for case in cases:
        for member, track in [("truth", case.truth), *enumerate(case.members)]:
            for when, centre in track.items():
                hours = float((when - case.start) / HOUR)
                where = {"start": format_time(case.start), "cyclone": case.number, "member": member}
                rows.append(where | {"lead_hours": hours} | centre._asdict())
    return pd.DataFrame(rows)
