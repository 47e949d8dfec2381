"""The learnt system: member k is member k, whoever computes it, and the rollout is what one writes by hand."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from forecast.core import config as configs
from forecast.core import seeding
from forecast.core.errors import ForecastError
from forecast.core.forecasts import Forecasts
from forecast.core.store import Store
from forecast.data.forcings import Forcings, static_fields
from forecast.inference.ensemble import generate
from forecast.inference.rollout import noise_keys
from forecast.inference.starts import parse_starts
from forecast.inference.system import LearntSystem
from forecast.models.serialise import load_forecaster, save_forecaster
from tests import tiny
from tests.inference import learnt
from tests.inference.fakes import fingerprint

ROOT = Path(__file__).parents[2]
START = np.datetime64("2001-01-03T12", "s")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Holds `analysis.zarr` and `checkpoint`."""
    folder = tmp_path_factory.mktemp("learnt")
    _, analysis = tiny.stores(folder)
    learnt.checkpoint(folder / "checkpoint", tiny.config(folder), analysis)
    return folder


def system(folder: Path, **settings) -> LearntSystem:
    store = Store.open(folder / "analysis.zarr")
    return LearntSystem(folder / "checkpoint", store, **{"device": "cpu", **settings})


def states(made: LearntSystem, members: list[int], steps: int = 4, start: np.datetime64 = START) -> np.ndarray:
    """(steps + 1, M, V, G)."""
    return np.stack(list(made.forecast(start, members, steps)))


def test_member_is_the_same_bits_alone_in_any_batch_and_in_any_order(folder) -> None:
    together = states(system(folder), list(range(8)))
    assert together.shape == (5, 8, 3, 128) and together.dtype == np.float32 and np.isfinite(together).all()
    for members in ([3], [7], [5, 1, 6], [2, 1, 0], [0, 7]):
        assert np.array_equal(states(system(folder), members), together[:, members])


def test_member_is_the_same_bits_on_any_number_of_threads(folder) -> None:
    alone, threads = states(system(folder), [0, 1, 2]), torch.get_num_threads()
    torch.set_num_threads(threads + 2)
    try:
        assert np.array_equal(states(system(folder), [2, 0, 1]), alone[:, [2, 0, 1]])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("size", [2, 3])
def test_member_is_the_same_bits_in_calls_of_several(folder, size) -> None:
    """As on a GPU: member k is row k % size, rows that nobody asked for are filled, and any order comes back right."""
    made, one = system(folder), states(system(folder), list(range(5)))
    made._calls.size = size
    together = states(made, list(range(5)))
    np.testing.assert_allclose(together, one, rtol=2e-6, atol=1e-6)
    for members in ([3], [4, 0], [2, 1, 0]):
        assert np.array_equal(states(made, members), together[:, members])


def test_noise_makes_members_starts_steps_and_seeds_differ(folder) -> None:
    a = states(system(folder), [0, 1, 2])
    assert np.array_equal(a[0, 0], a[0, 1]), "all start from the same analysis"
    changes = np.diff(a[:, :, 0], axis=0).reshape(-1, 128)
    assert len(np.unique(changes.round(3), axis=0)) == len(changes)
    assert (states(system(folder, seed=2), [0, 1, 2])[1:] != a[1:]).mean() > 0.5
    assert np.array_equal(states(system(folder), [0, 1, 2]), a)


def test_rollout_is_a_loop_of_steps(folder) -> None:
    """By hand, from the definitions: window, forcings at the newest date, flag of the first step, keyed noise."""
    made, store, model = (
        system(folder),
        Store.open(folder / "analysis.zarr"),
        load_forecaster(folder / "checkpoint").eval(),
    )
    at = store.index(START)
    names, fields = made.variables, model.fields
    forcings = Forcings(fields.forcings, fields.latitudes, fields.longitudes, static_fields(store, fields.static))
    past = [torch.from_numpy(store.read(at - 1, names)[0].T), torch.from_numpy(store.read(at, names)[0].T)]
    got = states(made, [4])[:, 0]
    assert np.array_equal(got[0], past[-1].T)
    for step in range(1, 5):
        date = START + (step - 1) * np.timedelta64(6, "h")
        shape = model.noise_shape
        noise = torch.from_numpy(seeding.normal(seeding.key(1, "noise", START, 4, step), shape[0] * shape[1]))
        with torch.no_grad():
            new = model.step(
                torch.stack(past)[None, None],
                torch.from_numpy(forcings(np.array([date]))),
                step == 1,
                noise.reshape(1, 1, *shape),
            )[0, 0]
        np.testing.assert_allclose(got[step], new.T, rtol=2e-6, atol=1e-6)  # float32, another batch size
        past = [past[-1], torch.from_numpy(got[step].T.copy())]


@pytest.fixture(scope="module")
def elsewhere(folder, tmp_path_factory) -> tuple[Path, list[float]]:
    """Another process makes a store, then larger ensembles: the store, and its peaks of memory in MB."""
    out = tmp_path_factory.mktemp("elsewhere") / "f.zarr"
    run = [sys.executable, "-m", "tests.inference.learnt", str(folder), str(out)]
    lines = subprocess.run(run, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    return out, [float(line) / 1e6 for line in lines]


@pytest.mark.parametrize("batch", [1, 3, 7])
def test_another_process_makes_the_same_members_in_any_batch(folder, elsewhere, tmp_path, batch) -> None:
    """7 members from two starts: there in batches of 3, on as many threads as torch likes."""
    there = Forecasts.open(elsewhere[0])
    here = Forecasts.open(generate(system(folder), learnt.STARTS, 7, learnt.LEAD, tmp_path / "f.zarr", batch))
    assert there.finished.all() and here.finished.all() and here.member_batch == batch
    for name in there.variables:
        assert np.array_equal(there.read(name, 1, 4), here.read(name, 1, 4))
    if batch == 3:
        assert fingerprint(there.path) == fingerprint(here.path)


def test_memory_does_not_grow_with_steps_or_members(elsewhere) -> None:
    """Peaks after 2 members to 2 steps, 2 to 60, 30 to 2; 8 MB for what allocators and caches vary by.

    Fields are small here (1.5 kB a member and step), the model is the point; `test_ensemble` has larger fields.
    """
    small, long, large = elsewhere[1]
    assert long < small + 8 and large < long + 8, f"{small:.0f}, {long:.0f}, {large:.0f} MB"


class Offset:
    """Adds the member's number to every variable, of which one more is wanted than is forecast."""

    variables = ("lsm", "tp", "t_850", "z_500")

    stores = ()

    def __init__(self) -> None:
        self.asked = []

    def needs(self, start):
        return np.array([], "datetime64[s]")

    def perturb(self, states, when, start, members):
        assert states.shape == (2, 4, 128) and np.array_equal(when, [start - np.timedelta64(6, "h"), start])
        self.asked.append((start, list(members)))
        return states + np.array(members, np.float32)[:, None, None, None]


def test_perturbations_give_each_member_its_own_start(folder) -> None:
    offset = Offset()
    made, analysis = system(folder, perturbations=offset), Store.open(folder / "analysis.zarr")
    expected = analysis.read(analysis.index(START), made.variables)[0]
    got = states(made, [1, 5], steps=1)
    assert np.array_equal(got[0], np.stack([expected + np.float32(1), expected + np.float32(5)]))
    assert offset.asked == [(START, [1, 5])]
    assert np.isfinite(got).all()


def test_starts_without_initial_states_are_all_listed(folder) -> None:
    """Positions 40 and 99 of the archive (11 and 25 January, 18 UTC) are missing; it begins on 1 January."""
    starts = parse_starts(["2001-01-01T00..2001-01-12T00/6h 2001-01-25T18 2001-01-05T03 2001-03-01T00"])
    with pytest.raises(ForecastError) as raised:
        system(folder).check(starts)
    told = str(raised.value)
    assert "2001-01-01T00 (2000-12-31T18 is outside 2001-01-01T00..2001-02-09T18)" in told
    assert f"{np.datetime_as_string(tiny.DATES[40], unit='h')} is missing" in told
    assert "2001-01-25T18 (2001-01-25T18 is missing)" in told
    assert "2001-01-05T03 (2001-01-05T03 is no date of the store)" in told
    assert "2001-03-01T00 (2001-03-01T00 is outside" in told
    assert told.count("(") == 6
    system(folder).check(parse_starts(["2001-01-01T06..2001-01-10T18/6h"]))


def test_start_without_initial_states_cannot_be_forecast(folder) -> None:
    with pytest.raises(ForecastError, match="2000-12-31T18 is not a date"):
        states(system(folder), [0], start=np.datetime64("2001-01-01T00", "s"))


def test_forecast_that_is_not_finite_is_told(folder, monkeypatch) -> None:
    made = system(folder)
    with torch.no_grad():
        made.model.network.decoder.head.bias.fill_(torch.inf)
    with pytest.raises(
        ForecastError, match=r"`z_500` of member 4 from 2001-01-03T12 is not finite after 1 steps: train"
    ):
        states(made, [4])
    monkeypatch.setattr(made.analysis, "read", lambda times, names: np.full((2, 3, 128), np.nan, np.float32))
    with pytest.raises(ForecastError, match="after 0 steps: the analysis has missing values"):
        states(made, [4])


def test_settings_name_all_that_the_fields_depend_on(folder, tmp_path) -> None:
    base = system(folder).settings
    assert base == system(folder).settings and base["seed"] == 1
    other = learnt.checkpoint(tmp_path / "checkpoint", tiny.config(folder), Store.open(folder / "analysis.zarr"))
    assert {k for k, v in system(folder, seed=2).settings.items() if v != base[k]} == {"seed"}
    weights = load_forecaster(other)
    with torch.no_grad():
        next(weights.parameters()).flatten()[0] += 1e-6
    save_forecaster(other, weights)
    changed = LearntSystem(other, Store.open(folder / "analysis.zarr"), device="cpu").settings
    assert {k for k in base if base[k] != changed[k]} == {"checkpoint"}


def test_store_that_does_not_go_with_the_checkpoint_is_refused(folder) -> None:
    store = Store.open(folder / "analysis.zarr")
    store.grid.latitudes[:] += 1.0
    with pytest.raises(ForecastError, match=r"analysis.zarr lies on gaussian-8x16, but the checkpoint on 128 other"):
        LearntSystem(folder / "checkpoint", store)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_that_is_not_there_is_an_error(folder) -> None:
    with pytest.raises(ForecastError, match="no CUDA device"):
        system(folder, device="cuda")


def test_noise_keys_do_not_collide() -> None:
    """4 starts x 100 members x 100 steps; `tests/core/test_seeding.py` has ten million."""
    starts = parse_starts(["2001-03-01T00..2001-03-04T00/24h"])
    keys = [key for start in starts for step in range(100) for key in noise_keys(1, start, range(100), step)]
    assert len(keys) == 40_000 == len(set(keys))


def test_gaps_by_nature_stay_and_others_are_refused(folder, tmp_path, monkeypatch) -> None:
    gaps = {START + np.timedelta64(12, "h"): slice(0, 1)}
    read = Store.read

    def with_gaps(store, times, names=None, *rest):
        out, names = read(store, times, names, *rest), list(names or store.variables)
        for k, date in enumerate(np.atleast_1d(store.dates[times])):
            for points in (slice(1, None, 3), gaps.get(date, slice(0))):
                out[k, [name == "t_850" for name in names], points] = np.nan
        return out

    monkeypatch.setattr(Store, "read", with_gaps)
    config = configs.parse(tiny.raw(folder), "tiny", ("data.masked=[t_850]",))
    learnt.checkpoint(tmp_path / "masked", config, Store.open(folder / "analysis.zarr"))
    made = LearntSystem(tmp_path / "masked", Store.open(folder / "analysis.zarr"), device="cpu")
    fields = states(made, [0, 1])
    assert np.isnan(fields[:, :, 1, 1::3]).all() and np.isfinite(np.delete(fields, np.s_[1::3], axis=3)).all()
    assert np.isfinite(fields[:, :, 0]).all()
    with pytest.raises(ForecastError, match="`t_850` of member 0 .* values that its first state has not"):
        states(made, [0], start=START + np.timedelta64(12, "h"))
    with pytest.raises(ForecastError, match="values that its first state has not, or that data.masked does not name"):
        states(system(folder), [0])
