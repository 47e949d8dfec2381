"""Disks that are full and files that may not be touched, as the system has them: one line, and the next run works."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.data import archives

ROOT = Path(__file__).parents[2]
INGEST = """
import os, sys
from pathlib import Path
from forecast.core.errors import ForecastError
from forecast.data.ingest import ingest
from tests.data.archives import config
from tests.data.test_writer import digest
folder = Path(sys.argv[1])
source = {"kind": "netcdf", "paths": [str(folder / "a.nc")], "retries": 0}
def attempt(out):
    try:
        ingest(config(folder / out, source, dates_per_shard=2))
        print("done")
    except ForecastError as error:
        print(str(error).replace(chr(10), "|"))
"""
PERMISSIONS = """
attempt("locked")
os.chmod(folder / "a.nc", 0)
attempt("run")
os.chmod(folder / "a.nc", 0o400)
attempt("run")
"""
FULL = """
attempt("small")
print(len(list((folder / "small/truth.zarr.partial/slabs").glob("*.npz"))))
os.system(f"mount -o remount,size=64m {folder / 'small'}")
attempt("small")
attempt("whole")
print(digest(folder / "small/truth.zarr") == digest(folder / "whole/truth.zarr"))
"""


def run(code: str, folder: Path, *before: str) -> list[str]:
    """What a process of its own prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(folder), "NUMBA_CACHE_DIR": str(folder / "numba")}
    command = [*before, sys.executable, "-c", INGEST + code, str(folder)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    if before and done.returncode and "python" not in done.stderr:
        pytest.skip(f"{before[0]} is not allowed here: {done.stderr.splitlines()[-1:]}")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a file to ingest."""
    archives.netcdf(tmp_path / "a.nc", units={"t2m": "K"})
    return tmp_path


@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="root may do anything")
def test_what_may_not_be_read_or_written(folder: Path) -> None:
    (folder / "locked").mkdir()
    (folder / "locked").chmod(0o555)
    ordinary = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search") if os.geteuid() == 0 else ()
    written, read, after = run(PERMISSIONS, folder, *ordinary)
    assert written.startswith("cannot write ") and "Permission denied; mend that and run again" in written
    assert read == f"cannot read {folder / 'a.nc'}: Permission denied"
    assert after == "done" and (folder / "run/truth.zarr").is_dir()


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="only root may mount a small disk")
def test_a_disk_that_is_full(folder: Path) -> None:
    (folder / "small").mkdir()
    archives.netcdf(folder / "a.nc", dates=archives.DATES[0] + np.arange(100) * np.timedelta64(6, "h"))
    mount = f'mount -t tmpfs -o size=256k tmpfs {folder / "small"} && exec "$@"'
    full, kept, again, whole, same = run(FULL, folder, "unshare", "-m", "sh", "-c", mount, "sh")
    assert full.startswith("cannot write ") and "No space left on device; mend that and run again" in full
    assert int(kept) > 0 and (again, whole, same) == ("done", "done", "True")
