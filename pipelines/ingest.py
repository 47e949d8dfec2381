"""Step 1: the archive becomes a store."""

from __future__ import annotations

from pathlib import Path

from forecast.core.config import Config
from forecast.data.ingest import ingest as write_stores


def ingest(config: Config) -> list[Path]:
    """Write the config's source, files or the sample planet, into sharded Zarr stores.

    Slab by slab and several at a time, with the statistics gathered in the same pass; a killed run goes on where it
    was, and a store that is there already is kept.

    Returns:
        The paths of the stores: the truth and, on the sample planet, the analyses.
    """
    return write_stores(config)
