"""Products of an ensemble: mean, spread, extremes, quantiles, probabilities of thresholds.

Written as `mean`, `spread`, `min`, `max`, `q10` (the 10 % quantile), `tp>0.001` (how probable more than 1 mm is).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from forecast.core.errors import ForecastError

Kind = Literal["mean", "spread", "min", "max", "quantile", "probability"]
POINTS = 8192
"""grid points whose members are worked upon at once"""


@dataclass(frozen=True)
class Product:
    """One field made of all members.

    Attributes:
        kind: what it is.
        value: the quantile's level in percent, or the threshold in the variable's units.
        variable: what a probability is of; other products are made of every variable.
        above: a probability of exceeding the threshold, else of falling below it.
    """

    kind: Kind
    value: float = 0.0
    variable: str = ""
    above: bool = True

    @property
    def name(self) -> str:
        """As users write it: `mean`, `q10`, `tp>0.001`."""
        if self.kind == "quantile":
            return f"q{self.value:g}"
        if self.kind == "probability":
            return f"{self.variable}{'>' if self.above else '<'}{self.value:g}"
        return self.kind

    def of(self, variable: str) -> bool:
        """Whether it is made of this variable."""
        return self.kind != "probability" or self.variable == variable

    def compute(self, members: np.ndarray) -> np.ndarray:
        """(M, G) -> (G,) float32; NaN where any member is. A probability lies in 0..1; the spread divides by M - 1."""
        out = np.empty(members.shape[1], np.float32)
        for first in range(0, out.size, POINTS):
            part = slice(first, first + POINTS)
            out[part] = self._compute(members[:, part].astype(np.float64))
        return out

    def _compute(self, x: np.ndarray) -> np.ndarray:
        if self.kind == "mean":
            return x.mean(axis=0)
        if self.kind == "spread":
            return x.std(axis=0, ddof=1)
        if self.kind == "quantile":
            return np.quantile(x, self.value / 100.0, axis=0)
        if self.kind == "probability":
            hits = x > self.value if self.above else x < self.value
            return np.where(np.isnan(x).any(axis=0), np.nan, hits.mean(axis=0))
        return x.min(axis=0) if self.kind == "min" else x.max(axis=0)


def parse(texts: Iterable[str], variables: Sequence[str], members: int) -> tuple[Product, ...]:
    """The products that `texts` name.

    Args:
        variables: that are there. members: of the ensemble.

    Raises:
        ForecastError: none of these products, a threshold of a variable that is not there, or a spread of one member.
    """
    found = tuple(_parse(text.strip()) for text in texts)
    for product in found:
        if product.variable and product.variable not in variables:
            raise ForecastError(f"{product.name}: no variable `{product.variable}`, only {', '.join(variables)}")
        if product.kind == "spread" and members < 2:
            raise ForecastError("a spread needs at least two members")
    return found


def _parse(text: str) -> Product:
    if text in ("mean", "spread", "min", "max"):
        return Product(text)  # type: ignore[arg-type]
    if (match := re.fullmatch(r"q(\d+(?:\.\d+)?)", text)) and float(match[1]) <= 100:
        return Product("quantile", float(match[1]))
    if match := re.fullmatch(r"(\w+)\s*([<>])\s*([-+.\deE]+)", text):
        try:
            return Product("probability", float(match[3]), match[1], match[2] == ">")
        except ValueError:
            pass
    raise ForecastError(f"`{text}` is no product: write mean, spread, min, max, q10 (a quantile in %) or tp>0.001")
