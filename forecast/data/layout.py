"""The plan of a store before a byte is written: axes, chunks, attributes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from forecast.core.times import format_duration

SMALL_STATE = 512 << 10
"""States up to this many bytes are one chunk; larger ones are cut, as measured (docs/data.md)."""
PARTS = 8
"""Pieces of the grid, each of which a rank can read alone."""
CHUNK_BYTES = 256 << 10
"""Variables share a chunk up to this size."""
INCIDENTAL = ("title", "made_by", "verified_by")
"""Attributes that may change without the store being another one."""


@dataclass(frozen=True, eq=False)
class Layout:
    """What a store will hold.

    Attributes:
        dates: (T,) datetime64[s], evenly spaced, missing ones included.
        variables: (V,) names.
        metadata: name -> what `core.variables.metadata` gives.
        latitudes, longitudes: (G,) degrees; field_shape: the shape of a field.
        frequency: time between dates.
        missing: (T,) bool, dates known to be missing; none if absent.
        constant: variables that the source gives once for all dates.
        members: size of the ensemble axis.
        dates_per_shard: dates that one slab, and one file, holds.
        variables_per_chunk, points_per_chunk: of an inner chunk; chosen by the size of a state if absent.
        compression, level: of Blosc, with byte shuffle; `none` for plain bytes.
        keep_bits: variable -> bits of the mantissa that are kept, rounded to nearest; all 23 for the rest.
        climatology: variables with a climatology of the calendar day and hour.
        tendencies: steps whose differences get statistics, multiples of the frequency.
        period: first and last date of the statistics; all dates if absent.
        allow_nan: missing values within fields are accepted.
        provenance: further attributes (title, source).
    """

    dates: np.ndarray
    variables: tuple[str, ...]
    metadata: dict[str, dict[str, Any]]
    latitudes: np.ndarray
    longitudes: np.ndarray
    field_shape: tuple[int, ...]
    frequency: np.timedelta64
    missing: np.ndarray | None = None
    constant: tuple[str, ...] = ()
    members: int = 1
    dates_per_shard: int = 64
    variables_per_chunk: int | None = None
    points_per_chunk: int | None = None
    compression: Literal["lz4", "zstd", "none"] = "lz4"
    level: int = 1
    keep_bits: dict[str, int] = field(default_factory=dict)
    climatology: tuple[str, ...] = ()
    tendencies: tuple[np.timedelta64, ...] = ()
    period: tuple[np.datetime64, np.datetime64] | None = None
    allow_nan: bool = False
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(T, V, members, G)."""
        return len(self.dates), len(self.variables), self.members, len(self.latitudes)

    @property
    def columns(self) -> int:
        """Points of a row of a rectilinear grid; all of them on others."""
        return self.field_shape[1] if len(self.field_shape) == 2 else len(self.latitudes)

    @property
    def slabs(self) -> list[slice]:
        """The dates of each slab, as positions on the time axis."""
        n = self.dates_per_shard
        return [slice(i, min(i + n, len(self.dates))) for i in range(0, len(self.dates), n)]

    @property
    def present(self) -> np.ndarray:
        """(T,) bool, dates with a state."""
        return np.ones(len(self.dates), bool) if self.missing is None else ~self.missing

    @property
    def counted(self) -> np.ndarray:
        """(T,) bool, dates that enter the statistics."""
        return self.present & self.in_period()

    def in_period(self, where: slice = slice(None)) -> np.ndarray:  # noqa: B008 (a slice is immutable)
        """(t,) bool, dates within the period of the statistics."""
        dates = self.dates[where]
        if self.period is None:
            return np.ones(len(dates), bool)
        return (dates >= self.period[0]) & (dates <= self.period[1])

    @property
    def strides(self) -> dict[str, int]:
        """Tendency step as text (`6h`, `1d`) -> how many dates it spans."""
        steps = {format_duration(s): int(s / self.frequency) for s in sorted({self.frequency, *self.tendencies})}
        return {name: n for name, n in steps.items() if n < len(self.dates)}

    def chunking(self) -> tuple[tuple[int, int, int, int], tuple[int, int, int, int]]:
        """Shapes of an inner chunk (one date and member) and of a shard (one slab), whole chunks in a shard."""
        _, v, members, g = self.shape
        points = min(g, self.points_per_chunk or (g if v * g * 4 <= SMALL_STATE else -(-g // PARTS)))
        share = v if points == g else max(1, CHUNK_BYTES // (4 * points))
        rows = min(v, self.variables_per_chunk or -(-v // -(-v // share)))  # cut evenly
        shard = (self.dates_per_shard, -(-v // rows) * rows, members, -(-g // points) * points)
        return (1, rows, 1, points), shard

    def attributes(self) -> dict[str, Any]:
        """The attributes of the store, those that anemoi knows under its names."""
        counted = self.dates[self.counted]
        iso = [str(d) for d in self.dates]
        return {
            "version": "0.22",
            "layout": "gridded",
            "variables": list(self.variables),
            "variables_metadata": self.metadata,
            "dimensions": ["dates", "variables", "ensembles", "values"],
            "dtype": "float32",
            "shape": list(self.shape),
            "start_date": iso[0],
            "end_date": iso[-1],
            "frequency": format_duration(self.frequency),
            "missing_dates": [iso[i] for i in np.flatnonzero(~self.present)],
            "statistics_start_date": str(counted[0]),
            "statistics_end_date": str(counted[-1]),
            "field_shape": list(self.field_shape),
            "resolution": None,
            "allow_nans": self.allow_nan,
            **({"kept_mantissa_bits": self.keep_bits} if self.keep_bits else {}),
            **self.provenance,
        }

    def fingerprint(self) -> str:
        """A hash of all of this but for `INCIDENTAL` attributes: the same for stores of the same data."""
        telling = {key: value for key, value in self.attributes().items() if key not in INCIDENTAL}
        return self._hash([telling, self.dates_per_shard, self.strides, *self._storage()], self.dates)

    def slab_key(self, slab: int, stamp: str = "") -> str:
        """A hash of all that the bytes and moments of one slab depend on; `stamp` tells the state of its source."""
        where = self.slabs[slab]
        flags = [self.present[where].tolist(), self.in_period(where).tolist()]
        what = [self.variables, self.constant, self.members, self.allow_nan, self.dates_per_shard, self.strides]
        units = [self.metadata[name].get("units") for name in self.variables]
        return self._hash([what, units, flags, stamp, *self._storage()], self.dates[where])

    def _storage(self) -> list[Any]:
        """What of the storage is not as it always was, so that stores of before keep their fingerprint."""
        usual = (self.compression, self.level, self.keep_bits, self.climatology) == ("lz4", 1, {}, ())
        plain = [] if usual else [self.compression, self.level, self.keep_bits, self.climatology]
        chosen = self.variables_per_chunk or self.points_per_chunk
        return plain + ([self.variables_per_chunk, self.points_per_chunk] if chosen else [])

    def _hash(self, telling: Any, dates: np.ndarray) -> str:
        digest = hashlib.blake2b(json.dumps(telling, sort_keys=True).encode(), digest_size=16)
        for array in (dates.astype("int64"), self.latitudes, self.longitudes):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()
