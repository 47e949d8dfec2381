"""Coastlines of the Earth that ship with the package: Natural Earth 1:110m land (public domain), from the npm package
world-atlas 2.0.2 (ISC licence), in hundredths of a degree; `scripts/make_coastlines.py` makes the file.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np


@cache
def coastlines() -> tuple[np.ndarray, ...]:
    """Closed lines, each (n, 2) of longitude in -180..180 and latitude, degrees."""
    packed = json.loads((Path(__file__).parent / "coastlines.json").read_text())["lines"]
    return tuple(np.array(line, float).reshape(-1, 2) / 100 for line in packed)
