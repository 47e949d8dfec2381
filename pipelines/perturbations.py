"""Where the members of a learnt ensemble start: the perturbations of a config, for the system that it makes."""

from __future__ import annotations

from typing import Any

import numpy as np

from forecast.core.config import Config
from forecast.core.errors import ForecastError
from forecast.core.sections import PerturbationSection
from forecast.core.store import Store
from forecast.inference.perturbations import error
from forecast.inference.perturbations.analyses import Ensemble
from forecast.inference.perturbations.base import Members
from forecast.inference.perturbations.dynamic import Bred, Lagged
from forecast.inference.perturbations.random import Correlated, Gaussian
from forecast.inference.system import LearntSystem
from forecast.inference.system import Perturbations as Kind
from forecast.planet.ensemble import Perturbations


def build(config: Config, system: LearntSystem) -> Kind | None:
    """The perturbations of `forecast.perturbation`, or none.

    Raises:
        ForecastError: what the stores or the source do not allow.
    """
    section = config.forecast.perturbation
    if section.kind == "none":
        return None
    if section.kind == "analysis-error":
        return Perturbations(truncation(config, "forecast.perturbation=analysis-error"), config.seed)
    fields, grid = system.fields, system.grid
    size = section.scale * _error(config, system.analysis, fields.variables)
    size[len(fields.prognostic) :] = 0  # what is not fed back is not read
    about = (fields.variables, size, Members(section.control, section.recentred))
    if section.kind == "ensemble":
        store = Store.open(config.path(section.ensemble)) if section.ensemble else system.analysis
        return Ensemble(fields.variables, size, store, section.scale, section.control, section.recentred)
    if section.kind == "gaussian":
        return Gaussian(*about, config.seed)
    if section.kind == "lagged":
        return Lagged(*about, system, fields.input_steps, section.lags, config.seed)
    correlated = Correlated(*about, config.seed, grid.latitudes, grid.longitudes, section.length)
    return correlated if section.kind == "correlated" else Bred(correlated, system, fields.input_steps, section.cycles)


def described(section: PerturbationSection) -> str | dict[str, Any]:
    """What a forecast store says of its perturbations: the kind, and what is not as usual."""
    changed = section.model_dump(mode="json", exclude_defaults=True)
    return section.kind if set(changed) <= {"kind"} else changed


def truncation(config: Config, what: str) -> int:
    """Of the sample planet, which `what` needs."""
    if config.source.kind != "planet":
        raise ForecastError(f"{what} needs the sample planet, but source.kind is {config.source.kind}: leave it out")
    return config.source.truncation


def _error(config: Config, analysis: Store, variables: tuple[str, ...]) -> np.ndarray:
    """(V,) analysis error of variables."""
    given, section = config.forecast.perturbation.error, config.forecast.perturbation
    ensemble = Store.open(config.path(section.ensemble)) if section.ensemble else analysis
    truth = config.path(config.store.path)
    if isinstance(given, dict):
        if unknown := set(given) - set(variables):
            raise ForecastError(f"forecast.perturbation.error names `{min(unknown)}`, which is not forecast")
        return np.array([given.get(name, 0.0) for name in variables])
    if given == "ensemble" or (given == "auto" and ensemble.ensemble > 1):
        return error.of_ensemble(ensemble, variables)
    if given == "truth" or (given == "auto" and config.store.analysis and truth.exists() and analysis.path != truth):
        return error.against_truth(analysis, Store.open(truth), variables)
    return error.of_tendencies(analysis, variables)
