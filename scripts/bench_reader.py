"""How fast training reads a store: our loader, anemoi-datasets, and raw readers, on the same data, in turns.

    python scripts/bench_reader.py [--quick] [--states 25x5248 60x40320] [--folder DIR]

Each side is a process of its own that reads windows of 3 dates in the same random order, 4 windows a batch, with 1, 2
and 4 workers, whole states and an eighth of the grid. Sides take turns, round after round; the best round of each
counts. `forecast` and `anemoi` deliver batches as training takes them, (sample, date, point, variable) in one piece;
the raw readers deliver arrays as stored; `memcpy` copies as many bytes. The store is read from the page cache.

anemoi-datasets supports zarr 2.18 alone, which reads no shards: that side (`anemoi zarr 2`) reads an unsharded Zarr v2
store of the same data, as anemoi-datasets writes it, with a zarr 2.18 that this script puts into a folder of its own.
`tensorstore` and `zarrs` take part where they are installed (pip install -e .[bench]).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

DATES, SPAN, BATCH = 400, 3, 4
WORKERS, GRIDS = (1, 2, 4), ("whole", "eighth")
OVERLAY = (
    "zarr==2.18.7",
    "numcodecs==0.15.2",
    "asciitree==0.3.3",
    "fasteners==0.20",
    "deprecated==1.2.18",
    "wrapt==1.17.3",
)
TARGETS = {
    "speed over anemoi from shards": (3.0, ["anemoi"]),
    "speed over anemoi with zarr 2, unsharded": (1.3, ["anemoi zarr 2"]),
    "speed over the fastest raw reader": (0.8, ["zarr-python", "tensorstore", "zarrs"]),
}
STORES = {"anemoi zarr 2": "plain.zarr"}  # all others read shards


def fields(variables: int, points: int, dates: int) -> Iterator[np.ndarray]:
    """States (V, G) that compress as weather does: to about 0.6 by shuffled lz4."""
    rng = np.random.default_rng(0)
    base = 280.0 + np.cumsum(0.2 * rng.standard_normal((variables, points)), axis=1).astype(np.float32)
    noise = 0.3 * rng.standard_normal((4, variables, points)).astype(np.float32)
    for t in range(dates):
        yield base + noise[t % 4] + np.float32(0.01 * t)


def make(folder: Path, variables: int, points: int, dates: int) -> None:
    """The same data twice: in shards, and unsharded in Zarr v2 as anemoi-datasets 0.5.47 lays it out."""
    import zarr
    from numcodecs import Blosc

    from forecast.core import variables as table
    from forecast.data.layout import Layout
    from forecast.data.writer import StoreWriter

    names = tuple(f"z_{k}" for k in range(1, variables + 1))
    axis = np.datetime64("2001-01-01", "s") + np.arange(dates) * np.timedelta64(6, "h")
    latitudes, longitudes = np.linspace(89, -89, points), np.arange(points) * 137.5 % 360
    described = {name: table.metadata(name) for name in names}
    layout = Layout(
        axis, names, described, latitudes, longitudes, (points,), np.timedelta64(6, "h"), dates_per_shard=40
    )
    plain = zarr.open_group(folder / "plain.zarr", mode="w", zarr_format=2)
    data = plain.create_array("data", shape=layout.shape, dtype="f4", chunks=(1, variables, 1, points),
                              compressors=Blosc("lz4", 5, Blosc.SHUFFLE), fill_value=np.nan)  # fmt: skip
    writer, states = StoreWriter(folder / "sharded.zarr", layout), fields(variables, points, dates)
    for slab in writer.todo:
        where = layout.slabs[slab]
        block = np.stack([next(states) for _ in range(where.stop - where.start)])
        writer.write(slab, block)
        data[where] = block[:, :, None]
    writer.finish()
    ours = zarr.open_group(folder / "sharded.zarr", mode="r")
    for name in ("dates", "latitudes", "longitudes", "mean", "stdev", "minimum", "maximum"):
        plain.create_array(name, data=np.asarray(ours[name]))
    plain.attrs.update({key: ours.attrs[key] for key in ("variables", "frequency", "field_shape", "missing_dates")})


def order(dates: int, seed: int) -> Iterator[int]:
    """Endless first dates of windows."""
    rng = np.random.default_rng(seed)
    while True:
        yield from rng.permutation(dates - SPAN + 1).tolist()


def part(points: int, grid: str) -> slice:
    """The range of points that is read."""
    return slice(0, points) if grid == "whole" else slice(points * 3 // 8, points * 4 // 8)


def ours(path: Path, grid: str, workers: int) -> Iterator[Any]:
    """Batches of our loader."""
    from forecast.core import config as configs
    from forecast.core.store import Store
    from forecast.data.dataset import Dataset
    from forecast.data.loader import batches
    from forecast.data.sampler import Draw

    store = Store.open(path)
    years = ["2001-01-01", "2002-01-01"]
    section = configs.DataSection(train=years, validation=years, prognostic=store.variables, forcings=())
    data = Dataset(section, section.train, store, points=part(store.latitudes.size, grid))
    starts = order(store.dates.size, workers)
    draws = (Draw(u, 0, 1, np.array([next(starts) for _ in range(BATCH)]), tuple(range(BATCH))) for u in range(1 << 30))
    for _, batch in batches(data, draws, prefetch=2, workers=workers):
        yield batch.states


def anemoi(path: Path, grid: str, workers: int) -> Iterator[Any]:
    """Batches of a torch DataLoader over anemoi's dataset, as anemoi-training makes them."""
    import torch
    from anemoi.datasets import open_dataset
    from torch.utils.data import DataLoader, IterableDataset, get_worker_info

    data = open_dataset(str(path))  # it may not be opened in a worker
    where = part(data.shape[3], grid)

    class Windows(IterableDataset[torch.Tensor]):
        def __iter__(self) -> Iterator[torch.Tensor]:
            info = get_worker_info()
            for k, first in enumerate(order(data.shape[0], workers)):
                if k // BATCH % workers == info.id:
                    states = data[first : first + SPAN, :, :, where]
                    yield torch.from_numpy(states[:, :, 0].swapaxes(1, 2))

    yield from DataLoader(Windows(), batch_size=BATCH, num_workers=workers, prefetch_factor=2)


def raw(read: Callable[[int, slice], Any], dates: int, where: slice, workers: int) -> Iterator[Any]:
    """Batches of windows that threads read ahead."""
    starts = order(dates, workers)
    with ThreadPoolExecutor(workers) as pool:
        ahead = [[pool.submit(read, next(starts), where) for _ in range(BATCH)] for _ in range(2)]
        while True:
            ahead.append([pool.submit(read, next(starts), where) for _ in range(BATCH)])
            yield [window.result() for window in ahead.pop(0)]


def zarr_python(path: Path, grid: str, workers: int, pipeline: str | None = None) -> Iterator[Any]:
    """zarr-python alone, with its own pipeline of codecs or another."""
    import zarr

    if pipeline:
        zarr.config.set({"codec_pipeline.path": pipeline})
    zarr.config.set({"threading.max_workers": workers})
    data: Any = zarr.open_group(path, mode="r")["data"]
    yield from raw(lambda t, g: data[t : t + SPAN, :, 0, g], data.shape[0], part(data.shape[3], grid), workers)


def zarrs(path: Path, grid: str, workers: int) -> Iterator[Any]:
    """zarr-python with the zarrs pipeline."""
    yield from zarr_python(path, grid, workers, "zarrs.ZarrsCodecPipeline")


def tensorstore(path: Path, grid: str, workers: int) -> Iterator[Any]:
    """TensorStore with as many threads as workers."""
    import tensorstore

    context = {"data_copy_concurrency": {"limit": workers}, "file_io_concurrency": {"limit": workers}}
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{path.resolve()}/data/"}, "context": context}
    data = tensorstore.open(spec).result()
    yield from raw(lambda t, g: data[t : t + SPAN, :, 0, g].read().result(), data.shape[0], part(data.shape[3], grid),
                   workers)  # fmt: skip


def memcpy(path: Path, grid: str, workers: int) -> Iterator[Any]:
    """Copies of as many bytes, from memory to new memory."""
    meta = json.loads((path / "data/zarr.json").read_text())
    dates, variables, _, points = meta["shape"]
    held = np.ones((min(dates, 40), variables, points), np.float32)
    read = lambda t, g: held[t % (len(held) - SPAN) :][:SPAN, :, g].copy()  # noqa: E731
    yield from raw(read, dates, part(points, grid), workers)


SIDES: dict[str, Callable[[Path, str, int], Iterator[Any]]] = {
    "forecast": ours, "anemoi": anemoi, "anemoi zarr 2": anemoi, "zarr-python": zarr_python, "tensorstore": tensorstore,
    "zarrs": zarrs, "memcpy": memcpy,
}  # fmt: skip


def serve(side: str, path: Path) -> None:
    """A side's process: reads (grid, workers, batches) and answers with seconds, CPU seconds and MB."""
    setting: tuple[str, int] | None = None
    batches: Iterator[Any] = iter(())
    for line in sys.stdin:
        grid, workers, count = json.loads(line)
        if (grid, workers) != setting:
            setting, batches = (grid, workers), SIDES[side](path, grid, workers)
            next(batches)
        for _ in range(2 * workers + 1):  # what was read ahead while the others had their turn
            next(batches)
        began, cpu = time.perf_counter(), _cpu()
        for _ in range(count):
            next(batches)
        print(json.dumps([(time.perf_counter() - began) / count, (_cpu() - cpu) / count, _memory()]), flush=True)


def _cpu() -> float:
    """CPU seconds of this process and its children."""
    import psutil

    me = psutil.Process()
    return sum(t.user + t.system for t in (p.cpu_times() for p in [me, *me.children(recursive=True)]))


def _memory() -> float:
    """MB of this process and its children that are their own."""
    import psutil

    me = psutil.Process()
    return sum(p.memory_info().rss - p.memory_info().shared for p in [me, *me.children(recursive=True)]) / 1e6


class Side:
    """A side's process, seen from outside."""

    def __init__(self, name: str, folder: Path) -> None:
        path = folder / STORES.get(name, "sharded.zarr")
        root = str(Path(__file__).parents[1])
        first = str(folder / "zarr2") if name in STORES else ""
        paths = os.pathsep.join(p for p in (first, root, os.environ.get("PYTHONPATH", "")) if p)
        quiet = None if "FORECAST_BENCH_LOUD" in os.environ else subprocess.DEVNULL
        self._process = subprocess.Popen([sys.executable, __file__, "--serve", name, str(path)], stdin=subprocess.PIPE,
                                         stdout=subprocess.PIPE, stderr=quiet, text=True,
                                         env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths})  # fmt: skip

    def turn(self, grid: str, workers: int, count: int) -> tuple[float, float, float]:
        """One round of `count` batches: seconds and CPU seconds a batch, MB."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps([grid, workers, count]) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"{self._process.args} has ended: set FORECAST_BENCH_LOUD to see why")
        seconds, cpu, memory = json.loads(answer)
        return seconds, cpu, memory

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.wait()


def sides() -> list[str]:
    """Those that can take part."""
    here = [name for name in SIDES if name not in ("tensorstore", "zarrs") or importlib.util.find_spec(name)]
    return here if importlib.util.find_spec("anemoi") else [name for name in here if not name.startswith("anemoi")]


def table(
    folder: Path, variables: int, points: int, batches: int, rounds: int, grids: Sequence[str] = GRIDS
) -> dict[str, list[float]]:
    """Measure one store: prints dates a second and returns the ratios of each target, by elapsed time."""
    ratios: dict[str, list[float]] = {target: [] for target in TARGETS}
    state = variables * points * 4
    print(f"\nstates of {variables} x {points:,} ({state / 1e6:.2f} MB): dates a second (CPU microseconds a date)")
    print(f"{'grid':<8}{'workers':>8}" + "".join(f"{name:>16}" for name in sides()))
    running = {name: Side(name, folder) for name in sides()}
    for grid, workers in product(grids, WORKERS):
        best = dict.fromkeys(running, (np.inf, np.inf))
        for _ in range(rounds):
            for name, side in running.items():
                found = side.turn(grid, workers, batches * (1 if grid == "whole" else 4))
                best[name] = (min(best[name][0], found[0]), min(best[name][1], found[1]))
        rate = {name: BATCH * SPAN / seconds for name, (seconds, _) in best.items()}
        cells = (f"{rate[name]:,.0f} ({cpu / BATCH / SPAN * 1e6:,.0f})" for name, (_, cpu) in best.items())
        print(f"{grid:<8}{workers:>8}" + "".join(f"{cell:>16}" for cell in cells), flush=True)
        for target, (_, others) in TARGETS.items():
            there = [rate[name] for name in others if name in rate]
            ratios[target] += [rate["forecast"] / max(there)] if there else []
    for side in running.values():
        side.close()
    return ratios


def memory(folder: Path, samples: int) -> bool:
    """Whether the loader's process holds no more after `samples` than after a tenth of them; says how much."""
    side = Side("forecast", folder)
    before, after = (side.turn("whole", 2, count // BATCH)[2] for count in (samples // 10, samples * 9 // 10))
    side.close()
    print(f"target memory over {samples:,} samples of {folder.name}: reached {after:.0f} MB, {before:.0f} MB after "
          f"{samples // 10:,}, asked as much")  # fmt: skip
    return after <= 1.05 * before + 8


def overlay(folder: Path) -> None:
    """zarr 2.18 in a folder that one side's Python looks into first."""
    if not (folder / "zarr2").is_dir():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--target", str(folder / "zarr2"), *OVERLAY], check=True)


def main() -> None:
    """Print the tables and the targets."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the smaller states alone, fewer rounds (4 minutes)")
    parser.add_argument("--states", nargs="*", default=["25x5248", "60x40320"], help="variables x points")
    parser.add_argument("--grids", nargs="*", default=GRIDS, choices=GRIDS)
    parser.add_argument("--rounds", type=int, help="turns of each side: 6, with --quick 3")
    parser.add_argument("--memory", type=int, default=10_000, help="samples over which memory is watched, 0 for none")
    parser.add_argument("--folder", type=Path, help="keeps stores and zarr 2.18 for the next run")
    chosen = parser.parse_args()
    ratios: dict[str, list[float]] = {}
    good = True
    with tempfile.TemporaryDirectory() as scratch:
        folder = chosen.folder or Path(scratch)
        folder.mkdir(exist_ok=True)
        overlay(folder)
        for states in chosen.states[:1] if chosen.quick else chosen.states:
            variables, points = map(int, states.split("x"))
            here = folder / states
            if not (here / "sharded.zarr").is_dir():
                make(here, variables, points, max(40, DATES * 131200 // (variables * points) // 40 * 40))
            if not (here / "zarr2").exists():
                (here / "zarr2").symlink_to((folder / "zarr2").resolve())
            rounds = chosen.rounds or (3 if chosen.quick else 6)
            found = table(here, variables, points, max(8, 5_000_000 // (variables * points)), rounds, chosen.grids)
            for target, values in found.items():
                ratios.setdefault(target, []).extend(values)
            good &= not chosen.memory or memory(here, chosen.memory)
    for target, values in ratios.items():
        if values:
            asked = TARGETS[target][0]
            good &= min(values) >= asked
            print(f"target {target}: reached {min(values):.2f}x at worst, asked {asked}x")
    sys.exit(not good)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2], Path(sys.argv[3]))
    else:
        main()
