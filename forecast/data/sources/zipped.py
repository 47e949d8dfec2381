"""ZIP archives as the CDS delivers them (named .nc or .zip): instantaneous and accumulated variables in a file each."""

from __future__ import annotations

import os
import shutil
import zipfile
import zlib
from pathlib import Path

from forecast.core.errors import ForecastError
from forecast.core.progress import console

_BLOCK = 16 << 20


def unpacked(file: Path, folder: str | None) -> list[Path]:
    """The NetCDF files of a ZIP archive; any other file is its own only member.

    They are written once into `folder`, or into a hidden folder beside the archive, and used again.

    Raises:
        ForecastError: a damaged archive, none of NetCDF in it, or a folder that cannot be written.
    """
    with file.open("rb") as handle:
        if handle.read(4) != b"PK\x03\x04":
            return [file]
    into = (Path(folder) if folder else file.parent) / f".{file.name}.unpacked"
    try:
        with zipfile.ZipFile(file) as archive:
            members = [m for m in archive.infolist() if Path(m.filename).suffix in (".nc", ".nc4", ".netcdf")]
            if not members:
                raise ForecastError(f"{file} is a ZIP archive without NetCDF files")
            return [_extract(archive, member, into, file) for member in members]
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise ForecastError(f"{file} is a damaged ZIP archive ({error})") from None
    except OSError as error:
        raise ForecastError(f"{file} cannot be unpacked into {into} ({error.strerror or error}): "
                            f"name another folder in source.unpack") from None  # fmt: skip


def _extract(archive: zipfile.ZipFile, member: zipfile.ZipInfo, into: Path, file: Path) -> Path:
    """One member, whole or not at all; it bears the archive's time of change."""
    out, changed = into / Path(member.filename).name, file.stat().st_mtime_ns
    if out.exists() and (out.stat().st_size, out.stat().st_mtime_ns) == (member.file_size, changed):
        return out
    into.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f"{out.name}.{os.getpid()}.partial")
    console.print(f"unpacking {member.filename} of {file} ({member.file_size / 1e6:,.1f} MB) into {into}")
    try:
        with archive.open(member) as source, partial.open("wb") as target:
            shutil.copyfileobj(source, target, _BLOCK)  # the CRC-32 is verified at the end
        os.utime(partial, ns=(changed, changed))
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return out
