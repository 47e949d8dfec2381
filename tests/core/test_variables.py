"""The table of variables agrees with eccodes' own, and names of files are recognised."""

from __future__ import annotations

import eccodes
import pytest

from forecast.core import variables
from forecast.core.errors import ForecastError
from forecast.core.units import canonical
from forecast.core.variables import TABLE, Variable


@pytest.mark.parametrize("variable", TABLE, ids=lambda v: v.short)
def test_rows_agree_with_eccodes(variable: Variable) -> None:
    handle = eccodes.codes_grib_new_from_samples("regular_ll_sfc_grib1" if variable.param_id < 1000 else "GRIB2")
    eccodes.codes_set(handle, "paramId", variable.param_id)
    assert eccodes.codes_get(handle, "shortName") == variable.short
    assert canonical(eccodes.codes_get(handle, "units")) == canonical(variable.units)
    eccodes.codes_release(handle)


def test_no_name_means_two_variables() -> None:
    names = [name for v in TABLE for name in {variables._plain(n) for n in (v.short, v.long_name, *v.aliases)}]
    assert sorted(names) == sorted(set(names))
    assert len({v.param_id for v in TABLE}) == len({v.short for v in TABLE}) == len(TABLE)


@pytest.mark.parametrize(("name", "parts"), [("z_500", ("z", 500)), ("2t", ("2t", None)), ("10fg3", ("10fg3", None))])
def test_split_and_join(name: str, parts: tuple[str, int | None]) -> None:
    assert variables.split(name) == parts and variables.join(*parts) == name and variables.level_of(name) == parts[1]


@pytest.mark.parametrize(
    ("name", "found"),
    [("t2m", ("2t", None)), ("d2m", ("2d", None)), ("u10", ("10u", None)), ("v100", ("100v", None)),
     ("z500", ("z", 500)), ("Z_500", ("z", 500)), ("t850", ("t", 850)), ("msl", ("msl", None)), ("tp", ("tp", None)),
     ("prmsl", ("msl", None)), ("hgt", ("z", None)), ("2m_temperature", ("2t", None)), ("geopotential", ("z", None)),
     ("q1000", ("q", 1000)), ("mean_sea_level_pressure", ("msl", None)), ("fg10_3", ("10fg3", None))],
)  # fmt: skip
def test_names_in_files(name: str, found: tuple[str, int | None]) -> None:
    variable, level = variables.recognise(name) or pytest.fail(f"{name} not recognised")
    assert (variable.short, level) == found


def test_attributes_help_where_the_name_does_not() -> None:
    assert (variables.recognise("var167", long_name="2 metre temperature") or [None])[0] is variables.lookup("2t")
    assert (variables.recognise("p", standard_name="surface_air_pressure") or [None])[0] is variables.lookup("sp")
    assert (variables.recognise("foo", short_name="tp") or [None])[0] is variables.lookup("tp")
    assert variables.recognise("t2") is None  # 2 m temperature to some, never 2 hPa
    assert variables.recognise("lat2d") is None


def test_metadata_is_what_anemoi_reads() -> None:
    described = variables.metadata("z_500")
    assert described["mars"] == {"param": "z", "levtype": "pl", "levelist": 500}
    assert described["units"] == "m**2 s**-2" and described["standard_name"] == "geopotential"
    assert variables.metadata("tp")["process"] == "accumulation" and "process" not in variables.metadata("2t")
    assert variables.metadata("own", "kg", "my own")["units"] == "kg"


def test_bounds_and_statics() -> None:
    assert variables.minimum("q_850") == variables.minimum("tp") == 0 and variables.minimum("u_500") is None
    assert [n for n in ("z", "z_500", "lsm", "slt", "2t") if variables.is_static(n)] == ["z", "lsm", "slt"]


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(ForecastError, match="unknown variable `zz_500`: ERA5 short names"):
        variables.lookup("zz_500")
