"""pipelines/verify: from a config to scores and report."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from forecast.core import config as configs
from forecast.core.store import Store
from forecast.verification import open_scores
from pipelines.verify import labels, verify
from tests import tiny
from tests.verification.synthetic import HOUR, write_forecast


def test_a_config_names_what_is_scored(tmp_path: Path) -> None:
    """Learnt and physics ensembles beside the baselines, persistence from the analyses; report and statements."""
    truth, analysis = tiny.stores(tmp_path)
    starts, leads = np.array(["2001-02-01"], "datetime64[s]"), np.array([0, 24, 48]) * HOUR
    names = ("z_500", "t_850", "tp")

    def field(name: str, start: np.datetime64, lead: np.timedelta64) -> np.ndarray:
        state = Store.open(truth.path).read(truth.index(start + lead), [name])[0, 0]
        return state + np.linspace(-1, 1, 4)[:, None] * 0.01 * state.std()

    for system in ("forecast", "imperfect"):
        write_forecast(tmp_path / f"{system}.zarr", tiny.GRID, starts, leads, 4, names, field)
    raw = tiny.raw(tmp_path)
    raw["forecast"]["physics"] = {"imperfect": "imperfect.zarr"}
    scores, report = verify(configs.parse(raw))
    assert list(scores.sums) == ["learnt", "imperfect", "persistence", "climatology"]
    assert report == tmp_path / "report.html" and "Fair CRPS below imperfect at 24 h" in report.read_text()
    assert scores.summary["analysis"] == str(analysis.path) and scores.summary["climatology"][1] == "2001-01-31T18"
    assert open_scores(tmp_path / "scores").summary == scores.summary


def test_labels_are_names_made_unique() -> None:
    assert labels([Path("a/x.zarr"), Path("b/y.zarr")]) == {"x": Path("a/x.zarr"), "y": Path("b/y.zarr")}
    assert list(labels([Path("a/x.zarr"), Path("b/x.zarr")])) == ["a/x", "b/x"]
