"""Starts as they are typed."""

import numpy as np
import pytest

from forecast.core.errors import ForecastError
from forecast.inference.starts import parse_part, parse_starts


def test_times_and_ranges() -> None:
    assert parse_starts(["2001-03-01T00"]) == np.array(["2001-03-01T00"], "datetime64[s]")
    got = parse_starts(["2001-03-03T00, 2001-03-01T12Z", "2001-03-01T00..2001-03-03T00/24h"])
    assert [str(t) for t in got.astype("datetime64[h]")] == [
        "2001-03-01T00", "2001-03-01T12", "2001-03-02T00", "2001-03-03T00",
    ]  # fmt: skip
    assert len(parse_starts(["2001-03-01..2001-03-31"])) == 31
    assert len(parse_starts(["2001-03-01T00..2001-03-02T00/6h"])) == 5
    assert len(parse_starts(["2001-03-01T00..2001-03-02T23/1d"])) == 2


@pytest.mark.parametrize(
    "text, words",
    [
        ([], "no start given: write --start 2001-03-01T00"),
        ([" "], "no start given"),
        (["march"], "start `march`: `march` is not a time; write it like 2001-03-01T00, or a range like"),
        (["2001-03-01..2001-02-01/24h"], r"the range ends \(2001-02-01T00\) before it begins"),
        (["2001-03-01..2001-03-09/day"], "`day` is not a duration"),
        (["2001-03-01/24h"], "is not a time"),
        (["2001-03-01.."], "is not a time"),
        (["2001-03-32T00"], "is not a time"),
    ],
)
def test_what_is_no_start_is_told(text, words) -> None:
    with pytest.raises(ForecastError, match=words):
        parse_starts(text)


def test_parts() -> None:
    assert parse_part("0/1") == (0, 1) and parse_part(" 3/4") == (3, 4)


@pytest.mark.parametrize("text", ["4/4", "1", "a/b", "-1/4", "1/0", "0/0"])
def test_what_is_no_part_is_told(text) -> None:
    with pytest.raises(ForecastError, match=f"part `{text}`: write --part 0/4"):
        parse_part(text)
