"""Scores while forecasting are those of verifying what was stored, whoever computed what and however often killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from forecast.core.errors import ForecastError
from forecast.core.forecasts import Forecasts
from forecast.core.sections import VerificationSection
from forecast.inference.ensemble import generate
from forecast.verification.job import Job
from forecast.verification.online import Online
from forecast.verification.results import Scores, open_scores
from forecast.verification.score import score
from forecast.verification.scores import POINTWISE
from pipelines.scoring import Scoring
from tests import tiny
from tests.inference.fakes import Fake, fingerprint, in_processes

ROOT = Path(__file__).parents[2]
STARTS = np.array(["2001-01-20T00", "2001-01-30T00", "2001-02-03T12", "2001-02-12T00"], "datetime64[s]")
"""the third lacks some valid times, the last all"""
LEAD = np.timedelta64(36, "h")
HOW = {
    "climatology": (np.datetime64("2001-01-01", "s"), np.datetime64("2001-02-09", "s")),
    "climatology_members": 8,
    "scores": ("pointwise", "acc", "energy_score", "brier", "reliability", "power_members"),
    "draws": 20,
}
"""a score of each kind: points, climate, areas, events, tables by month, rows"""


class Weather(Fake):
    """Fields of the tiny archive's size and magnitude."""

    variables = ("z_500", "t_850")

    def field(self, start, member, step) -> np.ndarray:
        return super().field(start, member, step) * np.float32(10) + np.array([[5.5e4], [280]], np.float32)


def run(folder: Path, name: str, part=(0, 1), batch=2, drop=False, delay=0.0) -> Path:
    out = folder / f"{name}.zarr"

    def follow(store: Path) -> Online:
        return Online(Job({"weather": store}, folder / "truth.zarr", **HOW), folder / f"{name}-scores")

    return generate(Weather(delay=delay), STARTS, 5, LEAD, out, batch, part, {"seed": 1}, follow, drop)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scoring")
    tiny.make(folder)
    return folder


@pytest.fixture(scope="module")
def verified(folder) -> Scores:
    """Fields that were stored first and verified then."""
    generate(Weather(), STARTS, 5, LEAD, folder / "stored.zarr", 2, settings={"seed": 1})
    score({"weather": folder / "stored.zarr"}, folder / "truth.zarr", folder / "stored-scores", **HOW)
    return open_scores(folder / "stored-scores")


def assert_same(got: Scores, expected: Scores) -> None:
    """Bit for bit: sums and weights of the forecast and of the baselines, and what was counted."""
    assert list(got.sums) == list(expected.sums) == ["weather", "persistence", "climatology"]
    for label, sums in expected.sums.items():
        assert got.sums[label].sum.identical(sums.sum) and got.sums[label].weight.identical(sums.weight)
    differing = {key for key in expected.summary if got.summary[key] != expected.summary[key]}
    assert differing <= {"forecasts"}
    assert (got.path / "scores.csv").read_text() == (expected.path / "scores.csv").read_text()
    assert (got.path / "case.nc").exists()


@pytest.mark.parametrize("batch", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_sums_are_those_of_verifying_stored_fields(folder, verified, batch) -> None:
    out = run(folder, f"batch{batch}", batch=batch)
    assert_same(open_scores(folder / f"batch{batch}-scores"), verified)
    assert Forecasts.open(out).finished.all()
    assert not (folder / f"batch{batch}-scores.parts").exists()


def test_fields_need_not_be_stored(folder, verified) -> None:
    """What stays is a skeleton of some kilobytes; running again finds nothing to do."""
    out = run(folder, "dropped", drop=True)
    assert_same(open_scores(folder / "dropped-scores"), verified)
    left = Forecasts.open(out)
    assert not left.units.any() and not list(out.glob("z_500/c.*"))
    assert sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) < 100_000
    with pytest.raises(ForecastError, match="not finished"):
        left.read("z_500", 0, 1)
    before = fingerprint(folder / "dropped-scores")
    run(folder, "dropped", drop=True)
    assert fingerprint(folder / "dropped-scores") == before


def test_processes_score_together_what_they_forecast_together(folder, verified) -> None:
    command = [sys.executable, "-m", "tests.inference.test_scoring", str(folder), "shared", "3"]
    subprocess.run(command, cwd=ROOT, check=True)
    assert_same(open_scores(folder / "shared-scores"), verified)


@pytest.mark.parametrize("drop", [pytest.param(False, marks=pytest.mark.slow), True])
def test_killed_and_resumed_gives_the_same_sums(folder, verified, drop) -> None:
    name = f"killed{drop:d}"
    parts, ledgers = folder / f"{name}-scores.parts", folder / f"{name}.zarr"
    for kept in (1,):
        command = [sys.executable, "-m", "tests.inference.test_scoring", str(folder), name, "1", str(drop), "0.03"]
        process = subprocess.Popen(command, cwd=ROOT)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            lines = sum(path.read_text().count("\n") for path in ledgers.glob("finished-*"))
            if len(list(parts.glob("20*T??"))) >= kept and lines > 25 * kept + 10:
                break
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    run(folder, name, drop=drop)
    assert_same(open_scores(folder / f"{name}-scores"), verified)


def test_what_is_scored_while_forecasting_is_cheap_unless_more_is_asked_for(folder) -> None:
    store = generate(Weather(), STARTS[:1], 2, LEAD, folder / "plain.zarr", 2)
    lean = Scoring(folder / "truth.zarr").follow(store)
    assert {m.name for m in lean._engine.scorer.metrics} == set(POINTWISE)
    assert [source.label for source in lean._engine.sources] == ["plain", "persistence"]
    wished = VerificationSection(scores=("acc",), baselines=("climatology",))
    more = Scoring(folder / "truth.zarr").of(wished.model_copy(update={"climatology": HOW["climatology"]}))
    engine = more.follow(store)._engine
    assert [m.name for m in engine.scorer.metrics] == ["acc"]
    assert [source.label for source in engine.sources] == ["plain", "climatology"]


def test_nothing_to_score_is_told_before_anything_is_computed(folder, tmp_path) -> None:
    system = Weather()
    job = Job({"weather": tmp_path / "f.zarr"}, folder / "truth.zarr")
    with pytest.raises(ForecastError, match="no start can be scored.*2001-02-12T00 left out"):
        generate(system, STARTS[3:], 2, LEAD, tmp_path / "f.zarr", follow=lambda path: Online(job, tmp_path / "scores"))
    assert system.asked == []


if __name__ == "__main__":
    place, name, count, *more = sys.argv[1:]
    drop, delay = (more[0] == "True", float(more[1])) if more else (False, 0.01)
    if count == "1":
        run(Path(place), name, drop=drop, delay=delay)
    else:
        os._exit(in_processes(int(count), lambda part: run(Path(place), name, part, drop=drop, delay=delay)))
