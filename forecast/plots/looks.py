"""How a variable is drawn: the units that forecasters read, colours that colour-blind readers tell apart, isolines."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import BoundaryNorm, Colormap, ListedColormap
from matplotlib.ticker import MaxNLocator

from forecast.core.variables import find, split
from forecast.outputs.products import Product

RAIN = (0.5, 1, 2, 4, 7, 10, 15, 20, 30, 40, 50, 75, 100)
PERCENT = (5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95)
KELVIN = 273.15


Scale = tuple[Colormap, BoundaryNorm, str]
"""Colour map, boundaries, and at which ends the colours go on (matplotlib's `extend`)"""


@dataclass(frozen=True)
class Look:
    """Looks of a variable.

    Attributes:
        unit, factor, offset: shown = SI * factor + offset.
        colours: of values that do not change their sign, or of steps.
        diverging: colours about `middle`, where values lie on both sides of it.
        steps: fixed boundaries of the colours; what is below the first stays white.
        isoline: distance of isolines, 0 for none. centres: mark highs and lows.
    """

    unit: str
    factor: float = 1.0
    offset: float = 0.0
    colours: str = "viridis"
    diverging: str = ""
    middle: float = 0.0
    steps: tuple[float, ...] = ()
    isoline: float = 0.0
    centres: bool = False

    def shown(self, values: np.ndarray) -> np.ndarray:
        """Values in `unit`."""
        return values * self.factor + self.offset

    def scale(self, values: np.ndarray) -> Scale:
        """Colours for shown values: fixed steps, or round boundaries about the middle 99 % of them."""
        if self.steps:
            return _stepped(self.colours, self.steps)
        finite = values[np.isfinite(values)]
        low, high = np.percentile(finite, (0.5, 99.5)) if finite.size else (0.0, 1.0)
        if high - low < 1e-12 * max(abs(high), 1.0):
            low, high = low - 0.5, high + 0.5
        bounds = np.asarray(MaxNLocator(14, steps=[1, 2, 2.5, 4, 5, 10]).tick_values(low, high))
        if self.isoline:  # colours change where isolines run
            step = self.isoline * max(1, np.ceil((high - low) / (14 * self.isoline)))
            bounds = np.arange(np.floor(low / step), np.ceil(high / step) + 1) * step
        both = min(high - self.middle, self.middle - low) > 0.12 * (high - low)
        if self.diverging and both:
            reach = np.abs(bounds - self.middle).max()
            share = 0.5 + 0.5 * ((bounds[1:] + bounds[:-1]) / 2 - self.middle) / reach
            return _listed(matplotlib.colormaps[self.diverging], share, bounds)
        share = np.linspace(0.02, 0.98, len(bounds) - 1)
        return _listed(matplotlib.colormaps[self.colours], share, bounds)


_TEMPERATURE = Look("°C", 1.0, -KELVIN, "cividis", "RdYlBu_r")
_WIND = Look("m s⁻¹", colours="viridis", diverging="PuOr_r")
_RAIN = Look("mm", 1e3, colours="YlGnBu", steps=RAIN)
_PRESSURE = Look("hPa", 1e-2, colours="PuOr_r", diverging="PuOr_r", middle=1013.0, isoline=4.0, centres=True)
_SPEED = Look("m s⁻¹", colours="YlGnBu")
LOOKS = {
    "z": Look("dam", 1 / 98.0665, colours="RdYlBu_r", isoline=8.0),
    "t": _TEMPERATURE, "2t": _TEMPERATURE, "2d": _TEMPERATURE, "skt": _TEMPERATURE, "sst": _TEMPERATURE,
    "mx2t": _TEMPERATURE, "mn2t": _TEMPERATURE,
    "u": _WIND, "v": _WIND, "10u": _WIND, "10v": _WIND, "100u": _WIND, "100v": _WIND,
    "ws": _SPEED, "10si": _SPEED, "10fg": _SPEED, "100si": _SPEED,
    "w": Look("Pa s⁻¹", diverging="PuOr"), "vo": Look("10⁻⁵ s⁻¹", 1e5, diverging="PuOr_r"),
    "d": Look("10⁻⁵ s⁻¹", 1e5, diverging="PuOr_r"),
    "q": Look("g kg⁻¹", 1e3, colours="YlGnBu"), "r": Look("%", colours="YlGnBu"),
    "tp": _RAIN, "cp": _RAIN, "lsp": _RAIN, "sf": _RAIN,
    "msl": _PRESSURE, "sp": replace(_PRESSURE, centres=False, isoline=0.0, colours="viridis", diverging=""),
    "tcc": Look("%", 100.0, colours="Greys"), "tcwv": Look("kg m⁻²", colours="YlGnBu"),
    "lsm": Look("1", colours="YlGn"),
}  # fmt: skip
_PLAIN = {"m**2 s**-2": "m² s⁻²", "m s**-1": "m s⁻¹", "kg kg**-1": "kg kg⁻¹", "kg m**-2": "kg m⁻²", "J m**-2": "J m⁻²"}
_LONG = {"ws": "Wind speed", "10si": "10 metre wind speed", "100si": "100 metre wind speed", "z": "Geopotential height"}


def look(name: str) -> Look:
    """Looks of a variable with or without a level; plain ones where no others are known."""
    short = split(name)[0]
    if short in LOOKS:
        return LOOKS[short]
    row = find(name)
    unit = row.units if row else ""
    return Look(_PLAIN.get(unit, unit))


def product_look(name: str, product: Product | None) -> Look:
    """Looks of a product: a member's, a quantile's and an extreme's are those of the variable."""
    plain = look(name)
    if product is not None and product.kind == "spread":
        return Look("K" if plain.offset else plain.unit, plain.factor, colours="YlOrRd")
    if product is not None and product.kind == "probability":
        return Look("%", 100.0, colours="GnBu", steps=PERCENT)
    return plain


def long_name(name: str) -> str:
    """`Geopotential height at 500 hPa`."""
    short, level = split(name)
    row = find(name)
    text = _LONG.get(short) or (row.long_name if row else name)
    return text if level is None or (row is None and short not in _LONG) else f"{text} at {level} hPa"


def said(name: str, product: Product) -> str:
    """`ensemble mean`, `90 % quantile`, `probability > 1 mm`."""
    if product.kind == "quantile":
        return f"{product.value:g} % quantile"
    if product.kind == "probability":
        plain = look(name)
        sign = ">" if product.above else "<"
        return f"probability {sign} {float(plain.shown(np.array(product.value))):.4g} {plain.unit}"
    return {"mean": "ensemble mean", "spread": "ensemble spread", "min": "lowest member", "max": "highest member"}[
        product.kind
    ]


def _stepped(colours: str, steps: tuple[float, ...]) -> Scale:
    """Colours of fixed steps: white below the first, on to violet above the last."""
    base = matplotlib.colormaps[colours](np.linspace(0.12, 0.98, len(steps) - 1))
    listed = ListedColormap(base).with_extremes(under="white", over="#4a1466", bad="#dddddd")
    return listed, BoundaryNorm(steps, len(steps) - 1), "both"


def _listed(colours: Colormap, share: np.ndarray, bounds: np.ndarray) -> Scale:
    ends: dict[str, Any] = {"under": colours(float(share[0])), "over": colours(float(share[-1])), "bad": "#dddddd"}
    listed = ListedColormap(colours(share)).with_extremes(**ends)
    return listed, BoundaryNorm(bounds, len(bounds) - 1), "both"
