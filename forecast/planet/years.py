"""The planet's archive: years simulated side by side, given out in time order as truth and analysis.

Each simulated year is one trajectory with its own random initial state, spun up over the weeks before its first of
January. Trajectories do not join, so the last date of every year (31 December 18 UTC) is missing: NaN, and marked
in the mask of `dates`; no window of dates without a gap holds two histories.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from forecast.core import seeding
from forecast.core.config import PlanetSource
from forecast.planet import forcing
from forecast.planet.analysis import SHARE, RandomStates
from forecast.planet.fields import Fields
from forecast.planet.model import Model
from forecast.planet.settings import OUTPUT_STEP

SPIN_UP_DAYS = 60
BATCH = 4
"""years that share one batch: always this many, so that a year has the same bits in archives of any length"""


def dates(source: PlanetSource) -> tuple[np.ndarray, np.ndarray]:
    """The time axis (T,) datetime64[s] and the mask (T,) of missing dates."""
    axis = np.concatenate([_year(y) for y in _years(source)])
    missing = np.zeros(axis.size, bool)
    missing[np.cumsum([_year(y).size for y in _years(source)]) - 1] = True
    return axis, missing


def archive(source: PlanetSource, dates_per_slab: int = 64) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Simulate, and give out slabs of dates in time order.

    Slabs begin at multiples of `dates_per_slab` from the start of the time axis; the last one may be shorter.

    Yields:
        dates (t,) datetime64[s], truth (t, V, G) float32, analysis (t, V, G) float32; NaN at missing dates.
        Variables and units: fields.py. The analysis is the truth with an error added to its streamfunction and
        moisture (analysis.py), a function of seed and date; its tp is the truth's.
    """
    model = Model(source.truncation)
    fields, errors = Fields(model.sphere), RandomStates(model.sphere)
    last = dates(source)[0][-1]
    held: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    done = 0
    for when, states, rain in simulate(model, source):
        first = 0
        while first < when.size:
            size = min(dates_per_slab - done % dates_per_slab, when.size - first)
            part = slice(first, first + size)
            held.append((when[part], *_derive(model, fields, errors, source.seed, when[part], states[part], rain[part])))
            first, done = first + size, done + size
            if done % dates_per_slab == 0 or when[part][-1] == last:
                yield tuple(np.concatenate(arrays) for arrays in zip(*held, strict=True))  # type: ignore[misc]
                held = []


def _derive(
    model: Model, fields: Fields, errors: RandomStates, seed: int, when: np.ndarray, states: np.ndarray, rain: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Truth and analysis (t, V, G) of states (t, M, 2, N, 4) and rain (t, longitude, latitude)."""
    season = forcing.season(when)
    state = np.ascontiguousarray(np.moveaxis(states, 0, 3))
    water = np.ascontiguousarray(np.moveaxis(rain, 0, 2))
    psi, s = model.invert(state), np.ascontiguousarray(state[..., 3])
    truth = fields.derive(psi, s, water, season)
    error = errors.draw([seeding.key(seed, "analysis", date) for date in when], season) * model.dtype(SHARE)
    analysis = fields.derive(psi[..., :3] + error[..., :3], s + error[..., 3], water, season)
    missing = _is_last_of_year(when)
    truth[missing] = analysis[missing] = np.nan
    return truth, analysis


def initial_states(model: Model, errors: RandomStates, keys: list[int], season: np.ndarray) -> np.ndarray:
    """(M, 2, N, B, 4) states to spin up from: winds near equilibrium and a random transient for each key."""
    difference = forcing.equilibrium(model.sphere)
    season = np.asarray(season, model.dtype)
    balance = difference[0] + difference[1] * season[:, None]
    psi = errors.draw(keys, season)
    moisture = psi[..., 3].copy()
    moisture[0, 0, 0] += 0.6
    psi[..., 3] = 0
    psi[..., 1] += 0.4 * balance[..., 1]
    psi[..., 2] -= 0.2 * balance[..., 1]
    psi[..., 0] += 0.4 * balance[..., 1] + 0.5 * balance[..., 0]
    state = model.vorticity(psi)
    state[..., 3] = moisture
    return state


def simulate(model: Model, source: PlanetSource) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Year by year: dates (t,), states (t, M, 2, N, 4), rain (t, longitude, latitude)."""
    years = _years(source)
    batches = [years[k : k + BATCH] for k in range(0, len(years), BATCH)]
    workers = min(len(batches), os.cpu_count() or 1)
    errors = RandomStates(model.sphere)
    with ThreadPoolExecutor(workers) as pool:
        for k in range(0, len(batches), workers):
            group = batches[k : k + workers]
            for batch, (states, rain) in zip(
                group, pool.map(lambda years: _run(model, errors, source.seed, years), group), strict=True
            ):
                for slot, year in enumerate(batch):
                    when = _year(year)
                    yield when, states[: when.size, ..., slot, :], rain[: when.size, ..., slot]


def _run(model: Model, errors: RandomStates, seed: int, years: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Simulate up to BATCH years: states (t, M, 2, N, B, 4) and rain (t, longitude, latitude, B), t = 366 days."""
    padded = years + [years[0]] * (BATCH - len(years))
    starts = np.array([_year(year)[0] for year in padded])
    now = starts - np.timedelta64(SPIN_UP_DAYS, "D")
    keys = [seeding.key(seed, "initial", year) for year in padded]
    state = initial_states(model, errors, keys, forcing.season(now))
    length = max(_year(year).size for year in years)
    states = np.empty((length, *state.shape), model.dtype)
    rain = np.empty((length, *model.sphere.grid.shape[::-1], BATCH), model.dtype)
    for k in range(-SPIN_UP_DAYS * 4 + 1, length):
        state, water = model.six_hours(state, forcing.season(now))
        now = now + OUTPUT_STEP
        if k >= 0:
            states[k], rain[k] = state, water
    return states, rain


def _years(source: PlanetSource) -> list[int]:
    return list(range(source.first_year, source.first_year + source.years))


def _year(year: int) -> np.ndarray:
    """The 6-hourly dates of a calendar year."""
    first, end = (np.datetime64(f"{y:04d}-01-01", "s") for y in (year, year + 1))
    return np.arange(first, end, OUTPUT_STEP)


def _is_last_of_year(when: np.ndarray) -> np.ndarray:
    return (when + OUTPUT_STEP).astype("datetime64[Y]") != when.astype("datetime64[Y]")
