"""Windows never straddle gaps or period ends, hold what the store holds, and read each state once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forecast.core import config as configs
from forecast.core import seeding
from forecast.core.errors import ForecastError
from forecast.core.sections import DataSection
from forecast.core.store import Store
from forecast.data.dataset import Dataset
from tests import tiny

SIX = np.timedelta64(6, "h")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Store]:
    return tiny.stores(tmp_path_factory.mktemp("stores"))


def section(**changes: Any) -> DataSection:
    raw = tiny.raw(Path("x"))
    raw["data"] |= changes
    return configs.parse(raw).data


def dataset(pair: tuple[Store, Store], share: float = 0.0, **changes: Any) -> Dataset:
    data = section(**changes)
    return Dataset(data, data.train, pair[0], pair[1], share)


@pytest.mark.parametrize("step", ["6h", "12h", "24h"])
@pytest.mark.parametrize("rollout", [1, 4])
@pytest.mark.parametrize("inputs", [1, 2])
def test_windows_are_all_those_and_only_those_without_a_gap(
    pair: tuple[Store, Store], step: str, rollout: int, inputs: int
) -> None:
    data = dataset(pair, step=step, diagnostic=[], normalisation={}, input_steps=inputs)
    span = (inputs + rollout - 1) * (data.data.step // SIX)
    first, last = data.period
    within = [i for i in range(tiny.DATES.size - span) if tiny.DATES[i] >= first and tiny.DATES[i + span] <= last]
    expected = [i for i in within if not any(i <= gap <= i + span for gap in tiny.GAPS)]
    np.testing.assert_array_equal(data.windows(rollout), expected)


def test_every_window_is_free_of_missing_values_and_evenly_spaced(pair: tuple[Store, Store]) -> None:
    data = dataset(pair, share=0.5)
    for first in data.windows(3):
        sample = data.read(int(first), 3, int(first))
        assert np.isfinite(sample.states).all() and (np.diff(sample.dates) == SIX).all()


def test_a_window_holds_the_states_and_forcings_of_its_dates(pair: tuple[Store, Store]) -> None:
    data = dataset(pair)
    sample = data.read(7, 2, key=1)
    assert sample.states.shape == (4, 3, 128) and sample.states.dtype == np.float32
    np.testing.assert_array_equal(sample.states, pair[0].read(slice(7, 11), ["z_500", "t_850", "tp"]))
    np.testing.assert_array_equal(sample.dates, tiny.DATES[7:11])
    np.testing.assert_array_equal(sample.forcings, data.forcings(tiny.DATES[7:11]))


def test_inputs_come_from_the_analysis_and_targets_from_the_truth(pair: tuple[Store, Store]) -> None:
    sample = dataset(pair, share=1.0).read(7, 2, key=1)
    names = ["z_500", "t_850", "tp"]
    assert sample.from_analysis
    np.testing.assert_array_equal(sample.states[:2], pair[1].read(slice(7, 9), names))
    np.testing.assert_array_equal(sample.states[2:], pair[0].read(slice(9, 11), names))
    assert not np.array_equal(sample.states[:2], pair[0].read(slice(7, 9), names))


def test_the_analysis_is_chosen_by_key_in_the_share_asked_for(pair: tuple[Store, Store]) -> None:
    data = dataset(pair, share=0.3)
    chosen = np.array([data.read(7, 1, seeding.key(1, "sample", n)).from_analysis for n in range(400)])
    assert chosen.mean() == pytest.approx(0.3, abs=0.08)  # 3.5 standard errors
    again = [data.read(20, 1, seeding.key(1, "sample", n)).from_analysis for n in range(20)]
    np.testing.assert_array_equal(again, chosen[:20])


def test_where_no_analysis_is_drawn_truth_serves_as_one(pair: tuple[Store, Store]) -> None:
    """Forecasts start with the flag of an analysis: training must have seen it."""
    sample = dataset(pair, share=0.0).read(7, 2, key=1)
    assert sample.from_analysis
    np.testing.assert_array_equal(sample.states[:2], pair[0].read(slice(7, 9), ["z_500", "t_850", "tp"]))


def test_each_state_is_read_once(pair: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch) -> None:
    data, seen = dataset(pair, share=1.0), []
    fill = Store.fill
    monkeypatch.setattr(Store, "fill", lambda self, time, *rest: (seen.append(time), fill(self, time, *rest)))
    data.read(7, 3, key=1)
    assert sorted(seen) == [7, 8, 9, 10, 11]


def test_without_an_analysis_store_truth_serves(pair: tuple[Store, Store]) -> None:
    data = Dataset(section(), section().train, pair[0], None, 1.0)
    assert data.read(3, 1, key=5).from_analysis


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prognostic": ["z_500", "q_850"]}, "no variable `q_850`"),
        ({"step": "4h"}, "no multiple of the frequency"),
        ({"train": ["1990-01-01", "1990-12-31"]}, "no 3 states 6h apart without a gap in 1990-01-01T00"),
    ],
)
def test_what_cannot_be_is_refused(pair: tuple[Store, Store], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ForecastError, match=message):
        dataset(pair, **changes).windows(1)


def test_gaps_of_the_analysis_count_as_well(pair: tuple[Store, Store]) -> None:
    other = Store.open(pair[1].path)
    other.missing = other.missing | (np.arange(tiny.DATES.size) == 60)
    whole, holed = (Dataset(section(), section().train, pair[0], analysis) for analysis in (pair[1], other))
    assert set(whole.windows(2)) - set(holed.windows(2)) == {57, 58, 59, 60}


def test_an_analysis_of_other_dates_is_refused(pair: tuple[Store, Store]) -> None:
    other = Store.open(pair[1].path)
    other.dates = other.dates + SIX
    with pytest.raises(ForecastError, match="ingest both from one source"):
        Dataset(section(), section().train, pair[0], other)
