"""Chunks read from files equal what zarr-python reads, whatever the format; damage is found and named."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, ZstdCodec

from forecast.core.chunks import FileStates, ZarrStates, open_states
from forecast.core.errors import ForecastError

SHAPE = (7, 5, 3, 103)
VALUES = np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)
BLOSC = BloscCodec(typesize=4, cname="lz4", clevel=1, shuffle="shuffle")
KINDS: dict[str, dict[str, Any]] = {
    "sharded": {"chunks": (1, 2, 1, 20), "shards": (3, 4, 3, 60), "compressors": [BLOSC, Crc32cCodec()]},
    "one shard a date": {"chunks": (1, 5, 1, 103), "shards": (1, 5, 3, 103), "compressors": [BLOSC]},
    "plain bytes": {"chunks": (1, 2, 1, 50), "shards": (2, 6, 3, 150), "compressors": None},
    "checksum alone": {"chunks": (1, 5, 1, 50), "shards": (2, 5, 3, 150), "compressors": [Crc32cCodec()]},
    "zstd": {"chunks": (1, 5, 1, 40), "shards": (2, 5, 1, 120), "compressors": [ZstdCodec(level=1)]},
    "unsharded": {"chunks": (1, 3, 1, 103), "compressors": [BLOSC]},
    "v2": {"chunks": (1, 5, 1, 60), "compressors": numcodecs.Blosc("lz4", 5, 1), "zarr_format": 2},
    "v2 zstd": {"chunks": (1, 5, 1, 60), "compressors": numcodecs.Zstd(1), "zarr_format": 2},
    "v2 plain": {"chunks": (1, 5, 1, 60), "compressors": None, "zarr_format": 2},
}
OTHERS: dict[str, dict[str, Any]] = {
    "two dates a chunk": {"chunks": (2, 5, 1, 60), "compressors": [BLOSC]},
    "members in a chunk": {"chunks": (1, 5, 3, 60), "compressors": [BLOSC]},
    "gzip": {"chunks": (1, 5, 1, 60), "compressors": [GzipCodec()]},
    "double": {"chunks": (1, 5, 1, 60), "dtype": "float64"},
    "filters": {"chunks": (1, 5, 1, 60), "filters": [numcodecs.Shuffle(4)], "zarr_format": 2},
}


def write(folder: Path, kind: dict[str, Any]) -> Any:
    array = zarr.create_array(folder, **{"shape": SHAPE, "dtype": "float32", "fill_value": np.nan, **kind})
    array[:] = VALUES
    return zarr.open_array(folder, mode="r")


@pytest.mark.parametrize("kind", [*KINDS, *OTHERS])
def test_any_selection_is_what_zarr_reads(kind: str, tmp_path: Path) -> None:
    states = open_states(tmp_path, write(tmp_path, (KINDS | OTHERS)[kind]))
    assert isinstance(states, FileStates if kind in KINDS else ZarrStates)
    for variables in ((0, 1, 2, 3, 4), (3,), (4, 0, 1)):
        for points in (slice(0, 103), slice(0, 60), slice(37, 38), slice(90, 103)):
            for member in (0, 2):
                what = states.select(variables, member, points)
                expected = VALUES[:, list(variables), member, points]
                plain, turned = np.empty(what.shape, np.float32), np.empty(what.shape[::-1], np.float32)
                for t in (0, 4, 6):
                    states.fill(t, what, plain)
                    states.fill(t, what, turned.T)
                    np.testing.assert_array_equal(plain, expected[t])
                    np.testing.assert_array_equal(turned.T, expected[t])


@pytest.mark.parametrize("kind", ["sharded", "unsharded", "v2"])
def test_what_was_never_written_is_the_fill_value(kind: str, tmp_path: Path) -> None:
    array = zarr.create_array(tmp_path, shape=SHAPE, dtype="float32", fill_value=np.nan, **KINDS[kind])
    array[1, 0:2, 0] = VALUES[1, 0:2, 0]
    states = open_states(tmp_path, array)
    what = states.select((0, 4), 0, slice(0, 103))
    out = np.zeros(what.shape, np.float32)
    states.fill(1, what, out)
    np.testing.assert_array_equal(out[0], VALUES[1, 0, 0])
    assert np.isnan(out[1]).all()
    states.fill(6, what, out)
    assert np.isnan(out).all()


def test_threads_and_other_processes_read_the_same(tmp_path: Path) -> None:
    states = open_states(tmp_path, write(tmp_path, KINDS["sharded"]))
    again = pickle.loads(pickle.dumps(states))
    what = again.select((0, 1, 2, 3, 4), 1, slice(0, 103))

    def read(t: int) -> np.ndarray:
        out = np.empty(what.shape, np.float32)
        again.fill(t % 7, what, out)
        return out

    with ThreadPoolExecutor(8) as pool:
        for t, state in enumerate(pool.map(read, range(200))):
            np.testing.assert_array_equal(state, VALUES[t % 7, :, 1])


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 16
    file.write_bytes(data)


@pytest.mark.parametrize(("damage", "reason"), [(cut, "0/0/0/0 is torn"), (flip, "0/0/0/0 is damaged at byte")])
def test_damage_is_found(damage: Callable[[Path], None], reason: str, tmp_path: Path) -> None:
    states = open_states(tmp_path, write(tmp_path, KINDS["sharded"]))
    damage(tmp_path / "c/0/0/0/0")
    what = states.select((0, 1, 2, 3), 0, slice(0, 60))
    with pytest.raises(ForecastError, match=reason):
        for t in range(3):
            for member in range(3):
                states.fill(t, states.select(what.variables, member, what.points), np.empty(what.shape, np.float32))
