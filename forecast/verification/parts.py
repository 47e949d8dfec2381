"""What a run of verification has finished: sums of some starts each, kept until the folder of scores is there.

Whoever gives the same command again goes on where it stopped; parts of other settings, forecasts or dates are thrown
away. Sums are kept to the last bit.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from forecast.core.errors import ForecastError
from forecast.verification.scorer import Missing
from forecast.verification.sums import Sums

Found = list[tuple[str, Missing]]


class Parts:
    """Parts in `folder` of what `about` describes."""

    def __init__(self, folder: Path, about: str) -> None:
        self.folder, key = folder, hashlib.blake2b(about.encode(), digest_size=16).hexdigest()
        try:
            if not (folder / key).is_file():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                (folder / key).touch()
        except OSError as error:
            raise ForecastError(f"{folder}: cannot write: {error.strerror}") from None

    def load(self, number: int, sums: Mapping[str, Sums], places: np.ndarray) -> Found | None:
        """Fill the slots of the starts at `places` in `sums`; None where the part is not there."""
        file = self.folder / f"{number}.npz"
        if not file.is_file():
            return None
        with np.load(file) as kept:
            for n, one in enumerate(sums.values()):
                for name, pair in one.arrays.items():
                    for k, array in enumerate(pair):
                        array[:, places] = kept[f"{n} {name} {k}"]
            return [(label, Missing(*numbers)) for label, *numbers in json.loads(str(kept["found"]))]

    def save(self, number: int, sums: Mapping[str, Sums], places: np.ndarray, found: Found) -> None:
        """Keep the slots of the starts at `places`."""
        arrays = {
            f"{n} {name} {k}": array[:, places]
            for n, one in enumerate(sums.values())
            for name, pair in one.arrays.items()
            for k, array in enumerate(pair)
        }
        draft = self.folder / f".{number}.{os.getpid()}.npz"
        try:
            np.savez(draft, allow_pickle=False, found=json.dumps([[label, *m] for label, m in found]), **arrays)
            draft.rename(self.folder / f"{number}.npz")
        except OSError as error:
            raise ForecastError(f"{self.folder}: cannot write: {error.strerror}; run again to go on") from None

    def remove(self) -> None:
        """All is done."""
        shutil.rmtree(self.folder, ignore_errors=True)
