"""`forecast run`, from a config and from a checkpoint, and the job array that shares it."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from forecast.core import config as configs
from forecast.core.errors import ForecastError
from forecast.core.forecasts import Forecasts
from forecast.core.store import Store
from forecast.inference.starts import parse_starts
from forecast.training.resume import plain
from pipelines import outputs
from pipelines.generate import generate
from pipelines.run import run
from pipelines.scoring import Scoring
from tests import tiny
from tests.inference import learnt
from tests.inference.fakes import fingerprint

ROOT = Path(__file__).parents[2]
STARTS, DAY = "2001-02-01T00..2001-02-03T00/24h", np.timedelta64(24, "h")


def forecast_section(**change) -> dict:
    starts = {"first": "2001-02-01", "last": "2001-02-03"}
    return {"starts": starts, "members": 3, "lead": "1d", "member_batch": 2, **change}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run folder with stores and a checkpoint, as training would leave it."""
    root = tmp_path_factory.mktemp("run")
    tiny.stores(root)
    config = configs.parse(tiny.raw(root) | {"forecast": forecast_section()})
    best = learnt.checkpoint(root / "training/best", config, Store.open(root / "truth.zarr"))
    (best / "training.json").write_text(json.dumps({"config": plain(config)}))
    return root


def config(root: Path, **change) -> configs.Config:
    return configs.parse(tiny.raw(root) | {"forecast": forecast_section(**change)})


def test_config_and_checkpoint_make_the_same_forecasts(trained, tmp_path) -> None:
    (made,) = generate(config(trained))
    assert made == trained / "forecast.zarr"
    (out,) = run(trained / "training/best", parse_starts([STARTS]), 3, DAY, tmp_path / "f.zarr")
    assert fingerprint(out) == fingerprint(made)
    assert Forecasts.open(out).finished.all()
    assert Forecasts.open(out).settings["perturbation"] == "none"


def test_sums_say_over_how_long(trained, tmp_path) -> None:
    """tp stays the sum over the store's 6 hours, whatever the forecaster's step."""
    store = xr.open_zarr(run(trained / "training/best", parse_starts([STARTS]), 1, DAY, tmp_path / "sums.zarr")[0])
    assert store["tp"].attrs["accumulation_period"] == "6h"
    assert "accumulation_period" not in store["z_500"].attrs


def test_parts_share_a_config(trained) -> None:
    """Whoever finds nobody else at work does all; who comes later finds nothing to do."""
    for i in (1, 0):
        (made,) = generate(config(trained, out="parts.zarr"), (i, 2))
        assert Forecasts.open(made).finished.all()
    assert (made / "finished-0-of-2.jsonl").stat().st_size == 0


def test_outputs_are_written_once_the_store_is_finished(trained, tmp_path) -> None:
    files = {"a.grib2": {"variables": ["z_500"]}, "b.nc": {"products": ["mean", "tp>0.001"], "leads": ["1d"]}}
    asked = config(trained, out=str(tmp_path / "parts.zarr"), outputs=files)
    assert [path.name for path in generate(asked)] == ["parts.zarr", "a.grib2", "b.nc"]
    with xr.open_dataset(tmp_path / "b.nc") as made, xr.open_zarr(tmp_path / "parts.zarr") as store:
        mean = store["tp"].isel(lead_time=-1).mean("number", dtype="f8")
        np.testing.assert_allclose(made["tp_mean"].isel(lead_time=0), mean, rtol=1e-6)
    with pytest.raises(ForecastError, match="forecast.outputs are made of the fields, which --no-store drops"):
        generate(asked, scoring=Scoring(trained / "truth.zarr", store=False))
    (tmp_path / "a.grib2").unlink()
    for ledger in (tmp_path / "parts.zarr").glob("finished-*"):
        ledger.write_text("".join(ledger.read_text().splitlines(keepends=True)[1:]))
    assert outputs.write_all(asked, tmp_path / "parts.zarr") == [] and not (tmp_path / "a.grib2").exists()


def test_a_checkpoint_writes_outputs_too_and_refuses_early_what_the_store_will_not_hold(trained, tmp_path) -> None:
    arguments = (trained / "training/best", parse_starts(["2001-02-01"]), 2, DAY, tmp_path / "f.zarr")
    asked = "forecast.outputs={mean.nc: {products: [mean], leads: [%s]}}"
    with pytest.raises(ForecastError, match="no lead 5d: the store holds"):
        run(*arguments, changes=(asked % "5d",))
    assert not (tmp_path / "f.zarr").exists()
    assert [path.name for path in run(*arguments, changes=(asked % "1d",))] == ["f.zarr", "mean.nc"]
    with xr.open_dataset(tmp_path / "mean.nc") as made:
        assert made.sizes["lead_time"] == 1 and "z_mean" in made


def test_forecasts_start_from_the_analysis_store_that_is_given(trained, tmp_path) -> None:
    arguments = (trained / "training/best", parse_starts(["2001-02-01"]), 1, DAY)
    for name in ("analysis", "truth"):
        store = Store.open(trained / f"{name}.zarr")
        (out,) = run(*arguments, tmp_path / f"{name}-forecast.zarr", trained / f"{name}.zarr")
        made = Forecasts.open(out)
        expected = store.read(store.index(made.starts[0]), ["z_500"])[0]
        assert np.array_equal(made.read("z_500", 0, 0), expected)


@pytest.mark.parametrize("kind", ["gaussian", "correlated", "bred", "lagged"])
def test_members_start_from_perturbed_analyses(trained, tmp_path, kind) -> None:
    """Pairs about the analysis; the control is the analysis; the store says which kind it was."""
    about = f"forecast.perturbation={{kind: {kind}, control: true, cycles: 3, lags: 2, length: 2000}}"
    (out,) = run(trained / "training/best", parse_starts(["2001-02-02"]), 3, DAY, tmp_path / "f.zarr", changes=(about,))
    made, analysis = Forecasts.open(out), Store.open(trained / "analysis.zarr")
    assert made.settings["perturbation"]["kind"] == kind and made.settings["perturbation"]["control"] is True
    for name in ("z_500", "t_850"):
        expected = analysis.read(analysis.index(made.starts[0]), [name])[0, 0].astype(float)
        control, plus, minus = made.read(name, 0, 0).astype(float)
        assert np.array_equal(control, expected) and np.abs((plus + minus) / 2 - expected).max() < 1e-2
        size = np.abs(plus - minus).mean() / 2
        assert 0.2 < size / {"z_500": 100, "t_850": 0.3}[name] < 2.5, "some analysis errors, which are 100 and 0.3"
    assert np.array_equal(made.read("tp", 0, 0)[0], made.read("tp", 0, 0)[1])


def test_too_short_archives_are_told_before_anything_is_computed(trained, tmp_path) -> None:
    """Breeding over 8 cycles of 6 hours would begin two days earlier, in the year before."""
    about = ("forecast.perturbation={kind: bred, cycles: 8}",)
    with pytest.raises(ForecastError, match=r"2001-01-02T00 \(2000-12-31T18 is outside 2001-01-01T00"):
        run(trained / "training/best", parse_starts(["2001-01-02"]), 3, DAY, tmp_path / "f.zarr", changes=about)
    with pytest.raises(ForecastError, match="analysis.zarr holds single analyses, no ensemble: give forecast.pert"):
        about = ("forecast.perturbation=ensemble",)
        run(trained / "training/best", parse_starts(["2001-02-02"]), 3, DAY, tmp_path / "f.zarr", changes=about)
    assert not (tmp_path / "f.zarr").exists()


def test_settings_change_what_training_recorded(trained, tmp_path) -> None:
    arguments = (trained / "training/best", parse_starts([STARTS]), 3, DAY, tmp_path / "f.zarr")
    (made,) = run(*arguments, changes=("seed=7", "forecast.member_batch=1"))
    assert Forecasts.open(made).settings["seed"] == 7 and Forecasts.open(made).member_batch == 1
    with pytest.raises(ForecastError, match="member_bach.*did you mean `member_batch`"):
        run(*arguments, changes=("forecast.member_bach=1",))


def test_what_is_no_checkpoint_of_a_run_is_refused(trained, tmp_path) -> None:
    with pytest.raises(ForecastError, match="no checkpoint of a training run: give one that training wrote"):
        run(trained / "training", parse_starts([STARTS]), 3, DAY, tmp_path / "f.zarr")


@pytest.mark.parametrize("change", [{"perturbation": "analysis-error"}, {"physics": {"perfect": "p.zarr"}}])
def test_planet_physics_is_refused_for_other_sources(trained, change) -> None:
    raw = tiny.raw(trained) | {"forecast": forecast_section(**change), "source": {"kind": "grib", "paths": ["x.grib"]}}
    with pytest.raises(ForecastError, match="needs the sample planet, but source.kind is grib"):
        generate(configs.parse(raw))


def test_job_array_gives_each_task_its_part(tmp_path) -> None:
    program = tmp_path / ".venv/bin/forecast"
    program.parent.mkdir(parents=True)
    program.write_text('#!/usr/bin/env bash\nfor word in "$@"; do echo "$word"; done\n')
    program.chmod(0o755)
    script = ["bash", str(ROOT / "scripts/generate_slurm.sh"), "--out", "a store"]
    task = {"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_MIN": "3"}
    done = subprocess.run(
        script, env=os.environ | task | {"SLURM_ARRAY_TASK_COUNT": "4"}, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["run", "--out", "a store", "--part", "2/4"]
    alone = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert alone.stdout.splitlines()[-1] == "0/1"
