"""Scores of the ensemble mean. For one member (a deterministic forecast) the mean is that member."""

from __future__ import annotations

import numpy as np
import xarray as xr

from forecast.verification.metric import Metric, Statistic

ERROR = Statistic("error", lambda m: m.mean_error)
ABSOLUTE_ERROR = Statistic("absolute_error", lambda m: np.abs(m.mean_error))
SQUARED_ERROR = Statistic("squared_error", lambda m: m.mean_error**2)
ANOMALY_PRODUCT = Statistic("anomaly_product", lambda m: m.forecast_anomaly * m.truth_anomaly, requires="climate")
FORECAST_ANOMALY_2 = Statistic("forecast_anomaly_2", lambda m: m.forecast_anomaly**2, requires="climate")
TRUTH_ANOMALY_2 = Statistic("truth_anomaly_2", lambda m: m.truth_anomaly**2, requires="climate")


class Bias(Metric):
    """Mean error of the ensemble mean, <x - y>."""

    name, title, better = "bias", "Bias", "none"
    statistics = (ERROR,)

    def value(self, *means: xr.DataArray) -> xr.DataArray:
        """<x - y>."""
        return means[0]


class MAE(Metric):
    """Mean absolute error of the ensemble mean, <|x - y|>."""

    name, title = "mae", "MAE of the ensemble mean"
    statistics = (ABSOLUTE_ERROR,)

    def value(self, *means: xr.DataArray) -> xr.DataArray:
        """<|x - y|>."""
        return means[0]


class RMSE(Metric):
    """Root-mean-square error of the ensemble mean, sqrt<(x - y)^2>: the root last."""

    name, title = "rmse", "RMSE of the ensemble mean"
    statistics = (SQUARED_ERROR,)

    def value(self, *means: xr.DataArray) -> xr.DataArray:
        """sqrt<(x - y)^2>."""
        return means[0] ** 0.5


class ACC(Metric):
    """Anomaly correlation of the ensemble mean, uncentred, against the climatology of the calendar day and hour.

    <f'o'> / sqrt(<f'^2> <o'^2>), starts inside the averages as in WeatherBench-X. NaN for a forecast without
    anomalies, such as climatology itself.
    """

    name, title, units, better = "acc", "ACC of the ensemble mean", "1", "high"
    statistics = (ANOMALY_PRODUCT, FORECAST_ANOMALY_2, TRUTH_ANOMALY_2)

    def value(self, *means: xr.DataArray) -> xr.DataArray:
        """<f'o'> / sqrt(<f'^2> <o'^2>)."""
        product, forecast, truth = means
        return product / (forecast * truth).where(forecast > 1e-12 * truth) ** 0.5
