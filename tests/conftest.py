"""Fixtures that all rooms share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests import tiny


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Graphs and weights that tests make are kept with the tests' files."""
    os.environ["FORECAST_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny stores, truth and analysis, that no test changes."""
    folder = tmp_path_factory.mktemp("archive")
    tiny.stores(folder)
    return folder


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real ERA5, GFS and ERA-Interim files; tests that need it are skipped where it is absent."""
    beside = Path(__file__).parents[1].parent / "shared" / "data"
    folder = Path(os.environ.get("FORECAST_REAL_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder} (set FORECAST_REAL_DATA)")
    return folder
