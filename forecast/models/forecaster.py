"""Forecasters by the kind that a config names."""

from __future__ import annotations

from forecast.core.errors import ForecastError
from forecast.core.model_sections import ModelSection
from forecast.core.sections import LossSection
from forecast.models.base import Forecaster
from forecast.models.fields import Fields
from forecast.models.fuxi_forecaster import FuxiForecaster
from forecast.models.graph_forecaster import GraphForecaster

__all__ = ["Forecaster", "build"]

FORECASTERS: dict[str, type[Forecaster]] = {"graph_transformer": GraphForecaster, "fuxi_ens": FuxiForecaster}


def build(section: ModelSection, fields: Fields, loss: LossSection | None = None) -> Forecaster:
    """A fresh forecaster; its weights come from torch's global generator.

    Raises:
        ForecastError: statistics missing, or a graph that the grid cannot fill.
    """
    if section.kind not in FORECASTERS:
        raise ForecastError(f"model.kind={section.kind}: this version builds {', '.join(FORECASTERS)}")
    return FORECASTERS[section.kind](section, fields, loss or LossSection())
