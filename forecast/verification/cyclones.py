"""Tropical cyclones in fields of any grid: centres, and tracks through time.

The criteria are those of TempestExtremes for tropical cyclones (Ullrich et al. 2021, doi:10.5194/gmd-14-5023-2021;
Zarzycki and Ullrich 2017, doi:10.1002/2016GL071606): a minimum of mean sea level pressure inside a closed contour 2 hPa
above it, a warm core as a closed contour of the thickness aloft, wind; centres are stitched to tracks by distance.
Added: the mean wind about the centre must turn cyclonically. Criteria of fields that are not there are left out. All
distances are great-circle ones, so nothing depends on a grid's shape or its edges in longitude; a cyclone that touches
the edge of a regional domain may seem closed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order
from scipy.spatial import cKDTree

from forecast.core.errors import ForecastError
from forecast.core.grids import Grid, unit_vectors

EARTH = 6371.0
"""km"""
UPPER, LOWER = ("z_300", "z_250", "z_200"), "z_500"
"""geopotentials between which the warm core is sought"""
NEIGHBOURS = 8
HOUR = np.timedelta64(3600, "s")


@dataclass(frozen=True)
class Criteria:
    """What makes a cyclone. Lengths in degrees of arc.

    Attributes:
        depth: Pa by which pressure rises all round within `radius`. latitude: farthest from the equator.
        merge: of centres nearer than this the deepest counts.
        core: m2 s-2 by which the thickness aloft falls all round within `core_radius`.
        wind: m/s that the wind near the centre reaches. near: what is near; two points of the grid at least.
        reach: farthest in 6 hours. gap: longest time without a centre. life: shortest time from first to last centre.
    """

    depth: float = 200.0
    radius: float = 5.5
    latitude: float = 50.0
    merge: float = 6.0
    core: float = 58.8
    core_radius: float = 6.5
    wind: float = 10.0
    near: float = 2.0
    reach: float = 8.0
    gap: np.timedelta64 = 24 * HOUR
    life: np.timedelta64 = 54 * HOUR


class Centre(NamedTuple):
    """Where a cyclone is (degrees, longitudes 0..360), its lowest pressure (Pa) and strongest wind (m/s, or NaN)."""

    latitude: float
    longitude: float
    pressure: float
    wind: float


Track = dict[np.datetime64, Centre]
"""Time -> centre, rising"""


class Finder:
    """Finds centres in the fields of one grid.

    Args:
        grid: of all fields. criteria: see there.

    Raises:
        ForecastError: a grid too coarse to hold a closed contour.
    """

    def __init__(self, grid: Grid, criteria: Criteria = Criteria()) -> None:  # noqa: B008
        self.grid, self.criteria = grid, criteria
        self._spacing = float(np.degrees(grid.spacing))
        if 2 * self._spacing > criteria.radius:
            raise ForecastError(
                f"{grid.name}: points lie {self._spacing:.1f} degrees apart, too far for cyclones {criteria.radius:g} "
                "degrees across: give fields of at most 2.7 degrees"
            )
        self._tree = cKDTree(grid.xyz)
        _, near = self._tree.query(grid.xyz, k=NEIGHBOURS + 1)
        self._neighbours = near[:, 1:]

    def centres(self, fields: Mapping[str, np.ndarray]) -> list[Centre]:
        """Centres, deepest first, of fields (G,): `msl`, and where they are there `10u`, `10v`, `z_500` and one of
        UPPER."""
        msl = np.asarray(fields["msl"], np.float64)
        around = msl[self._neighbours]
        lowest = (msl <= around.min(axis=1)) & (msl < around.max(axis=1))  # two points may be equally low
        lowest &= np.abs(self.grid.latitudes) <= self.criteria.latitude
        found: list[tuple[int, Centre]] = []
        for at in sorted(np.flatnonzero(lowest), key=lambda point: msl[point]):
            apart = [self._apart(int(at), other) for other, _ in found]
            if min(apart, default=np.inf) > self.criteria.merge and self._is_cyclone(fields, msl, int(at)):
                found.append((int(at), self._centre(fields, msl, int(at))))
        return [centre for _, centre in found]

    def _is_cyclone(self, fields: Mapping[str, np.ndarray], msl: np.ndarray, at: int) -> bool:
        wanted = self.criteria
        if not self._closed(msl, at, wanted.depth, wanted.radius):
            return False
        upper = next((name for name in UPPER if name in fields), None)
        if upper and LOWER in fields:
            thickness = np.asarray(fields[upper], np.float64) - fields[LOWER]
            near = self._within(at, max(1.0, 1.5 * self._spacing))
            warmest = int(near[thickness[near].argmax()])
            if not self._closed(-thickness, warmest, wanted.core, wanted.core_radius):
                return False
        if {"10u", "10v"} <= set(fields):
            speed, turning = self._winds(fields, at)
            return speed >= wanted.wind and turning > 0
        return True

    def _closed(self, values: np.ndarray, at: int, rise: float, radius: float) -> bool:
        """Whether every way from a point to beyond `radius` meets a value `rise` above the point's."""
        near = self._within(at, radius + 2 * self._spacing)
        place = np.full(self.grid.size, -1)
        place[near] = np.arange(near.size)
        low = values[near] < values[at] + rise
        ends = place[self._neighbours[near]]
        joined = (ends >= 0) & low[:, None] & low[np.maximum(ends, 0)]
        rows = np.broadcast_to(np.arange(near.size)[:, None], ends.shape)[joined]
        graph = csr_array((np.ones(rows.size), (rows, ends[joined])), shape=(near.size, near.size))
        reached = breadth_first_order(graph, place[at], directed=False, return_predecessors=False)
        return bool(np.degrees(self._arc(at, near[reached])).max() <= radius)

    def _winds(self, fields: Mapping[str, np.ndarray], at: int) -> tuple[float, float]:
        """Strongest wind near a point, and the mean wind about it, cyclonic positive."""
        near = self._within(at, max(self.criteria.near, 2 * self._spacing))
        near = near[near != at]
        u, v = (np.asarray(fields[name], np.float64)[near] for name in ("10u", "10v"))
        lat, lon = np.radians(self.grid.latitudes), np.radians(self.grid.longitudes)
        east = np.sin(lon[near] - lon[at]) * np.cos(lat[near])
        north = np.sin(lat[near]) * np.cos(lat[at]) - np.cos(lat[near]) * np.sin(lat[at]) * np.cos(lon[near] - lon[at])
        turning = (east * v - north * u) / np.maximum(np.hypot(east, north), 1e-12)
        return float(np.hypot(u, v).max()), float(turning.mean() * (1 if lat[at] >= 0 else -1))

    def _centre(self, fields: Mapping[str, np.ndarray], msl: np.ndarray, at: int) -> Centre:
        """Between grid points: the mean of the points near the lowest, weighted by how far they lie below the rim."""
        near = self._within(at, 2.2 * self._spacing)
        rim = msl[near[self._arc(at, near) > np.radians(1.2 * self._spacing)]].mean()
        weights = np.maximum(rim - msl[near], 0.0) * self.grid.areas[near]
        latitude, longitude = _position((weights[:, None] * self.grid.xyz[near]).sum(axis=0))
        wind = self._winds(fields, at)[0] if {"10u", "10v"} <= set(fields) else np.nan
        return Centre(latitude, longitude, float(msl[at]), wind)

    def _within(self, at: int, degrees: float) -> np.ndarray:
        chord = 2 * np.sin(np.radians(min(degrees, 180.0)) / 2)
        return np.sort(np.array(self._tree.query_ball_point(self.grid.xyz[at], chord), int))

    def _arc(self, at: int, others: np.ndarray) -> np.ndarray:
        return _angle(self.grid.xyz[at], self.grid.xyz[others])

    def _apart(self, a: int, b: int) -> float:
        return float(np.degrees(_angle(self.grid.xyz[a], self.grid.xyz[b])))


def stitch(
    times: Sequence[np.datetime64], found: Sequence[Sequence[Centre]], criteria: Criteria = Criteria()
) -> list[Track]:  # noqa: B008
    """Tracks through the centres at rising times; each centre belongs to one, the nearest pairs first."""
    tracks: list[Track] = []
    for when, centres in zip(times, found, strict=True):
        alive = [track for track in tracks if when - max(track) <= criteria.gap]
        pairs = [(distance(track[max(track)], centre), a, b)
                 for a, track in enumerate(alive) for b, centre in enumerate(centres)]  # fmt: skip
        taken: set[int] = set()
        moved: set[int] = set()
        for apart, a, b in sorted(pairs):
            if a in moved or b in taken or apart > _limit(when - max(alive[a]), criteria):
                continue
            alive[a][when] = centres[b]
            moved.add(a)
            taken.add(b)
        tracks += [{when: centre} for b, centre in enumerate(centres) if b not in taken]
    return [track for track in tracks if max(track) - min(track) >= criteria.life]


def follow(
    start: tuple[np.datetime64, Centre],
    times: Sequence[np.datetime64],
    found: Sequence[Sequence[Centre]],
    criteria: Criteria = Criteria(),  # noqa: B008
) -> Track:
    """A forecast's track of a cyclone whose centre at the start is known; it ends where no centre is in reach."""
    track: Track = {}
    last, centre = start
    for when, centres in zip(times, found, strict=True):
        if when - last > criteria.gap:
            break
        nearest = min(centres, key=lambda c: distance(centre, c), default=None)
        if nearest is not None and distance(centre, nearest) <= _limit(when - last, criteria):
            last, centre = when, nearest
            track[when] = nearest
    return track


def distance(a: Centre, b: Centre) -> float:
    """Great-circle distance in km."""
    return float(EARTH * _angle(unit_vectors(*_of(a)), unit_vectors(*_of(b))))


def mean_position(centres: Sequence[Centre]) -> Centre:
    """Where the mean of the positions lies, with the mean pressure and wind."""
    latitude, longitude = _position(unit_vectors(*np.array([c[:2] for c in centres]).T).sum(axis=0))
    return Centre(latitude, longitude, *np.mean([c[2:] for c in centres], axis=0).tolist())


def _of(centre: Centre) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(centre.latitude), np.asarray(centre.longitude)


def _limit(time: np.timedelta64, criteria: Criteria) -> float:
    """km that a cyclone may move in a time: `reach` in 6 hours, half as fast from there on."""
    hours = float(time / HOUR)
    return EARTH * float(np.radians(criteria.reach * (hours / 6 if hours <= 6 else (hours + 6) / 12)))


def _position(vector: np.ndarray) -> tuple[float, float]:
    x, y, z = vector / np.linalg.norm(vector)
    return float(np.degrees(np.arcsin(z))), float(np.degrees(np.arctan2(y, x)) % 360.0)


def _angle(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return 2 * np.arcsin(np.clip(np.linalg.norm(a - b, axis=-1) / 2, 0.0, 1.0))
