"""GRIB messages: headers by which a field is found, and its values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import eccodes
import numpy as np
from eccodes import CodesInternalError

from forecast.core import variables
from forecast.core.errors import ForecastError
from forecast.data.decoders.damage import MOST_POINTS, decoding
from forecast.data.decoders.grib_outline import outline

# Not eccodes' default of 9999, which is a likely geopotential
_MISSING = float(np.finfo(np.float32).max)
_PRESSURE = {"isobaricInhPa": 1.0, "isobaricInPa": 0.01}
_SINGLE = {
    "surface", "meanSea", "heightAboveGround", "heightAboveGroundLayer", "entireAtmosphere", "nominalTop",
    "depthBelowLand", "depthBelowLandLayer", "lowCloudLayer", "mediumCloudLayer", "highCloudLayer", "cloudBase",
    "boundaryLayerCloudLayer", "atmosphere", "atmML",
}  # fmt: skip


@dataclass(frozen=True)
class Header:
    """What is read of a message before its values."""

    where: str
    offset: int
    name: str | None
    label: str
    date: int
    member: int
    grid: str
    units: str
    period: int


class Message:
    """A GRIB message at a place in a file: `with Message(...) as m`."""

    def __init__(self, handle: BinaryIO, path: Path, offset: int) -> None:
        self._handle, self._path, self._offset = handle, path, offset

    def __enter__(self) -> Message:
        self._handle.seek(self._offset)
        try:
            self._id = eccodes.codes_grib_new_from_file(self._handle)
        except CodesInternalError as error:
            where = f"{self._path}: message at byte {self._offset}"
            raise ForecastError(f"{where} is corrupt or cut short ({error})") from None
        if self._id is None:
            raise ForecastError(f"{self._path} has changed while it was read: no message at byte {self._offset}")
        return self

    def __exit__(self, *_: object) -> None:
        eccodes.codes_release(self._id)

    def get(self, key: str, default: Any = None) -> Any:
        """A key of the header, or `default` where the message has none."""
        try:
            return eccodes.codes_get(self._id, key)
        except CodesInternalError:
            return default

    def get_array(self, key: str) -> np.ndarray:
        """An array of doubles."""
        points = self.get("numberOfPoints") or 0
        if points > MOST_POINTS:
            raise ForecastError(f"{self._path}: message at byte {self._offset}: a field of {points:,} points")
        try:
            return np.asarray(eccodes.codes_get_double_array(self._id, key))
        except CodesInternalError as error:
            where = f"message at byte {self._offset}"
            raise ForecastError(f"{self._path}: {where}: no {key} can be decoded ({error})") from None

    def values(self) -> np.ndarray:
        """(G,) float64 in the order of the file, NaN where the bitmap says missing."""
        eccodes.codes_set(self._id, "missingValue", _MISSING)
        values = self.get_array("values")
        if self.get("bitmapPresent"):
            values[values == _MISSING] = np.nan
        return values

    def shape(self, size: int) -> tuple[int, ...]:
        """(rows, columns) of regular grids, (G,) of all others."""
        rows, columns = self.get("Nj"), self.get("Ni")
        regular = str(self.get("gridType")) in ("regular_ll", "regular_gg") and not self.get("jPointsAreConsecutive")
        return (int(rows), int(columns)) if regular and rows * columns == size else (size,)


def headers(path: Path, rename: dict[str, str]) -> list[Header]:
    """The headers of all messages of a file.

    Raises:
        ForecastError: no GRIB; a message that is corrupt, cut short, spectral, or of an unknown parameter.
    """
    found: list[Header] = []
    known: dict[bytes, Header] = {}
    offset, end = 0, path.stat().st_size
    with path.open("rb") as handle:
        if b"GRIB" not in handle.read(1 << 16):
            raise ForecastError(f"{path} is no GRIB file")
        while (offset := _next(handle, offset, path)) < end:
            where, short = f"{path} (message {len(found) + 1})", outline(handle, offset, end)
            like = known.get(short.rest) if short else None
            if short and like:
                length = short.length
                header = replace(like, where=where, offset=offset, date=short.reference + like.date)
            else:
                with decoding(where), Message(handle, path, offset) as message:
                    header, length = _header(message, where, offset, rename), int(message.get("totalLength"))
            if short and not like and short.length == length:
                known[short.rest] = replace(header, date=header.date - short.reference)
            found.append(header)
            offset += length
    return found


def points(path: Path, offset: int) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    """Latitudes and longitudes (G,) in degrees of a message, and the shape of its field."""
    with decoding(f"{path} at byte {offset}"), path.open("rb") as handle, Message(handle, path, offset) as message:
        latitudes = message.get_array("latitudes")
        return latitudes, message.get_array("longitudes") % 360.0, message.shape(latitudes.size)


def field(path: Path, offset: int, factor: float, constant: float) -> tuple[str, np.ndarray]:
    """The grid's name and the values (G,) float32 of a message, times `factor` plus `constant`."""
    with decoding(f"{path} at byte {offset}"), path.open("rb") as handle, Message(handle, path, offset) as message:
        values, grid = message.values(), str(message.get("md5GridSection"))
        if (factor, constant) != (1.0, 0.0):
            values = values * factor + constant
        return grid, values.astype(np.float32)


def _next(handle: BinaryIO, offset: int, path: Path) -> int:
    """Where the next message begins at or behind `offset`; the end of the file if there is none.

    Raises:
        ForecastError: a message ends in what is skipped, so its beginning is lost.
    """
    handle.seek(offset)
    while block := handle.read(1 << 16):
        at = block.find(b"GRIB")
        if b"7777" in block[: at if at >= 0 else None]:
            raise ForecastError(f"{path}: a message behind byte {offset} is damaged, its beginning is lost")
        if at >= 0:
            return offset + at
        if len(block) < 4:
            return offset + len(block)
        offset += len(block) - 3
        handle.seek(offset)
    return offset


def _header(message: Message, where: str, offset: int, rename: dict[str, str]) -> Header:
    if message.get("gridType") == "sh":
        raise ForecastError(
            f"{where} holds spherical harmonics, which have no grid points: transform them to a grid first "
            f"(e.g. with MIR, or `cdo sp2gpl`)"
        )
    short = str(message.get("shortName"))
    if short == "unknown" and short not in rename:
        raise ForecastError(f"{where} holds parameter {message.get('paramId')}, which eccodes does not know")
    kind, level = str(message.get("typeOfLevel")), message.get("level")
    step = str(message.get("stepRange", ""))
    day, clock = f"{int(message.get('validityDate')):08d}", f"{int(message.get('validityTime')):04d}"
    date = np.datetime64(f"{day[:4]}-{day[4:6]}-{day[6:]}T{clock[:2]}:{clock[2:]}", "s")
    return Header(
        where=where,
        offset=offset,
        name=_name(short, kind, level, rename),
        label=f"{short} at {kind} {level}",
        date=int(date.astype(np.int64)),
        member=int(message.get("number", 0) or 0),
        grid=str(message.get("md5GridSection")),
        units=str(message.get("units")),
        period=_period(step, str(message.get("stepType", "instant"))),
    )


def _name(short: str, kind: str, level: Any, rename: dict[str, str]) -> str | None:
    """The name in the store, or None for a level that a store cannot hold."""
    known = variables.recognise(rename.get(short, short))
    short = known[0].short if known and known[1] is None else rename.get(short, short)
    if kind in _PRESSURE:
        hectopascal = float(level) * _PRESSURE[kind]
        return variables.join(short, int(hectopascal)) if hectopascal == int(hectopascal) else None
    on_levels = bool(known and known[0].levels)
    if on_levels:
        return "z" if short == "z" and kind == "surface" else None
    return short if kind in _SINGLE else None


def _period(step_range: str, step_type: str) -> int:
    """Hours that a field sums over or takes the maximum of; 0 where it is of an instant or does not say."""
    first, _, last = step_range.partition("-")
    if step_type == "instant" or not (first.isdigit() and last.isdigit()):
        return 0
    return int(last) - int(first)
