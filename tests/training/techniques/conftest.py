"""What the tests of techniques share: a plain run."""

from __future__ import annotations

from pathlib import Path

import pytest

from forecast.training import sinks
from pipelines.train import train
from tests.training.techniques import bench


@pytest.fixture(scope="session")
def plain(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without techniques."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sinks, "plot", lambda metrics, picture: None)
        return train(bench.config(tmp_path_factory.mktemp("plain"), archive))


@pytest.fixture(autouse=True)
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than these runs."""
    monkeypatch.setattr(sinks, "plot", lambda metrics, picture: None)
