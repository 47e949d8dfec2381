"""Numbers of the sample planet, and the two sets of physics that the reference ensembles run with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forecast.core.errors import ForecastError

RADIUS = 6.371e6
"""m"""
ROTATION = 7.292e-5
"""1/s"""
GRAVITY = 9.80665
"""m s-2"""
GAS_CONSTANT = 287.05
"""of dry air, J kg-1 K-1"""
DAY = 86400.0
LEVELS = (200, 500, 800)
"""hPa"""
ROSSBY_RADII = (700e3, 450e3)
"""m, of the layers 200-500 and 500-800 hPa (Marshall and Molteni 1993)"""
OUTPUT_STEP = np.timedelta64(6, "h")
ROWS = {21: 32, 31: 48}
"""truncation -> rows of its Gaussian grid"""
STEPS_PER_OUTPUT = {21: 2, 31: 3}
"""truncation -> Runge-Kutta steps in 6 hours"""

MEAN_GEOPOTENTIAL = (115_700.0, 54_600.0, 19_100.0)
"""global mean on the three levels, m2 s-2: the standard atmosphere's"""
LAPSE_RATE = 6.5e-3
"""K m-1, below 500 hPa"""


@dataclass(frozen=True)
class Settings:
    """Strengths of the physics, as multiples of the planet's own (`perfect`).

    Attributes:
        drag: Ekman drag coefficient.
        relaxation: rate of thermal relaxation.
        orography: height of the ground in the lowest level's potential vorticity.
        diffusion: coefficient of the scale-selective diffusion.
    """

    name: str
    drag: float = 1.0
    relaxation: float = 1.0
    orography: float = 1.0
    diffusion: float = 1.0


PERFECT = Settings("perfect")
IMPERFECT = Settings("imperfect", drag=0.7, relaxation=1.3, orography=0.8, diffusion=2.0)


def settings(name: str) -> Settings:
    """`perfect` or `imperfect`; anything else is a ForecastError."""
    known = {s.name: s for s in (PERFECT, IMPERFECT)}
    if name not in known:
        raise ForecastError(f"no physics settings `{name}`: the sample planet has {' and '.join(known)}")
    return known[name]
