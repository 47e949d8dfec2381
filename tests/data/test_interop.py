"""anemoi-datasets opens our sharded stores: selection, subsets, statistics, gaps, members; and we train on its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from forecast.core import config as configs
from forecast.core.store import Store
from forecast.data import tendencies
from forecast.data.export_anemoi import export_anemoi
from forecast.data.ingest import ingest
from pipelines.generate import generate
from pipelines.train import train
from tests import tiny
from tests.data.archives import DATES, config, netcdf, store

KEEP = np.array([0, 1, 2, 3, 4, 7, 8, 9])


@pytest.fixture(scope="module")
def anemoi() -> Any:
    return pytest.importorskip("anemoi.datasets", reason="anemoi-datasets is not installed (scripts/setup.sh does)")


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("interop")
    netcdf(folder / "a.nc", dates=DATES[KEEP], units={"t2m": "K", "msl": "Pa", "z500": "m2 s-2", "tp": "m"})
    return store(folder, folder / "a.nc", variables=("2t", "msl", "z_500", "tp"))


def test_it_reads_the_same(anemoi: Any, ours: Store) -> None:
    theirs = anemoi.open_dataset(str(ours.path))
    assert theirs.shape == (10, 4, 1, 12) and tuple(theirs.variables) == ours.variables
    np.testing.assert_array_equal(theirs.dates, ours.dates)
    np.testing.assert_array_equal(theirs.latitudes, ours.latitudes)
    np.testing.assert_array_equal(theirs.longitudes, ours.longitudes)
    assert theirs.field_shape == (3, 4) and np.timedelta64(theirs.frequency) == ours.frequency
    for t in KEEP:
        np.testing.assert_array_equal(theirs[int(t)][:, 0], ours.read(t)[0])
    np.testing.assert_array_equal(theirs[0:5][:, :, 0], ours.read(slice(0, 5)))
    assert theirs[2, 1, 0, 3:5].tolist() == ours.read(2)[0, 1, 3:5].tolist()


def test_it_selects_and_subsets(anemoi: Any, ours: Store) -> None:
    period = {"start": "2020-02-27 06:00:00", "end": "2020-02-28 00:00:00"}
    selected = anemoi.open_dataset(str(ours.path), select=["z_500", "2t"], **period)
    inside = np.array([1, 2, 3, 4])
    np.testing.assert_array_equal(selected.dates[: len(inside)], ours.dates[inside])
    ordered = anemoi.open_dataset(str(ours.path), reorder=["z_500", "2t", "tp", "msl"])
    np.testing.assert_array_equal(ordered[3][:, 0], ours.read(3, ["z_500", "2t", "tp", "msl"])[0])
    for k, t in enumerate(inside):
        rows = selected[k][:, 0]
        np.testing.assert_array_equal(rows, ours.read(t, list(selected.variables))[0])
    slower = anemoi.open_dataset(str(ours.path), frequency="12h")
    np.testing.assert_array_equal(slower.dates, ours.dates[::2])
    np.testing.assert_array_equal(slower[1][:, 0], ours.read(2)[0])


def test_it_sees_statistics_and_gaps(anemoi: Any, ours: Store) -> None:
    theirs = anemoi.open_dataset(str(ours.path))
    assert theirs.missing == {5, 6} == set(np.flatnonzero(ours.missing))
    with pytest.raises(Exception, match="2020-02-28T06:00:00 is missing"):
        theirs[5]
    for name, values in ours.statistics.items():
        np.testing.assert_array_equal(theirs.statistics[name], values)
    for name, values in (ours.tendencies or {}).items():
        np.testing.assert_array_equal(theirs.statistics_tendencies()[name], values)
    daily = theirs.statistics_tendencies("24h")["stdev"]
    np.testing.assert_array_equal(daily, ours.tendency_stdev(np.timedelta64(1, "D")))


def test_it_understands_the_variables(anemoi: Any, ours: Store) -> None:
    from anemoi.transform.variables import Variable

    described = anemoi.open_dataset(str(ours.path)).variables_metadata
    seen = {name: Variable.from_dict(name, described[name]) for name in ours.variables}
    assert seen["z_500"].is_pressure_level and seen["z_500"].level == 500 and seen["msl"].is_surface_level
    assert seen["tp"].is_accumulation and seen["2t"].is_instantanous


def test_two_stores_join(anemoi: Any, ours: Store, tmp_path: Path) -> None:
    netcdf(tmp_path / "b.nc", dates=DATES, units={"sp": "Pa"})
    other = store(tmp_path, tmp_path / "b.nc")
    joined = anemoi.open_dataset(join=[str(ours.path), str(other.path)])
    assert list(joined.variables) == [*ours.variables, "sp"]
    np.testing.assert_array_equal(joined[8][4, 0], other.read(8)[0, 0])


def test_a_zarr_2_store_is_ingested(anemoi: Any, ours: Store, tmp_path: Path) -> None:
    """As anemoi-datasets writes it, through its own open_dataset."""
    theirs = export_anemoi(ours.path, tmp_path / "v2.zarr")
    dataset = {"dataset": str(theirs), "select": ["msl", "tp"], "frequency": "12h"}
    made = Store.open(ingest(config(tmp_path, {"kind": "anemoi", "dataset": dataset}))[0])
    assert (theirs / ".zgroup").is_file() and set(made.variables) == {"msl", "tp"}
    np.testing.assert_array_equal(made.dates, ours.dates[::2])
    np.testing.assert_array_equal(made.missing, ours.missing[::2])
    np.testing.assert_array_equal(made.read(slice(None)), ours.read(slice(None, None, 2), list(made.variables)))
    assert {name: made.units[name] for name in made.variables} == {"msl": "Pa", "tp": "m"}


def test_training_and_forecasts_on_a_store_of_anemoi(tmp_path: Path) -> None:
    """Zarr v2 with what every such store has: no tendencies, no grid's shape."""
    export_anemoi(tiny.make(tmp_path), tmp_path / "anemoi.zarr")
    group = zarr.open_group(tmp_path / "anemoi.zarr", mode="a")
    for name in [name for name in group.array_keys() if name.startswith("statistics_tendencies")]:
        del group[name]
    del group.attrs["field_shape"]
    raw = tiny.raw(tmp_path, stages=[{"updates": 2, "lr": 1e-3}])
    raw["store"] = {"path": str(tmp_path / "anemoi.zarr")}
    raw["forecast"] |= {"members": 2, "lead": "12h"}
    settings = configs.parse(raw)
    assert train(settings).is_dir()
    assert all(path.exists() for path in generate(settings))
    step = settings.data.step
    estimated = tendencies.stdev(Store.open(tmp_path / "anemoi.zarr"), step, settings.data.train)
    exact = Store.open(tmp_path / "truth.zarr").tendency_stdev(step)
    np.testing.assert_allclose(estimated, exact, rtol=0.1, atol=1e-9)
