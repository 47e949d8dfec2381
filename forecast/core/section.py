"""What all sections of a configuration have in common."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict

from forecast.core.times import parse_time

Time = Annotated[np.datetime64, BeforeValidator(parse_time)]


class Section(BaseModel):
    """Base of all sections: frozen, no unknown keys, defaults validated as well."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True, validate_default=True)
