"""One folder of scores and its page, for all tests of a process."""

from __future__ import annotations

from pathlib import Path

import pytest

from forecast.report.page import write_report
from tests.report.made import GLOBE, LEVELS, scored


@pytest.fixture(scope="session")
def globe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scored(tmp_path_factory.mktemp("globe"), GLOBE, tuple(LEVELS), 3, {"learnt": 6, "imperfect": 4}, land=True)


@pytest.fixture(scope="session")
def page(globe: Path) -> Path:
    return write_report(globe, globe.parent / "r.html")
