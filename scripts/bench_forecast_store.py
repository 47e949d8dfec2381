"""What writing a forecast costs: CPU seconds for the demo's store (6 starts x 20 members x 61 leads x 17 variables).

python scripts/bench_forecast_store.py [FOLDER]

Prints milliseconds for one shard of 10 members x 2,048 values, written and read, by us, by zarr and (where it is
installed) by TensorStore, then seconds for the demo's 12,444 shards (1.0 GB of float32) through `ForecastWriter`.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import zarr

from forecast.core import forecasts, grids, seeding, shards
from forecast.core.forecasts import Forecasts, Layout
from forecast.inference.writer import ForecastWriter

MEMBERS, LEADS, COUNT = 10, 61, 200
NAMES = ("z_200", "z_500", "z_800", "u_200", "u_500", "u_800", "v_200", "v_500", "v_800", "t_350", "t_650", "q_800",
         "msl", "2t", "10u", "10v", "tp")  # fmt: skip


def layout(starts: int, members: int, names: tuple[str, ...]) -> Layout:
    """A store of the demo's kind."""
    times = np.datetime64("2008-02-01T00", "s") + np.arange(starts) * np.timedelta64(60, "D")
    leads = np.arange(LEADS) * np.timedelta64(6 * 3600, "s")
    return Layout(names, times, np.arange(members), leads, grids.gaussian(32), MEMBERS, {"system": "bench"})


def fields(names: tuple[str, ...]) -> np.ndarray:
    """(M, V, G) float32 that are smooth in longitude, as weather is, with noisy low bits."""
    noise = seeding.normal(1, MEMBERS * len(names) * 2048).reshape(MEMBERS, len(names), 32, 64)
    return (5e4 + 10.0 * noise.cumsum(axis=-1)).astype(np.float32).reshape(MEMBERS, len(names), 2048)


def cost(one: Callable[[int], object]) -> float:
    """CPU milliseconds of one call."""
    began = time.process_time()
    for i in range(COUNT):
        one(i % LEADS)
    return (time.process_time() - began) / COUNT * 1e3


def compare(folder: Path) -> None:
    """One shard, by each library."""
    plan, data = layout(1, MEMBERS, ("z_500",)), fields(("z_500",))[:, 0]
    path = folder / "one.zarr"
    forecasts.create(path, plan)
    out = np.empty_like(data)

    def write(lead: int) -> None:
        scratch = path / "scratch"
        scratch.write_bytes(shards.encode(data, MEMBERS))
        scratch.rename(path / plan.shard("z_500", (0, 0, lead)))

    def read(lead: int) -> None:
        shards.decode((path / plan.shard("z_500", (0, 0, lead))).read_bytes(), MEMBERS, out)

    print(f"forecast     write {cost(write):5.2f} ms   read {cost(read):5.2f} ms")
    array, shaped = zarr.open_array(path / "z_500"), data.reshape(MEMBERS, 32, 64)
    cost_write = cost(lambda lead: array.__setitem__((0, slice(None), lead), shaped))
    print(f"zarr         write {cost_write:5.2f} ms   read {cost(lambda lead: array[0, :, lead]):5.2f} ms")
    try:
        import tensorstore as ts
    except ImportError:
        return
    store = ts.open(
        {"driver": "zarr3", "kvstore": f"file://{path}/z_500/", "context": {"file_io_sync": False}}
    ).result()
    cost_write = cost(lambda lead: store[0, :, lead].write(shaped).result())
    print(
        f"tensorstore  write {cost_write:5.2f} ms   read {cost(lambda lead: store[0, :, lead].read().result()):5.2f} ms"
    )


def demo(folder: Path) -> None:
    """The demo's store, whole."""
    plan, data = layout(6, 20, NAMES), fields(NAMES)
    wall, cpu = time.monotonic(), time.process_time()
    with ForecastWriter(folder / "demo.zarr", plan) as writer:
        for unit in np.ndindex(writer.units.shape):
            writer.write(unit, data)
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    size = sum(p.stat().st_size for p in (folder / "demo.zarr").rglob("*") if p.is_file())
    raw = writer.units.size * data.nbytes
    print(f"demo's store: {wall:.1f} s, {cpu:.1f} CPU s; {raw / 1e9:.2f} GB of float32 in {size / 1e9:.2f} GB")
    began = time.process_time()
    store = Forecasts.open(folder / "demo.zarr")
    for lead in range(LEADS):
        assert np.array_equal(store.read("msl", 5, lead)[:10], data[:, NAMES.index("msl")])
    print(f"reading 61 x 20 fields back: {time.process_time() - began:.2f} CPU s")


if __name__ == "__main__":
    place = Path(tempfile.mkdtemp(dir=sys.argv[1] if len(sys.argv) > 1 else None))
    try:
        compare(place)
        demo(place)
    finally:
        shutil.rmtree(place)
