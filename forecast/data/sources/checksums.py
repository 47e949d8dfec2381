"""Files against the checksums that came with them (`sha256sum * > SHA256SUMS`): GRIB and NetCDF-3 carry none."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from forecast.core.errors import ForecastError
from forecast.core.progress import bar


def verify(files: Sequence[Path], listed: Path) -> None:
    """Compare every file with its line in `listed`.

    Raises:
        ForecastError: no such list, a file that it lacks, or one whose bytes are others.
    """
    try:
        lines = listed.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ForecastError(f"{listed}: no list of checksums ({error})") from None
    sums = {Path(name.lstrip(" *")).name: sum_ for sum_, _, name in (line.partition(" ") for line in lines if line)}
    for file in files:
        if file.name not in sums:
            raise ForecastError(f"{listed} has no line for {file.name}")
    with bar("Verifying checksums", len(files)) as progress, ThreadPoolExecutor() as pool:
        for file, found in zip(files, pool.map(_sum, files), strict=True):
            if found != sums[file.name].lower():
                raise ForecastError(f"{file} is not the file that {listed} describes: its SHA-256 is {found[:16]}...")
            progress.advance()


def _sum(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
