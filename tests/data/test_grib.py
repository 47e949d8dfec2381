"""GRIB messages written here come back bit for bit, under the right name, date and member, or are refused."""

from __future__ import annotations

from pathlib import Path

import eccodes
import numpy as np
import pytest

from forecast.core.errors import ForecastError
from forecast.data.decoders import grib
from forecast.data.sources import open_source
from tests.data.archives import DATES, decoded, field, message, section, store

HOUR = np.timedelta64(1, "h")


def surface(values: np.ndarray, when: np.datetime64 = DATES[0], **keys: object) -> bytes:
    return message(values, when, sample="regular_ll_sfc_grib1", **keys)


def write(path: Path, *messages: bytes) -> Path:
    path.write_bytes(b"".join(messages))
    return path


def refused(tmp_path: Path, *messages: bytes, reason: str, **settings: object) -> None:
    """The messages are refused in one line, and no store is left behind."""
    file = write(tmp_path / "a.grib", *messages)
    with pytest.raises(ForecastError, match=reason) as error:
        store(tmp_path / "run", file, kind="grib", frequency="6h", **settings)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "run").glob("*.zarr"))


def test_values_names_dates_and_members(tmp_path: Path) -> None:
    coded: dict[tuple[int, str, int], bytes] = {}
    for t, when in enumerate(DATES[:3]):
        for member in (0, 1, 2):
            ensemble = {"localDefinitionNumber": 1, "number": member} if member else {"localDefinitionNumber": 1}
            for level in (500, 850):
                values = field(t, member, level, offset=5e4)
                coded[t, f"z_{level}", member] = message(values, when, shortName="z", level=level, **ensemble)
            coded[t, "2t", member] = surface(field(t, member, offset=280.0), when, shortName="2t", **ensemble)
    shuffled = [list(coded.values())[k] for k in np.random.default_rng(1).permutation(len(coded))]
    files = write(tmp_path / "a.grib", *shuffled[:9]), write(tmp_path / "b.grib", *shuffled[9:])
    found = store(tmp_path, *files, kind="grib")
    assert found.variables == ("2t", "z_500", "z_850") and found.ensemble == 3
    np.testing.assert_array_equal(found.dates, DATES[:3])
    for (t, name, member), one in coded.items():
        np.testing.assert_array_equal(found.read(t, [name], member)[0, 0], decoded(one))
    np.testing.assert_array_equal(found.longitudes[:4], [355.0, 357.5, 0.0, 2.5])
    np.testing.assert_array_equal(found.grid.rows, [50.0, 47.5, 45.0])


def test_a_geopotential_of_9999_is_no_missing_value(tmp_path: Path) -> None:
    """9999 is eccodes' mark for missing values; anemoi-inference#526."""
    values = field(1, offset=9999.0)
    values[1, 2] = 9999.0
    coded = message(values, shortName="z", level=700, bits=24)
    found = store(tmp_path, write(tmp_path / "a.grib", coded), kind="grib", frequency="6h").read(0)[0, 0]
    assert np.isfinite(found).all() and found[6] == pytest.approx(9999.0, abs=1e-3)


def test_missing_values_are_nan_where_allowed(tmp_path: Path) -> None:
    values = field(1, offset=290.0)
    values[0, :2] = np.nan
    coded = surface(values, shortName="sst")
    refused(tmp_path, coded, reason="sst at 2020-02-27T00: 2 of 12 values are missing")
    found = store(tmp_path / "ok", tmp_path / "a.grib", kind="grib", frequency="6h", allow_nan=True)
    np.testing.assert_array_equal(np.isnan(found.read(0)[0, 0]), np.isnan(values.ravel()))
    assert found.statistics["mean"][0] == pytest.approx(np.nanmean(found.read(0).astype(np.float64)), rel=1e-12)


def test_forecast_steps_become_valid_times(tmp_path: Path) -> None:
    messages = [surface(field(k), DATES[0], shortName="2t", P1=6 * k, unitOfTimeRange=1) for k in range(4)]
    found = open_source(section(write(tmp_path / "a.grib", *messages), kind="grib")).contents
    np.testing.assert_array_equal(found.dates, DATES[:4])


def test_accumulated_fields_state_their_period(tmp_path: Path) -> None:
    def rain(first: int, last: int, when: np.datetime64) -> bytes:
        keys = {"timeRangeIndicator": 4, "P1": first, "P2": last, "unitOfTimeRange": 1}
        return surface(np.abs(field(last)) * 1e-3, when, shortName="tp", **keys)

    found = store(tmp_path / "ok", write(tmp_path / "a.grib", *(rain(0, 6, d) for d in DATES[:3])), kind="grib")
    assert found.attrs["variables_metadata"]["tp"]["period"] == [0, 6]
    np.testing.assert_array_equal(found.dates, DATES[1:4])  # a sum belongs to the end of its period
    refused(tmp_path, rain(0, 6, DATES[0]), rain(0, 12, DATES[2]),
            reason="tp covers 12 hours, before 6: bring all of it to one accumulation period")  # fmt: skip


def test_units_are_converted_and_stated(tmp_path: Path) -> None:
    coded = message(field(1, offset=5500.0), shortName="gh", level=500)
    found = store(tmp_path, write(tmp_path / "a.grib", coded), kind="grib", frequency="6h")
    assert found.variables == ("z_500",) and found.units == {"z_500": "m**2 s**-2"}
    handle = eccodes.codes_new_from_message(coded)
    height = eccodes.codes_get_values(handle)
    np.testing.assert_array_equal(found.read(0)[0, 0], (height * 9.80665).astype(np.float32))


def test_only_the_variables_wanted_in_their_order(tmp_path: Path) -> None:
    a, b, c = (message(field(k), shortName=s, level=500) for k, s in enumerate("tuv"))
    file = write(tmp_path / "a.grib", a, b, c)
    found = store(tmp_path, file, kind="grib", frequency="6h", variables=("v_500", "t_500"))
    assert found.variables == ("v_500", "t_500")
    np.testing.assert_array_equal(found.read(0)[0], [decoded(c), decoded(a)])


def test_south_to_north_fields_are_turned_into_the_order_of_the_first(tmp_path: Path) -> None:
    ends = {"latitudeOfFirstGridPointInDegrees": 45.0, "latitudeOfLastGridPointInDegrees": 50.0}
    flipped = {"jScansPositively": 1, **ends}
    values = field(1)
    down, up = surface(values, shortName="2t"), surface(values[::-1], shortName="msl", **flipped)
    found = store(tmp_path, write(tmp_path / "a.grib", down, up), kind="grib", frequency="6h").read(0)[0]
    np.testing.assert_allclose(found[0], found[1], rtol=0, atol=1e-6)


def test_constant_fields_are_given_once(tmp_path: Path) -> None:
    land = surface(np.abs(field(9)), shortName="lsm")
    heat = [surface(field(t), when, shortName="2t") for t, when in enumerate(DATES[:5])]
    found = store(tmp_path, write(tmp_path / "a.grib", land, *heat), kind="grib")
    assert found.constant_fields == ("lsm",)
    np.testing.assert_array_equal(found.read(4, ["lsm"])[0, 0], decoded(land))


def test_doubled_fields(tmp_path: Path) -> None:
    one = surface(field(1), shortName="2t")
    refused(tmp_path, one, one, reason="2t at 2020-02-27T00 occurs twice, in .*a.grib: keep one of them")


def test_a_variable_that_lacks_at_a_date(tmp_path: Path) -> None:
    heat = [surface(field(t), when, shortName="2t") for t, when in enumerate(DATES[:3])]
    pressure = [surface(field(t), when, shortName="msl") for t, when in enumerate(DATES[:3])]
    refused(tmp_path, *heat, pressure[0], pressure[2], reason=r"msl is missing at 2020-02-27T06 \(1 of 3 fields\)")


def test_other_grids(tmp_path: Path) -> None:
    moved = {"longitudeOfFirstGridPointInDegrees": -7.5, "longitudeOfLastGridPointInDegrees": 0.0}
    refused(tmp_path, surface(field(1), shortName="2t"), surface(field(2), shortName="msl", **moved),
            reason=r"msl at .* \(message 2\) lies on another grid \(12 points\) than 2t")  # fmt: skip


def test_truncated_and_foreign_files(tmp_path: Path) -> None:
    whole = [surface(field(t), when, shortName="2t") for t, when in enumerate(DATES[:3])]
    refused(tmp_path, *whole[:2], whole[2][:-40], reason="message at byte .* is corrupt or cut short")
    refused(tmp_path, whole[0], b"x" * 10, whole[1][:30], reason="corrupt or cut short")
    refused(tmp_path, b"CDF\x01" + bytes(200), reason="is no GRIB file")
    refused(tmp_path, b"", reason="is no GRIB file")


def test_names_that_are_not_there(tmp_path: Path) -> None:
    one = message(field(1), shortName="t", level=500)
    refused(tmp_path, one, reason="no t_850 in .*a.grib: found t_500", variables=("t_500", "t_850"))
    with pytest.raises(ForecastError, match="no file .*nothing.*grib"):
        open_source(section(tmp_path / "nothing*.grib", kind="grib"))


def test_headers_seen_in_their_bytes_are_those_of_eccodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both editions, members, levels, amounts from forecasts, and dates over the end of a century."""
    coded, when = b"", np.datetime64("1999-12-31T12", "s") + np.arange(4) * np.timedelta64(6, "h")
    for date in when:
        for sample in ("regular_ll_pl_grib1", "regular_ll_pl_grib2"):
            for level in (500, 850):
                coded += message(field(1), date, sample=sample, shortName="t", level=level)
        for hours in ("0-6", "0-12"):
            coded += message(field(2), date, sample="regular_ll_sfc_grib2", shortName="tp", stepType="accum",
                             stepRange=hours)  # fmt: skip
            coded += message(field(2), date, sample="regular_ll_sfc_grib1", shortName="tp", stepRange=hours)
        coded += message(field(3), date, shortName="t", level=500, stepRange="24", localDefinitionNumber=1, number=3)
    (tmp_path / "a.grib").write_bytes(coded)
    asked: list[int] = []
    header = grib._header
    monkeypatch.setattr(grib, "_header", lambda *args: (asked.append(args[2]), header(*args))[1])
    seen = grib.headers(tmp_path / "a.grib", {})
    assert len(asked) < len(seen) == 36
    monkeypatch.setattr(grib, "outline", lambda *_: None)
    assert seen == grib.headers(tmp_path / "a.grib", {})


@pytest.mark.parametrize("edition", [1, 2])
def test_a_message_whose_beginning_is_lost(edition: int, tmp_path: Path) -> None:
    sample = f"regular_ll_pl_grib{edition}"
    coded = [message(field(k), date, sample=sample, shortName="t", level=500) for k, date in enumerate(DATES[:3])]
    (tmp_path / "a.grib").write_bytes(coded[0] + b"GRIP" + coded[1][4:] + coded[2])
    with pytest.raises(ForecastError, match="a message behind byte .* is damaged, its beginning is lost"):
        store(tmp_path / "run", tmp_path / "a.grib", kind="grib")
