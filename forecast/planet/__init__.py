"""The sample planet: a small three-level atmosphere model, so that everything runs with no download.

`archive(source)` makes truth and analyses, `PhysicsSystem` the reference ensembles, `Perturbations` the initial
states of an ensemble; `variables` and `grid` say what the fields are and where (units: fields.py).
"""

from forecast.planet.ensemble import Perturbations, PhysicsSystem
from forecast.planet.fields import STATIC as static
from forecast.planet.fields import VARIABLES as variables
from forecast.planet.model import grid
from forecast.planet.years import archive, dates

__all__ = ["Perturbations", "PhysicsSystem", "archive", "dates", "grid", "static", "variables"]
