"""What chunks, shards and codecs of a store cost its readers and its writer, to choose among them.

    python scripts/bench_store.py                  # 60 variables x 40,320 points (O96)
    python scripts/bench_store.py 25x5248 [CHUNKS...]  # VARIABLESxPOINTS, chunks as VARIABLESxPOINTS
    python scripts/bench_store.py --real FILES...  # codecs alone, on states of GRIB or NetCDF files

CPU milliseconds a date from the page cache, best of 3 rounds, one thread: writing; reading a whole state as training
takes it (variable last), an eighth of the grid, one variable (verification), and a whole state through zarr-python.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from forecast.core import variables
from forecast.core.archive_sections import FileSource
from forecast.core.store import Store
from forecast.data.layout import Layout
from forecast.data.slabs import round_bits
from forecast.data.sources import open_source
from forecast.data.writer import StoreWriter

HEADER = f"{'chunk':>12}{'kB':>7}{'write':>8}{'whole':>8}{'eighth':>8}{'one':>8}{'zarr':>8}{'size':>7}"
CODECS: list[dict[str, Any]] = [
    {"compression": "lz4"}, {"compression": "lz4", "level": 5}, {"compression": "zstd"},
    {"compression": "zstd", "level": 3}, {"compression": "none"}, {"keep": 12}, {"keep": 9}, {"keep": 7},
]  # fmt: skip


def states(v: int, points: int, dates: int) -> np.ndarray:
    """(T, V, G) that compress as weather does, to about 0.6."""
    rng = np.random.default_rng(0)
    base = 280.0 + np.cumsum(0.2 * rng.standard_normal((v, points)), axis=1)
    return (base + 0.3 * rng.standard_normal((dates, v, points))).astype(np.float32)


def write(path: Path, values: np.ndarray, rows: int | None, points: int | None, **storage: Any) -> tuple[Store, float]:
    """A store, and CPU milliseconds a date of writing it."""
    dates, v, g = values.shape
    names = tuple(f"z_{k}" for k in range(1, v + 1))
    axis = np.datetime64("2001-01-01", "s") + np.arange(dates) * np.timedelta64(6, "h")
    described = {name: variables.metadata(name) for name in names}
    places = np.linspace(89, -89, g), np.arange(g) * 137.5 % 360, (g,)
    layout = Layout(axis, names, described, *places, np.timedelta64(6, "h"), dates_per_shard=8,
                    variables_per_chunk=rows, points_per_chunk=points, **storage)  # fmt: skip
    writer, began = StoreWriter(path, layout), time.process_time()
    for slab in writer.todo:
        writer.write(slab, values[layout.slabs[slab]])
    spent = (time.process_time() - began) / dates * 1e3
    return Store.open(writer.finish()), spent


def best(read: Callable[[int], object], dates: int) -> float:
    """CPU milliseconds a date."""
    order, rounds = np.random.default_rng(1).integers(0, dates, 24).tolist(), []
    for _ in range(3):
        began = time.process_time()
        for time_ in order:
            read(time_)
        rounds.append((time.process_time() - began) / len(order) * 1e3)
    return min(rounds)


def row(folder: Path, values: np.ndarray, rows: int | None, points: int | None, **storage: Any) -> str:
    """One line of the table."""
    dates, v, g = values.shape
    name = f"{rows}x{points}{''.join(map(str, storage.values()))}"
    store, written = write(folder / name, values, rows, points, **storage)
    turned, plain = np.empty((g, v), np.float32), np.empty((1, g), np.float32)
    part = slice(3 * g // 8, 4 * g // 8)
    whole, eighth, one = store.select(), store.select(points=part), store.select([store.variables[v // 2]])
    raw: Any = zarr.open_group(store.path, mode="r")["data"]
    times = (
        best(lambda t: store.fill(t, whole, turned.T), dates),
        best(lambda t: store.fill(t, eighth, turned[part].T), dates),
        best(lambda t: store.fill(t, one, plain), dates),
        best(lambda t: raw[t], dates),
    )
    size = sum(f.stat().st_size for f in (store.path / "data").rglob("*") if f.is_file()) / values.nbytes
    chunk = raw.chunks
    return (f"{chunk[1]:>5} x{chunk[3]:>6}{chunk[1] * chunk[3] * 4 / 1e3:>7.0f}{written:>8.2f}"
            + "".join(f"{t:>8.3f}" for t in times) + f"{size:>7.1%}")  # fmt: skip


def real(file: Path) -> None:
    """Codecs on the states of a file, members one after another: MB of float32 a CPU second, size, largest errors."""
    section = FileSource(kind="netcdf" if file.suffix == ".nc" else "grib", paths=(str(file),))
    source = open_source(section)
    found = source.read(source.contents.dates[:40]).swapaxes(1, 2)
    values = found.reshape(-1, *found.shape[2:])[np.isfinite(found).all(axis=(2, 3)).ravel()][:80]
    spread, size = values.std(axis=(0, 2), dtype=np.float64)[:, None], values[0].nbytes / 1e6
    print(f"\n{file.name}: {len(values)} states of {values.shape[1]} x {values.shape[2]:,}\n"
          f"{'codec':<28}{'write':>7}{'read':>7}{'size':>8}{'relative error':>16}{'of the spread':>15}")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for k, codec in enumerate(CODECS):
            rounded = round_bits(values, codec["keep"]) if "keep" in codec else values
            storage = {key: value for key, value in codec.items() if key != "keep"}
            made = [write(Path(folder) / f"{k}{n}", rounded, None, None, **storage) for n in range(3)]
            store, turned = made[0][0], np.empty(values.shape[:0:-1], np.float32)
            whole = store.select()
            read = best(lambda t, s=store, w=whole, o=turned: s.fill(t, w, o.T), len(values))  # type: ignore[misc]
            stored = sum(f.stat().st_size for f in (store.path / "data").rglob("*") if f.is_file()) / values.nbytes
            error = np.abs(rounded - values)
            relative = (error[values != 0] / np.abs(values[values != 0])).max()
            name = " ".join(f"{key} {value}" for key, value in codec.items())
            print(f"{name:<28}{size / min(w for _, w in made) * 1e3:>7.0f}{size / read * 1e3:>7.0f}{stored:>8.1%}"
                  f"{relative:>16.1e}{(error / spread).max():>15.1e}", flush=True)  # fmt: skip


def main(shape: str, chunks: list[str]) -> None:
    """Print the tables."""
    v, g = map(int, shape.split("x"))
    values = states(v, g, max(8, 60_000_000 // (v * g) // 8 * 8))
    eighth = -(-g // 8)
    tried = [tuple(map(int, c.split("x"))) for c in chunks] or [
        (v, g), (v, eighth), (max(1, v // 3), eighth), (max(1, v // 8), eighth), (1, eighth), (1, g)
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        print(f"states of {v} x {g:,}, {v * g * 4 / 1e6:.2f} MB; CPU ms a date\n{HEADER}")
        for rows, points in tried:
            print(row(Path(folder), values, rows, points), flush=True)
        print(row(Path(folder), values, None, None), " chosen")
        print(f"\ncodecs, with the chunks chosen\n{HEADER}")
        for codec in CODECS:
            rounded = round_bits(values, codec["keep"]) if "keep" in codec else values
            storage = {key: value for key, value in codec.items() if key != "keep"} | {
                "provenance": {"codec": str(codec)}
            }
            print(row(Path(folder) / str(CODECS.index(codec)), rounded, None, None, **storage), "", codec, flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--real"]:
        for name in sys.argv[2:]:
            real(Path(name))
    else:
        main(sys.argv[1] if len(sys.argv) > 1 else "60x40320", sys.argv[2:])
