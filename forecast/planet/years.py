"""The planet's archive: years simulated side by side, given out in time order as truth and analysis.

Each simulated year is one trajectory with its own random initial state, spun up over the weeks before its first of
January. Trajectories do not join, so the last date of every year (31 December 18 UTC) is missing: NaN, and marked
in the mask of `dates`; no window of dates without a gap holds two histories.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar, cast

import numpy as np

from forecast.core import seeding
from forecast.core.archive_sections import PlanetSource
from forecast.planet import forcing
from forecast.planet.climate import ANALYSIS_ERROR, Climate
from forecast.planet.fields import Fields
from forecast.planet.model import Model
from forecast.planet.settings import OUTPUT_STEP

SPIN_UP_DAYS = 45
Slab = tuple[np.ndarray, np.ndarray, np.ndarray]
Item = TypeVar("Item")
Result = TypeVar("Result")

BATCH = 4
"""years that share one batch: always this many, so that a year has the same bits in archives of any length"""


def dates(source: PlanetSource) -> tuple[np.ndarray, np.ndarray]:
    """The time axis (T,) datetime64[s] and the mask (T,) of missing dates."""
    axis = np.concatenate([_year(y) for y in _years(source)])
    missing = np.zeros(axis.size, bool)
    missing[np.cumsum([_year(y).size for y in _years(source)]) - 1] = True
    return axis, missing


def archive(source: PlanetSource, dates_per_slab: int = 64) -> Iterator[Slab]:
    """Simulate, and give out slabs of dates in time order.

    Slabs begin at multiples of `dates_per_slab` from the start of the time axis; the last one may be shorter.

    Yields:
        dates (t,) datetime64[s], truth (t, V, G) float32, analysis (t, V, G) float32; NaN at missing dates.
        Variables and units: fields.py. The analysis is the truth with an error added to its streamfunction and
        moisture (climate.py), a function of seed and date; its tp is the truth's.
    """
    model = Model(source.truncation)
    derive = partial(_derive, model, Fields(model.sphere), Climate(model.sphere), source.seed)
    last = dates(source)[0][-1]
    held: list[Slab] = []
    with ThreadPoolExecutor(_workers()) as pool:
        for part in in_order(pool, derive, _cut(simulate(model, source), dates_per_slab)):
            held.append(part)
            if sum(p[0].size for p in held) == dates_per_slab or part[0][-1] == last:
                yield cast(Slab, tuple(np.concatenate(arrays) for arrays in zip(*held, strict=True)))
                held = []


def _cut(years: Iterable[Slab], dates_per_slab: int) -> Iterator[Slab]:
    """Cut the trajectories of the years at the slabs' boundaries."""
    done = 0
    for arrays in years:
        size, first = arrays[0].size, 0
        while first < size:
            end = min(first + dates_per_slab - done % dates_per_slab, size)
            yield cast(Slab, tuple(a[first:end] for a in arrays))
            first, done = end, done + end - first


def in_order(pool: Executor, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Map over a pool, results in order, with only as many items in flight as there are workers and one more."""
    flying: deque[Future[Result]] = deque()
    for item in items:
        flying.append(pool.submit(function, item))
        if len(flying) > _workers():
            yield flying.popleft().result()
    while flying:
        yield flying.popleft().result()


def _derive(model: Model, fields: Fields, climate: Climate, seed: int, part: Slab) -> Slab:
    """Dates, truth and analysis (t, V, G) of dates, states (t, M, 2, N, 4) and rain (t, longitude, latitude)."""
    when, states, rain = part
    season = forcing.season(when)
    state = np.ascontiguousarray(np.moveaxis(states, 0, 3))
    water = np.ascontiguousarray(np.moveaxis(rain, 0, 2))
    psi, s = model.invert(state)[..., :3], state[..., 3]
    truth = fields.derive(psi, s, water, season)
    error = climate.deviations([seeding.key(seed, "analysis", date) for date in when], when)
    error *= ANALYSIS_ERROR
    analysis = fields.derive(psi + error[..., :3], s + error[..., 3], water, season)
    missing = _is_last_of_year(when)
    truth[missing] = analysis[missing] = np.nan
    return when, truth, analysis


def initial_states(model: Model, climate: Climate, keys: list[int], when: np.ndarray) -> np.ndarray:
    """(M, 2, N, B, 4) states to spin up from: the climate's mean at B dates and a random deviation for each key."""
    psi = climate.mean(when) + climate.deviations(keys, when)
    state = model.vorticity(psi)
    state[..., 3] = psi[..., 3]
    return state


def simulate(model: Model, source: PlanetSource) -> Iterator[Slab]:
    """Year by year: dates (t,), states (t, M, 2, N, 4) of the model, rain (t, longitude, latitude) in m."""
    years = _years(source)
    batches = [years[k : k + BATCH] for k in range(0, len(years), BATCH)]
    run = partial(_run, model, Climate(model.sphere), source.seed)
    with ThreadPoolExecutor(_workers()) as pool:
        for batch, (states, rain) in zip(batches, in_order(pool, run, batches), strict=True):
            for slot, year in enumerate(batch):
                when = _year(year)
                yield when, states[: when.size, ..., slot, :], rain[: when.size, ..., slot]


def _run(model: Model, climate: Climate, seed: int, years: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Simulate up to BATCH years: states (t, M, 2, N, B, 4) and rain (t, longitude, latitude, B), t = 366 days."""
    padded = years + [years[0]] * (BATCH - len(years))
    starts = np.array([_year(year)[0] for year in padded])
    now = starts - np.timedelta64(SPIN_UP_DAYS, "D")
    keys = [seeding.key(seed, "initial", year) for year in padded]
    state = initial_states(model, climate, keys, now)
    length = max(_year(year).size for year in years)
    states: np.ndarray = np.empty((length, *state.shape), model.dtype)
    rain: np.ndarray = np.empty((length, *model.sphere.grid.shape[::-1], BATCH), model.dtype)
    for k in range(-SPIN_UP_DAYS * 4 + 1, length):
        state, water = model.six_hours(state, forcing.season(now))
        now = now + OUTPUT_STEP
        if k >= 0:
            states[k], rain[k] = state, water
    return states, rain


def _workers() -> int:
    return min(os.cpu_count() or 1, 8)


def _years(source: PlanetSource) -> list[int]:
    return list(range(source.first_year, source.first_year + source.years))


def _year(year: int) -> np.ndarray:
    """The 6-hourly dates of a calendar year."""
    first, end = (np.datetime64(f"{y:04d}-01-01", "s") for y in (year, year + 1))
    return np.arange(first, end, OUTPUT_STEP)


def _is_last_of_year(when: np.ndarray) -> np.ndarray:
    return (when + OUTPUT_STEP).astype("datetime64[Y]") != when.astype("datetime64[Y]")
