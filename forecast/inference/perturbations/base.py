"""What all perturbations share: who gets which departure with which sign, the control, physical bounds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forecast.core.store import Store
from forecast.core.variables import minimum


@dataclass(frozen=True)
class Members:
    """How members share departures.

    Attributes:
        control: member 0 starts from the analysis itself.
        paired: two members that follow each other share a departure with opposite signs, so that the mean of every
            pair, and of any even number of members, is the analysis: recentring that leaves member k what it is in
            an ensemble of another size.
    """

    control: bool = False
    paired: bool = True

    def place(self, member: int) -> tuple[int, int]:
        """(number of the departure, its sign: 1, -1, or 0 for the control)."""
        member -= self.control
        if member < 0:
            return 0, 0
        return (member // 2, 1 - 2 * (member % 2)) if self.paired else (member, 1)


class Departures(ABC):
    """Perturbations made of departures that are added to the analyses.

    Attributes:
        variables: (V,) what is read, in this order. error: (V,) analysis error of each, 0 for what stays as it is.
        members: who gets which.
    """

    def __init__(self, variables: Sequence[str], error: np.ndarray, members: Members) -> None:
        self.variables, self.error, self.members = tuple(variables), np.asarray(error, np.float64), members
        bounds = [minimum(name) for name in self.variables]
        self._lowest = np.array([-np.inf if bound is None else bound for bound in bounds], np.float32)[:, None]

    @property
    def stores(self) -> tuple[Store, ...]:
        """Where else it reads the dates of a start."""
        return ()

    def needs(self, start: np.datetime64) -> np.ndarray:
        """Dates (N,) whose analyses it reads itself."""
        return np.array([], "datetime64[s]")

    @abstractmethod
    def departure(self, states: np.ndarray, when: np.ndarray, start: np.datetime64, number: int) -> np.ndarray:
        """Departure `number` of a start, (V, G) for all dates alike or (T, V, G); see `perturb`."""

    def perturb(self, states: np.ndarray, when: np.ndarray, start: np.datetime64, members: Sequence[int]) -> np.ndarray:
        """(M, T, V, G) float32 from states (T, V, G) at dates (T,); a member's are a function of its number alone.

        A variable that the departure would carry below its physical minimum is cut off there.
        """
        out = np.repeat(states[None], len(members), axis=0)
        made: dict[int, np.ndarray] = {}
        for row, member in zip(out, members, strict=True):
            number, sign = self.members.place(member)
            if sign:
                if number not in made:
                    made = {number: self.departure(states, when, start, number)}
                row += (sign * made[number]).astype(np.float32)
                np.maximum(row, self._lowest, out=row)
        return out
