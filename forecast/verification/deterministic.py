"""Scores of the ensemble mean. For one member (a deterministic forecast) the mean is that member."""

from __future__ import annotations

import numpy as np
import xarray as xr

from forecast.verification.metric import Mean, Metric, Root, Statistic

ERROR = Statistic("error", lambda m: m.mean_error)
ABSOLUTE_ERROR = Statistic("absolute_error", lambda m: np.abs(m.mean_error))
SQUARED_ERROR = Statistic("squared_error", lambda m: m.mean_error**2)
ANOMALY_PRODUCT = Statistic("anomaly_product", lambda m: m.forecast_anomaly * m.truth_anomaly, needs=("climate",))
FORECAST_ANOMALY_2 = Statistic("forecast_anomaly_2", lambda m: m.forecast_anomaly**2, needs=("climate",))
TRUTH_ANOMALY_2 = Statistic("truth_anomaly_2", lambda m: m.truth_anomaly**2, needs=("climate",))


class Bias(Mean):
    """Mean error of the ensemble mean, <x - y>."""

    name, title, better = "bias", "Bias", "none"
    reference = "Wilks 2019, Statistical Methods in the Atmospheric Sciences, 9.3"
    statistics = (ERROR,)


class MAE(Mean):
    """Mean absolute error of the ensemble mean, <|x - y|>."""

    name, title = "mae", "MAE of the ensemble mean"
    reference = "Wilks 2019, 9.3"
    statistics = (ABSOLUTE_ERROR,)


class RMSE(Root):
    """Root-mean-square error of the ensemble mean, sqrt<(x - y)^2>: the root last."""

    name, title = "rmse", "RMSE of the ensemble mean"
    reference = "Wilks 2019, 9.3; Rasp et al. 2024 (WeatherBench 2), doi:10.1029/2023MS004019"
    statistics = (SQUARED_ERROR,)


class ACC(Metric):
    """Anomaly correlation of the ensemble mean, uncentred, against the climatology of the calendar day and hour.

    <f'o'> / sqrt(<f'^2> <o'^2>), starts inside the averages as in WeatherBench-X. NaN for a forecast without
    anomalies, such as climatology itself.
    """

    name, title, units, better = "acc", "ACC of the ensemble mean", "1", "high"
    reference = "Wilks 2019, 9.5.2 (uncentred); WeatherBench-X"
    statistics = (ANOMALY_PRODUCT, FORECAST_ANOMALY_2, TRUTH_ANOMALY_2)

    def value(self, *means: xr.DataArray) -> xr.DataArray:
        """<f'o'> / sqrt(<f'^2> <o'^2>)."""
        product, forecast, truth = means
        return product / (forecast * truth).where(forecast > 1e-12 * truth) ** 0.5


class Activity(Root):
    """Activity of the ensemble mean: root of the mean squared anomaly. Falls as the mean gets smoother."""

    name, title, better = "activity", "Activity of the ensemble mean", "none"
    reference = "Ben Bouallegue et al. 2024, doi:10.1175/BAMS-D-23-0162.1"
    statistics = (FORECAST_ANOMALY_2,)


class TruthActivity(Root):
    """Activity of the truth at the same valid times."""

    name, title, better = "activity_truth", "Activity of the truth", "none"
    reference = Activity.reference
    statistics = (TRUTH_ANOMALY_2,)
