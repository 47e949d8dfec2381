"""How fast `forecast ingest` writes, with one worker and with several, and how much memory each takes.

    python scripts/bench_ingest.py [--quick] [--on threads processes] [--workers 1 2]

An archive of GRIB 2 (16 bits) and one of NetCDF-4 (float32, deflated), 24 variables on 1 degree, made here and read
from the page cache, becomes a store with statistics: on threads and on the processes of a local cluster. Each run is a
process of its own, kinds take turns. MB are those of float32 states before compression; the seconds are those of
`ingest`, CPU seconds those of all processes from their start; memory is what the process on threads held above what it
held before, by thread, in slabs.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import eccodes
import numpy as np
import xarray as xr

from forecast.data.plan import WORK

SHORT, LEVELS, SLAB = ("z", "t", "u", "v", "q", "w"), (1000, 850, 500, 250), 8
OFFSET = {"z": 5e4, "t": 250.0, "u": 5.0, "v": 0.0, "q": 5e-3, "w": 0.0}
SCALE = {"z": 1e3, "t": 10.0, "u": 10.0, "v": 10.0, "q": 1e-3, "w": 0.2}
LATITUDES, LONGITUDES = np.linspace(90, -90, 181), np.arange(360.0)
STATE = len(SHORT) * len(LEVELS) * LATITUDES.size * LONGITUDES.size * 4
RUN = """
import json, sys, threading, time
import psutil
from forecast.core import config as configs
from forecast.data.ingest import ingest
if __name__ == "__main__":
    config, me, most = configs.parse(json.loads(sys.argv[1])), psutil.Process(), [0]
    ingest(config, dry=True)
    before, began = me.memory_info().rss, time.perf_counter()
    def watch():
        while True:
            most[0] = max(most[0], me.memory_info().rss)
            time.sleep(0.005)
    threading.Thread(target=watch, daemon=True).start()
    ingest(config)
    print(json.dumps([time.perf_counter() - began, most[0] - before]))
"""


def fields(dates: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Dates, and (T, level, latitude, longitude) float32 of each short name."""
    rng = np.random.default_rng(0)
    smooth = np.cumsum(rng.standard_normal((len(LEVELS), LATITUDES.size, LONGITUDES.size)), axis=2) / 10
    noise = 0.1 * rng.standard_normal((dates, len(LEVELS), LATITUDES.size, LONGITUDES.size))
    axis = np.datetime64("2001-01-01", "s") + np.arange(dates) * np.timedelta64(6, "h")
    return axis, {s: (OFFSET[s] + SCALE[s] * (smooth + noise).clip(-4, 4)).astype(np.float32) for s in SHORT}


def make(folder: Path, dates: int) -> dict[str, Path]:
    """The two archives."""
    axis, values = fields(dates)
    units = {"z": "m2 s-2", "t": "K", "u": "m s-1", "v": "m s-1", "q": "kg kg-1", "w": "Pa s-1"}
    coordinates = {"time": axis.astype("datetime64[ns]"), "level": list(LEVELS), "latitude": LATITUDES,
                   "longitude": LONGITUDES}  # fmt: skip
    data = xr.Dataset({s: (tuple(coordinates), values[s], {"units": units[s]}) for s in SHORT}, coordinates)
    data.to_netcdf(folder / "a.nc", encoding={s: {"zlib": True, "complevel": 1, "chunksizes": (1, 1, 181, 360)}
                                              for s in SHORT})  # fmt: skip
    grid = {"Ni": 360, "Nj": 181, "latitudeOfFirstGridPointInDegrees": 90, "latitudeOfLastGridPointInDegrees": -90,
            "longitudeOfFirstGridPointInDegrees": 0, "longitudeOfLastGridPointInDegrees": 359,
            "iDirectionIncrementInDegrees": 1, "jDirectionIncrementInDegrees": 1, "bitsPerValue": 16}  # fmt: skip
    with (folder / "a.grib").open("wb") as file:
        for t, date in enumerate(axis):
            stamp = {"dataDate": int(str(date)[:10].replace("-", "")), "dataTime": 100 * int(str(date)[11:13])}
            for short in SHORT:
                for k, level in enumerate(LEVELS):
                    handle = eccodes.codes_grib_new_from_samples("regular_ll_pl_grib2")
                    for key, value in {**grid, **stamp, "shortName": short, "level": level}.items():
                        eccodes.codes_set(handle, key, value)
                    eccodes.codes_set_values(handle, values[short][t, k].ravel().astype(np.float64))
                    eccodes.codes_write(handle, file)
                    eccodes.codes_release(handle)
    return {"grib": folder / "a.grib", "netcdf": folder / "a.nc"}


def config(root: Path, kind: str, file: Path, scheduler: str, workers: int) -> dict[str, Any]:
    """A run that ingests a file."""
    period = ["2001-01-01", "2099-01-01"]
    return {
        "name": "bench", "root": str(root), "source": {"kind": kind, "paths": [str(file)]},
        "store": {"scheduler": scheduler, "workers": workers, "dates_per_shard": SLAB, "implausible": "accept"},
        "data": {"train": period, "validation": period, "prognostic": ["z_500"]},
        "training": {"stages": [{"updates": 1, "lr": 1e-3}]}, "forecast": {"starts": {"at": ["2001-01-01"]}},
    }  # fmt: skip


def measure(root: Path, kind: str, file: Path, scheduler: str, workers: int) -> tuple[float, float, float]:
    """Seconds of a run, CPU seconds with its start, and what a thread of it held, in slabs (0 on processes)."""
    settings, cpu = json.dumps(config(root, kind, file, scheduler, workers)), _children()
    done = subprocess.run([sys.executable, "-c", RUN, settings], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    if done.returncode:
        raise SystemExit(f"ingest failed on {kind}, {workers} {scheduler}")
    seconds, held = json.loads(done.stdout.splitlines()[-1])
    return seconds, _children() - cpu, held / workers / (SLAB * STATE) if scheduler == "threads" else 0.0


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def headers(file: Path) -> float:
    """CPU microseconds for each GRIB header."""
    from forecast.data.decoders import grib

    best, count = np.inf, 1
    for _ in range(3):
        began = time.process_time()
        count = len(grib.headers(file, {}))
        best = min(best, time.process_time() - began)
    return best / count * 1e6


def main() -> None:
    """Print the table and the targets."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="32 dates and one round (2 minutes)")
    parser.add_argument("--on", nargs="*", default=["threads", "processes"])
    parser.add_argument("--workers", nargs="*", type=int, default=[1, 2])
    chosen = parser.parse_args()
    dates, rounds = (32, 1) if chosen.quick else (96, 2)
    with tempfile.TemporaryDirectory() as scratch:
        files = make(Path(scratch), dates)
        print(f"{dates} states of {STATE / 1e6:.1f} MB, slabs of {SLAB * STATE / 1e6:.0f} MB; "
              f"GRIB headers: {headers(files['grib']):.0f} CPU microseconds each", flush=True)  # fmt: skip
        runs = [(kind, scheduler, n) for kind in files for scheduler in chosen.on for n in chosen.workers]
        found: dict[tuple[str, str, int], list[tuple[float, ...]]] = {run: [] for run in runs}
        for k in range(rounds):
            for kind, scheduler, n in runs:
                root = Path(scratch) / f"{kind}{scheduler}{n}{k}"
                found[kind, scheduler, n].append(measure(root, kind, files[kind], scheduler, n))
        report(found, dates * STATE / 1e6)


def report(found: dict[tuple[str, str, int], list[tuple[float, ...]]], size: float) -> None:
    """Print what was measured; exit 1 where a target is missed."""
    print(f"{'archive':<9}{'on':<11}{'workers':>8}{'MB/s':>7}{'MB/CPU s':>10}{'slabs':>7}")
    most = 0.0
    for (kind, scheduler, n), rounds in found.items():
        seconds, cpu, _ = (min(values) for values in zip(*rounds, strict=True))
        slabs = max(held for _, _, held in rounds)
        most = max(most, slabs)
        held = f"{slabs:.1f}" if slabs else "-"
        print(f"{kind:<9}{scheduler:<11}{n:>8}{size / seconds:>7.0f}{size / cpu:>10.0f}{held:>7}")
    print(f"target memory of a worker in slabs: reached {most:.1f}, asked at most {WORK} (what --dry-run says)")
    sys.exit(most > WORK)


if __name__ == "__main__":
    main()
