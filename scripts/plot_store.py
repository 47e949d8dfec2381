"""Pictures of a store: mean and spread of its change, or its dates and gaps.

python scripts/plot_store.py STORE.zarr PICTURE.png [VARIABLE]    # maps
python scripts/plot_store.py --gaps STORE.zarr PICTURE.png        # dates
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from forecast.core.store import Store


def maps(store: Store, picture: Path, variable: str) -> None:
    """Mean state and standard deviation of the change from date to date."""
    times = np.flatnonzero(~store.missing)
    states = np.stack([store.read(int(t), [variable])[0, 0] for t in times])
    follows = np.diff(times) == 1
    change = (states[1:] - states[:-1])[follows].std(axis=0)
    figure, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    east = (store.longitudes + 180) % 360 - 180
    for axis, values, title in zip(axes, (states.mean(axis=0), change), ("mean", "stdev of the change"), strict=True):
        drawn = axis.scatter(east, store.latitudes, c=values, s=180 if len(east) < 500 else 6, marker="s")
        figure.colorbar(drawn, ax=axis, label=store.units[variable])
        axis.set(title=f"{variable}: {title}", xlabel="degrees east", ylabel="degrees north")
    figure.savefig(picture, dpi=70)


def gaps(store: Store, picture: Path) -> None:
    """Each date as a stroke, missing ones in red."""
    figure, axis = plt.subplots(figsize=(8, 1.4), layout="constrained")
    dates = store.dates.astype("datetime64[ms]").astype(object)
    axis.vlines(dates[~store.missing], 0, 1, color="tab:blue", linewidth=0.7)
    axis.vlines(dates[store.missing], 0, 1, color="tab:red", linewidth=0.7)
    axis.set(yticks=[], title=f"{(~store.missing).sum()} dates (blue), {store.missing.sum()} missing (red)")
    figure.savefig(picture, dpi=70)


if __name__ == "__main__":
    if sys.argv[1] == "--gaps":
        gaps(Store.open(sys.argv[2]), Path(sys.argv[3]))
    else:
        opened = Store.open(sys.argv[1])
        maps(opened, Path(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else opened.variables[0])
