"""How fast windows are read from a store: zarr-python, and the zarrs pipeline and TensorStore where installed.

    python scripts/bench_store.py              # a synthetic store of 1,460 dates x 20 variables x 2,048 points
    python scripts/bench_store.py STORE.zarr   # an own one

CPU milliseconds per read from the page cache, best of 3 rounds of 100 random reads.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import zarr

from forecast.core import grids, variables
from forecast.core.store import Store
from forecast.data.layout import Layout
from forecast.data.writer import StoreWriter

WINDOWS = {"1 date": 1, "3 dates": 3, "8 dates": 8}


def make(path: Path) -> Path:
    """A store of smooth noise, so that it compresses as weather does."""
    grid, names = grids.gaussian(32), tuple(f"z_{level}" for level in range(50, 1050, 50))
    dates = np.datetime64("2001-01-01", "s") + np.arange(1460) * np.timedelta64(6, "h")
    described = {name: variables.metadata(name) for name in names}
    points = grid.latitudes, grid.longitudes, grid.shape
    layout = Layout(dates, names, described, *points, np.timedelta64(6, "h"))
    rng, writer = np.random.default_rng(0), StoreWriter(path, layout)
    base = np.cumsum(rng.standard_normal((20, 2048)), axis=1)
    began = time.process_time()
    for slab in writer.todo:
        days = layout.slabs[slab].stop - layout.slabs[slab].start
        writer.write(slab, (base + 0.1 * rng.standard_normal((days, 20, 2048))).astype(np.float32))
    writer.finish()
    print(f"written in {time.process_time() - began:.1f} CPU seconds, the making of the noise included")
    return path


def best(read: Callable[[int], object], dates: int, span: int) -> float:
    """CPU milliseconds per read."""
    starts = np.random.default_rng(1).integers(0, dates - span, 100)
    rounds = []
    for _ in range(3):
        began = time.process_time()
        for start in starts:
            read(int(start))
        rounds.append((time.process_time() - began) * 10)
    return min(rounds)


def row(name: str, read: Callable[[slice], object], dates: int) -> None:
    """One line of the table."""
    times = (best(lambda t, span=span: read(slice(t, t + span)), dates, span) for span in WINDOWS.values())  # type: ignore[misc]
    print(f"{name:<24}" + "".join(f"{t:>10.2f}" for t in times))


def main(path: Path) -> None:
    """Print the table."""
    store = Store.open(path)
    dates = store.dates.size
    print(f"{'CPU ms per read':<24}" + "".join(f"{name:>10}" for name in WINDOWS))
    row("zarr-python (ours)", store.read, dates)
    if importlib.util.find_spec("zarrs"):
        with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
            row("zarr-python with zarrs", Store.open(path).read, dates)
    if importlib.util.find_spec("tensorstore"):
        import tensorstore

        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{path.resolve()}/data/"}}
        array = tensorstore.open(spec).result()
        row("tensorstore", lambda times: array[times].read().result(), dates)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(make(Path(folder) / "a.zarr"))
