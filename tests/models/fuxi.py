"""A small FuXi-ENS forecaster on a 8x16 Gaussian grid."""

from __future__ import annotations

from typing import Any

import torch

from forecast.core.model_sections import FuxiEnsSection
from forecast.core.sections import LossSection
from forecast.models.fields import Fields
from forecast.models.fuxi_forecaster import FuxiForecaster
from tests.models.small import fields as small_fields

SMALL: dict[str, Any] = {
    "kind": "fuxi_ens", "patch": (2, 2), "window": (2, 4), "width": 16, "heads": 2, "mlp_width": 24, "blocks": 2,
    "prior_layers": 1, "decoder_layers": 1, "last_step": 3, "prior_share": 0.5, "event_width": 8,
}  # fmt: skip
HARMONIC: dict[str, Any] = {"backbone": "harmonic", "truncation": 5, "filters": 3, "patch": (1, 1)}


def section(**changes: Any) -> FuxiEnsSection:
    return FuxiEnsSection.model_validate({**SMALL, **changes})


def fresh(loss: LossSection | None = None, fields: Fields | None = None, **changes: Any) -> FuxiForecaster:
    torch.manual_seed(0)
    return FuxiForecaster(section(**changes), fields or small_fields(), loss or LossSection())


def trained(loss: LossSection | None = None, fields: Fields | None = None, **changes: Any) -> FuxiForecaster:
    """A forecaster whose zero-initialised parts are random, as after training."""
    model = fresh(loss, fields, **changes)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    return model
