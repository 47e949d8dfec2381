"""Thousands of damaged files: each is refused in a line or read within bounds; none crashes or hangs.

GRIB and NetCDF-3 carry no checksums. What is accepted differs from the sound file by no more than weather does from
point to point (`data/outliers.py`), and a list of checksums (source.checksums) refuses every one of them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import eccodes
import numpy as np
import pytest
import xarray as xr

from forecast.core.errors import ForecastError
from forecast.core.store import Store
from forecast.data import outliers, plausible
from forecast.data.ingest import ingest
from forecast.data.sources.catalogue import SAME_POINT
from tests.data.archives import DATES, config, netcdf, weather

EACH = 420
"""Inputs of each of the five kinds: 2,100 in all."""
TIMES = 8
ROOT = Path(__file__).parents[2]


def make(kind: str, path: Path) -> Path:
    """A sound file: two variables on a global grid, a few days long."""
    times = DATES[0] + np.arange(TIMES) * np.timedelta64(6, "h")
    latitudes, longitudes = np.linspace(87.5, -87.5, 36), np.arange(0.0, 360.0, 5.0)
    points = [axis.ravel() for axis in np.meshgrid(latitudes, longitudes, indexing="ij")]
    if kind.startswith("netcdf"):
        axes = {"time": times.astype("datetime64[ns]"), "latitude": latitudes, "longitude": longitudes}
        shape, dims, units = (TIMES, 36, 72), tuple(axes), {"units": "K"}
        fields = {name: np.stack([weather(*points, t, seed) for t in range(TIMES)]).reshape(shape).astype(np.float32)
                  for seed, name in enumerate(("t2m", "d2m"))}  # fmt: skip
        data = xr.Dataset({name: (dims, values, units) for name, values in fields.items()}, axes)
        if kind == "netcdf3":
            data.to_netcdf(path, format="NETCDF3_CLASSIC")
        else:
            data.to_netcdf(path, encoding=dict.fromkeys(fields, {"zlib": True, "fletcher32": True}))
        return path
    sample = {"grib1": "regular_ll_pl_grib1", "grib2": "regular_ll_pl_grib2", "reduced": "reduced_gg_pl_32_grib2"}[kind]
    grid = {"Ni": 72, "Nj": 36, "latitudeOfFirstGridPointInDegrees": 87.5, "latitudeOfLastGridPointInDegrees": -87.5,
            "longitudeOfFirstGridPointInDegrees": 0.0, "longitudeOfLastGridPointInDegrees": 355.0,
            "iDirectionIncrementInDegrees": 5.0, "jDirectionIncrementInDegrees": 5.0}  # fmt: skip
    coded = b""
    for (t, date), level in product(enumerate(times), (500, 850)):
        handle = eccodes.codes_grib_new_from_samples(sample)
        stamp = {"dataDate": int(str(date)[:10].replace("-", "")), "dataTime": 100 * int(str(date)[11:13])}
        for key, value in {**(grid if kind != "reduced" else {}), **stamp, "shortName": "t", "level": level,
                           "bitsPerValue": 16}.items():  # fmt: skip
            eccodes.codes_set(handle, key, value)
        if kind == "reduced":
            points = [eccodes.codes_get_double_array(handle, key) for key in ("latitudes", "longitudes")]
        eccodes.codes_set_values(handle, weather(*points, t, level))
        coded += eccodes.codes_get_message(handle)
        eccodes.codes_release(handle)
    path.write_bytes(coded)
    return path


def mutate(data: bytes, seed: int) -> bytes:
    """Cut short, with some bits flipped, or some bytes replaced; half of them where the headers lie."""
    rng = np.random.default_rng(seed)
    changed, way = bytearray(data), rng.integers(3)
    if way == 0:
        return bytes(changed[: rng.integers(len(changed))])
    reach = min(len(changed), 400) if rng.random() < 0.5 else len(changed)
    for _ in range(rng.integers(1, 6)):
        at = int(rng.integers(reach))
        changed[at] = changed[at] ^ (1 << int(rng.integers(8))) if way == 1 else int(rng.integers(256))
    return bytes(changed)


def attempt(file: Path, kind: str, root: Path, **source: Any) -> str:
    """Ingest one file; what came of it."""
    section = {"kind": "netcdf" if kind.startswith("netcdf") else "grib", "paths": [str(file)], "frequency": "6h",
               "retries": 0, **source}  # fmt: skip
    try:
        path = ingest(config(root, section, implausible="refuse", workers=1))[0]
    except ForecastError as error:
        assert "\n" not in str(error)
        assert not (root / "truth.zarr").exists()
        return "refused"
    store = Store.open(path)
    plausible.check(store.variables, store.dates, store.read(slice(None))[:, :, None])
    return "accepted"


def wrong(found: Store, sound: Store) -> float:
    """The largest error at dates that both hold, in what neighbours differ by, in a row or a column (rms)."""
    axes = [np.stack([store.latitudes, store.longitudes]) for store in (found, sound)]
    if found.variables != sound.variables or np.abs(axes[0] - axes[1]).max() > SAME_POINT:
        return np.inf
    dates = np.intersect1d(found.dates[~found.missing], sound.dates)
    a, b = (store.read(np.searchsorted(store.dates, dates)) for store in (found, sound))
    grid = b.reshape(*b.shape[:2], *(sound.grid.shape if len(sound.grid.shape) == 2 else (1, -1)))
    usual = np.maximum(*(np.sqrt(np.square(np.diff(grid, axis=axis)).sum(axis=(0, 2, 3)) / b[:, 0].size)
                         for axis in (2, 3)))  # fmt: skip
    return float((np.abs(a - b).max(axis=(0, 2)) / usual).max()) if dates.size else 0.0


def campaign(kind: str, folder: Path, count: int) -> dict[str, Any]:
    """Runs in a process of its own, which a crash would end."""
    file = make(kind, folder / f"sound-{kind}")
    sound = file.read_bytes()
    assert attempt(file, kind, folder / "sound") == "accepted"
    reference = Store.open(folder / "sound/truth.zarr")
    outcomes: dict[str, Any] = {"refused": 0, "accepted": 0, "other dates": 0, "worst": {}}
    for seed in range(count):
        file = folder / f"{kind}-{seed}"
        (folder / "now").write_text(str(seed))
        file.write_bytes(mutate(sound, seed))
        outcome = attempt(file, kind, folder / "run")
        outcomes[outcome] += 1
        if outcome == "accepted":
            store = Store.open(folder / "run/truth.zarr")
            outcomes["worst"][seed] = round(wrong(store, reference), 2)
            outcomes["other dates"] += not np.array_equal(store.dates[~store.missing], reference.dates)
        shutil.rmtree(folder / "run", ignore_errors=True)
        file.unlink()
    return outcomes


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["grib1", "grib2", "reduced", "netcdf3", "netcdf4"])
def test_damaged_files_never_crash_nor_pass_with_other_weather(kind: str, tmp_path: Path) -> None:
    code = f"from tests.data.test_fuzz import campaign; from pathlib import Path; import json; " \
           f"print(json.dumps(campaign({kind!r}, Path({str(tmp_path)!r}), {EACH})))"  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, f"input {(tmp_path / 'now').read_text()}: {done.returncode} {done.stderr[-2000:]}"
    outcomes = json.loads(done.stdout.splitlines()[-1])
    print(kind, outcomes)
    assert outcomes["refused"] + outcomes["accepted"] == EACH and outcomes["refused"] > EACH / 3
    assert max(outcomes["worst"].values(), default=0.0) <= 2 * outliers.ROUGH  # a few points at once


@pytest.mark.parametrize("kind", ["grib1", "netcdf3"])
def test_checksums_refuse_every_damage(kind: str, tmp_path: Path) -> None:
    file = make(kind, tmp_path / "a")
    sound = file.read_bytes()
    sums = tmp_path / "SHA256SUMS"
    sums.write_text(f"{hashlib.sha256(sound).hexdigest()}  a\n")
    assert attempt(file, kind, tmp_path / "run", checksums=str(sums)) == "accepted"
    for seed in range(40):
        file.write_bytes(mutate(sound, seed))
        if file.read_bytes() != sound:
            assert attempt(file, kind, tmp_path / str(seed), checksums=str(sums)) == "refused"


def test_the_next_run_works(tmp_path: Path) -> None:
    """What was finished before the bad file is kept, and nothing has to be cleaned up."""
    for k in range(2):
        netcdf(tmp_path / f"{k}.nc", dates=DATES[5 * k : 5 * k + 5], units={"t2m": "K"})
    good = (tmp_path / "1.nc").read_bytes()
    source = {"kind": "netcdf", "paths": [str(tmp_path / "*.nc")]}
    bad = xr.load_dataset(tmp_path / "1.nc")
    bad["t2m"] = bad["t2m"] - 273.15  # degrees Celsius that say they are Kelvin
    bad.to_netcdf(tmp_path / "1.nc")
    with pytest.raises(ForecastError, match="2t at 2020-02-28T06: values .* plausible are 165 to 345 K: wrong units"):
        ingest(config(tmp_path / "run", source, implausible="refuse", dates_per_shard=5))
    assert len(list((tmp_path / "run/truth.zarr.partial/slabs").glob("*.npz"))) == 1
    (tmp_path / "1.nc").write_bytes(good)
    ingest(config(tmp_path / "run", source, implausible="refuse", dates_per_shard=5))


@pytest.mark.parametrize(("axis", "order"), [("latitude", [0, 2, 1]), ("longitude", [0, 2, 1, 3])])
def test_shuffled_axes_are_refused(axis: str, order: list[int], tmp_path: Path) -> None:
    netcdf(tmp_path / "a.nc").isel({axis: order}).to_netcdf(tmp_path / "b.nc")
    with pytest.raises(ForecastError, match=f"the {axis}s neither rise nor fall"):
        ingest(config(tmp_path / "run", {"kind": "netcdf", "paths": [str(tmp_path / "b.nc")]}))
