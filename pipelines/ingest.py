"""Step 1: the archive becomes a store."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from forecast.core.config import Config
from forecast.data.ingest import ingest as write_stores


def ingest(
    config: Config,
    update: bool = False,
    replace: tuple[np.datetime64, np.datetime64] | None = None,
    dry: bool = False,
) -> list[Path]:
    """Write the config's source, an archive or the sample planet, into sharded Zarr stores.

    Slab by slab and several at a time, with the statistics gathered in the same pass; a killed run goes on where it
    was, and a store that is there already is kept.

    Args:
        update: append dates to a store that is there, and read again what has changed.
        replace: first and last of the dates that are read again in any case.
        dry: only say what would be read and written.

    Returns:
        The paths of the stores: the truth and, on the sample planet, the analyses.
    """
    return write_stores(config, update, replace, dry)
