"""Any shape, any missing values, any number of workers: no crash, the same sums, and scores within their bounds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forecast.core import grids, seeding
from forecast.verification import score
from forecast.verification.climate import Climate
from forecast.verification.job import Job
from forecast.verification.scorer import Scorer
from forecast.verification.spread import spread
from forecast.verification.sums import Sums
from tests.verification.synthetic import HOUR, write_forecast, write_truth

START, LEAD = np.datetime64("2001-01-01", "s"), 24 * HOUR


def _grid(rows: int, columns: int, points: int) -> grids.Grid:
    if points:
        return grids.from_points(np.linspace(60, -50, points), (np.arange(points) * 97.0) % 360)
    return grids.latlon(np.linspace(80, -70, rows), np.arange(columns) * 360.0 / columns)


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    members=st.integers(1, 9), rows=st.integers(2, 5), columns=st.integers(2, 7), points=st.sampled_from([0, 0, 5, 23]),
    climate=st.sampled_from([0, 2, 7]), constant=st.booleans(), holes=st.integers(0, 3), lost=st.integers(0, 2),
    nan=st.sampled_from(["propagate", "skip"]), scale=st.sampled_from([1.0, 1e-6, 5e4]),
)  # fmt: skip
def test_scorer_takes_anything(members, rows, columns, points, climate, constant, holes, lost, nan, scale) -> None:  # type: ignore[no-untyped-def]
    grid = _grid(rows, columns, points)
    noise = seeding.normal(seeding.key(members, "fuzz", rows, columns), 20 * grid.size).reshape(20, -1)
    noise = np.zeros_like(noise) if constant else noise
    x, y = (scale * (1 + noise[1 : members + 1])).astype(np.float32), (scale * (1 + noise[0])).astype(np.float32)
    y[:holes] = np.nan
    x[0, :lost] = np.nan
    scorer = Scorer(grid, climate=climate > 0, initial=True, nan=nan)
    made = [scorer.zeros("x", members, ("tp",), np.array([START]), np.array([LEAD])) for _ in range(2)]
    for sums in made:
        past = Climate(noise[10 : 10 + climate].astype(np.float32) * scale) if climate else None
        scorer.add(sums, "tp", START, LEAD, x, y, past, (y, y))
    some = ("rank_histogram", "sharpness", "roc_area", "hit_rate", "brier", "coherence", "fair_crps")
    scores = {m.name: made[0].metric(m) for m in scorer.metrics if m.name in some}
    assert all(np.array_equal(a, b, equal_nan=True) for s in made[0].arrays for a, b in
               zip(made[0].arrays[s], made[1].arrays[s], strict=True))  # fmt: skip
    for name in some[:-1]:
        if name in scores:
            found = scores[name].values[np.isfinite(scores[name].values)]
            assert (found >= -1e-9).all() and (found <= 1 + 1e-9).all(), name
    seen = np.isfinite(scores["fair_crps"].values).all()
    assert seen or holes or lost or constant


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder, grid = tmp_path_factory.mktemp("job"), grids.gaussian(4)
    dates = np.datetime64("2001-01-01", "s") + np.arange(40) * 24 * HOUR

    def state(when: np.datetime64, members: int = 1) -> np.ndarray:
        return 5e4 + 100 * seeding.normal(seeding.key(1, "s", when), members * grid.size).reshape(members, -1)

    write_truth(folder / "t.zarr", grid, dates, {"z_500": np.concatenate([state(d) for d in dates])})
    starts = dates[[20, 22, 25, 30, 35]]
    path = write_forecast(folder / "f.zarr", grid, starts, np.array([24, 48]) * HOUR, 3, ("z_500",),
                          lambda _, start, lead: state(start + lead, 3))  # fmt: skip
    return Job({"f": path}, folder / "t.zarr", climatology=(dates[0], dates[39]))


def _same(a: dict[str, Sums], b: dict[str, Sums]) -> bool:
    return all(a[label].sum.equals(b[label].sum) and a[label].weight.equals(b[label].weight) for label in a)


@pytest.mark.slow
def test_threads_and_processes_give_the_same_bits(job: Job) -> None:
    alone = spread(job, job.engine(), workers=1)
    assert _same(alone, spread(job, job.engine(), workers=3))
    assert _same(alone, spread(job, job.engine(), workers=2, scheduler="processes"))


@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_one_line(job: Job) -> None:
    from forecast.core.errors import ForecastError

    with pytest.raises(ForecastError, match="no dask cluster at nowhere:1"):
        spread(job, job.engine(), scheduler="nowhere:1")


def test_the_whole_report_of_all_scores(job: Job, tmp_path: Path) -> None:
    """Significance, seasons and spans of everything at once, and what they hold."""
    found = score(job.forecasts, job.truth, tmp_path / "s", climatology=job.climatology, seasons=True, draws=50,
                  spans=("both=1d..2d",))  # fmt: skip
    assert {c["against"] for c in found.summary["comparisons"]} == {"persistence", "climatology"}
    text = (tmp_path / "s" / "scores.csv").read_text()
    assert "brier[> p90]" in text and ",DJF," in text and ",both" in text
    assert {"reliability_low", "reliability_high", "rank_flatness_p"} <= set(found.metrics["f"])
