"""How the chunks of a Zarr array lie in its files, as far as we read them ourselves; see `core/chunks.py`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numcodecs import Zstd, blosc

from forecast.core.errors import ForecastError

ABSENT = (1 << 64) - 1
_ENTRY, _CHECKSUM = 16, 4
_CODECS = ("blosc", "zstd", "crc32c")
_zstd = Zstd()


@dataclass(frozen=True)
class ChunkFormat:
    """Chunks of one date and member, in files of one chunk each, or in shards of several.

    Attributes:
        folder: of the array.
        rows, columns: variables and points of a chunk.
        per_file: chunks of a file along (time, variable, ensemble, values).
        sharded: files end with an index of their chunks.
        prefix, separator: of the names of files.
        codecs: in the order of writing, behind the plain bytes.
        fill: value where there is no chunk.
    """

    folder: Path
    rows: int
    columns: int
    per_file: tuple[int, int, int, int]
    sharded: bool
    prefix: str
    separator: str
    codecs: tuple[str, ...]
    fill: float

    @property
    def chunk_bytes(self) -> int:
        """Of a decoded chunk."""
        return 4 * self.rows * self.columns

    @property
    def slots(self) -> int:
        """Chunks of a file."""
        return prod(self.per_file)

    @property
    def index_bytes(self) -> int:
        """Of the index at the end of a shard, checksum included."""
        return _ENTRY * self.slots + _CHECKSUM

    def path(self, *file: int) -> Path:
        """The file with these coordinates."""
        return self.folder / (self.prefix + self.separator.join(map(str, file)))

    def place(self, v: int, member: int, g: int) -> tuple[tuple[int, ...], int]:
        """The file, but for its dates, in which a chunk lies, and its place among the chunks of one date there."""
        _, v_file, m_file, g_file = self.per_file
        place = ((v % v_file) * m_file + member % m_file) * g_file + g % g_file
        return (v // v_file, member // m_file, g // g_file), place

    def index(self, tail: bytes, path: Path) -> np.ndarray:
        """(slots, 2) offsets and lengths of the chunks of a shard, from its last `index_bytes`.

        Raises:
            ForecastError: they do not match their checksum.
        """
        table, checksum = tail[:-_CHECKSUM], tail[-_CHECKSUM:]
        if len(tail) != self.index_bytes or google_crc32c.value(table) != int.from_bytes(checksum, "little"):
            raise ForecastError(f"{path} is torn: its index does not match its checksum")
        return np.frombuffer(table, "<u8").reshape(self.slots, 2)

    def decode(self, data: memoryview, out: np.ndarray) -> None:
        """One chunk into `out`, which is contiguous and has its size.

        Raises:
            ValueError, RuntimeError: a wrong checksum, or bytes that are no such chunk.
        """
        for codec in reversed(self.codecs):
            if codec == "crc32c":
                data, checksum = data[:-_CHECKSUM], data[-_CHECKSUM:]
                if google_crc32c.value(np.frombuffer(data, np.uint8)) != int.from_bytes(checksum, "little"):
                    raise ValueError("its checksum is another")
            elif codec == "blosc":
                size, stored = int.from_bytes(data[4:8], "little"), int.from_bytes(data[12:16], "little")
                if (size, stored) != (self.chunk_bytes, len(data)):
                    raise ValueError("it is no Blosc chunk of its size")
                blosc.decompress(data, out)
                return
            else:
                _zstd.decode(data, out)
                return
        if len(data) != self.chunk_bytes:
            raise ValueError(f"{len(data)} bytes where {self.chunk_bytes} are expected")
        np.frombuffer(out, np.uint8)[:] = np.frombuffer(data, np.uint8)


def parse(folder: Path) -> ChunkFormat | None:
    """The format of the array in a local folder; None where it is one that only zarr-python reads."""
    try:
        if (folder / "zarr.json").is_file():
            return _parse_v3(folder, json.loads((folder / "zarr.json").read_text()))
        if (folder / ".zarray").is_file():
            return _parse_v2(folder, json.loads((folder / ".zarray").read_text()))
    except (KeyError, TypeError, ValueError, OSError):
        return None
    return None


def _parse_v3(folder: Path, meta: dict[str, Any]) -> ChunkFormat | None:
    grid, keys, codecs = meta["chunk_grid"], meta["chunk_key_encoding"], meta["codecs"]
    if meta["data_type"] != "float32" or grid["name"] != "regular" or keys["name"] != "default":
        return None
    outer = chunk = tuple(grid["configuration"]["chunk_shape"])
    sharded = codecs[0]["name"] == "sharding_indexed"
    if sharded:
        shard = codecs[0]["configuration"]
        chunk, codecs = tuple(shard["chunk_shape"]), shard["codecs"]
        index = [codec["name"] for codec in shard["index_codecs"]]
        if index != ["bytes", "crc32c"] or shard.get("index_location", "end") != "end":
            return None
    separator = keys.get("configuration", {}).get("separator", "/")
    names = tuple(codec["name"] for codec in codecs)
    little = codecs[0].get("configuration", {}).get("endian", "little") == "little"
    if names[0] != "bytes" or not little:
        return None
    return _format(folder, chunk, outer, sharded, "c" + separator, separator, names[1:], meta["fill_value"])


def _parse_v2(folder: Path, meta: dict[str, Any]) -> ChunkFormat | None:
    if meta["dtype"] != "<f4" or meta["order"] != "C" or meta["filters"]:
        return None
    chunk, compressor = tuple(meta["chunks"]), meta["compressor"]
    codecs = (compressor["id"],) if compressor else ()
    return _format(folder, chunk, chunk, False, "", meta.get("dimension_separator", "."), codecs, meta["fill_value"])


def _format(folder: Path, chunk: tuple[int, ...], outer: tuple[int, ...], sharded: bool, prefix: str, separator: str,
            codecs: tuple[str, ...], fill: Any) -> ChunkFormat | None:  # fmt: skip
    compressors = [codec for codec in codecs if codec != "crc32c"]
    known = all(codec in _CODECS for codec in codecs) and len(compressors) <= 1 and codecs[:1] == (*compressors,)[:1]
    if len(chunk) != 4 or chunk[0] != 1 or chunk[2] != 1 or not (known or codecs == ("crc32c",)):
        return None
    t, v, m, g = (o // c for o, c in zip(outer, chunk, strict=True))
    value = float(fill) if fill is not None else 0.0
    return ChunkFormat(folder, chunk[1], chunk[3], (t, v, m, g), sharded, prefix, separator, codecs, value)
