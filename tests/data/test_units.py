"""Known units are converted as physics says, all others refused."""

from __future__ import annotations

import pytest

from forecast.core.errors import ForecastError
from forecast.core.units import canonical, conversion


@pytest.mark.parametrize(
    "spellings",
    [("m s**-1", "m s-1", "m/s", "m s^-1", "metres/s"), ("m**2 s**-2", "m2 s-2", "m^2/s^2", "m2/s2"), ("Pa", "pascal"),
     ("kg kg**-1", "kg/kg", "1", "(0 - 1)", "dimensionless"), ("K", "kelvin"), ("hPa", "millibars", "mbar", "mb")],
)  # fmt: skip
def test_spellings_of_one_unit(spellings: tuple[str, ...]) -> None:
    assert len({canonical(s) for s in spellings}) == 1


def test_different_units_stay_different() -> None:
    units = ["m", "m s-1", "m2 s-2", "Pa", "hPa", "K", "degC", "1", "%", "kg m-2", "J m-2", "W m-2", "s-1", "mm"]
    assert len({canonical(u) for u in units}) == len(units)


@pytest.mark.parametrize(
    ("name", "units", "value", "expected"),
    [("msl", "hPa", 1013.25, 101325.0), ("2t", "degC", -40.0, 233.15), ("z_500", "gpm", 5500.0, 53936.575),
     ("z", "m", 100.0, 980.665), ("z_500", "m**2 s**-2", 5.0, 5.0), ("tp", "mm", 2.5, 0.0025),
     ("tp", "kg m**-2", 2.5, 0.0025), ("q_700", "g/kg", 8.0, 0.008), ("lsm", "%", 30.0, 0.3), ("r_850", "1", 0.5, 50.0),
     ("own", "furlong", 3.0, 3.0)],
)  # fmt: skip
def test_conversions(name: str, units: str, value: float, expected: float) -> None:
    factor, offset = conversion(name, units)
    assert value * factor + offset == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("name", "units"), [("msl", "K"), ("2t", "m"), ("tcwv", "mm s-1"), ("ssrd", "W m-2")])
def test_what_is_not_known_is_refused(name: str, units: str) -> None:
    with pytest.raises(ForecastError, match=f"{name} is in `{units}`, which cannot be converted to"):
        conversion(name, units)
