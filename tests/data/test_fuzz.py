"""Thousands of damaged files: each is refused in a line or read within bounds; none crashes or hangs.

GRIB and NetCDF-3 carry no checksums, so a flipped bit of a value cannot be seen in the file alone: what is accepted
must be plausible, and a list of checksums (source.checksums) refuses every one of them.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import eccodes
import numpy as np
import pytest
import xarray as xr

from forecast.core.errors import ForecastError
from forecast.data import plausible
from forecast.data.ingest import ingest
from tests.data.archives import DATES, LATITUDES, LONGITUDES, config, field, message, netcdf

EACH = 420
"""Inputs of each of the five kinds: 2,100 in all."""
ROOT = Path(__file__).parents[2]


def make(kind: str, path: Path) -> Path:
    """A sound file of some dates and variables."""
    if kind.startswith("netcdf"):
        values = np.stack([field(k, offset=280.0) for k in range(4)])
        axes = {"time": DATES[:4].astype("datetime64[ns]"), "latitude": LATITUDES, "longitude": LONGITUDES}
        data = xr.Dataset({"t2m": (tuple(axes), values, {"units": "K"})}, axes)
        if kind == "netcdf3":
            data.to_netcdf(path, format="NETCDF3_CLASSIC")
        else:
            data.to_netcdf(path, encoding={"t2m": {"zlib": True, "fletcher32": True}})
        return path
    sample = {"grib1": "regular_ll_pl_grib1", "grib2": "regular_ll_pl_grib2", "reduced": "reduced_gg_pl_32_grib2"}[kind]
    coded = b""
    for k, date in enumerate(DATES[:3]):
        if kind != "reduced":
            coded += message(field(k, offset=280.0), date, sample=sample, shortName="t", level=850)
            continue
        handle = eccodes.codes_grib_new_from_samples(sample)
        size = eccodes.codes_get_size(handle, "values")
        for key, value in {"shortName": "t", "level": 850, "dataDate": int(str(date)[:10].replace("-", "")),
                           "dataTime": 600 * k, "bitsPerValue": 12}.items():  # fmt: skip
            eccodes.codes_set(handle, key, value)
        eccodes.codes_set_values(handle, 280.0 + np.random.default_rng(k).standard_normal(size))
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
    from forecast.core.store import Store

    store = Store.open(path)
    states = store.read(slice(None))
    plausible.check(store.variables, store.dates, states[:, :, None])
    return "accepted"


def campaign(kind: str, folder: Path, count: int) -> dict[str, int]:
    """Runs in a process of its own, which a crash would end."""
    import shutil

    sound = make(kind, folder / f"sound-{kind}").read_bytes()
    outcomes = {"refused": 0, "accepted": 0}
    for seed in range(count):
        file = folder / f"{kind}-{seed}"
        (folder / "now").write_text(str(seed))
        file.write_bytes(mutate(sound, seed))
        outcomes[attempt(file, kind, folder / "run")] += 1
        shutil.rmtree(folder / "run", ignore_errors=True)
        file.unlink()
    return outcomes


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["grib1", "grib2", "reduced", "netcdf3", "netcdf4"])
def test_damaged_files_never_crash(kind: str, tmp_path: Path) -> None:
    code = f"from tests.data.test_fuzz import campaign; from pathlib import Path; import json; " \
           f"print(json.dumps(campaign({kind!r}, Path({str(tmp_path)!r}), {EACH})))"  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, f"input {(tmp_path / 'now').read_text()}: {done.returncode} {done.stderr[-2000:]}"
    outcomes = json.loads(done.stdout.splitlines()[-1])
    assert outcomes["refused"] + outcomes["accepted"] == EACH and outcomes["refused"] > EACH / 3


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
