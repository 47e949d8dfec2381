"""Fixtures that all rooms share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real ERA5, GFS and ERA-Interim files; tests that need it are skipped where it is absent."""
    beside = Path(__file__).parents[1].parent / "shared" / "data"
    folder = Path(os.environ.get("FORECAST_REAL_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder} (set FORECAST_REAL_DATA)")
    return folder
