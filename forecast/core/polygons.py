"""Cells as spherical polygons, and the areas that polygons of two grids have in common."""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.spatial import SphericalVoronoi, cKDTree

from forecast.core import healpix
from forecast.core.cells import Boxes
from forecast.core.compiled import compiled
from forecast.core.grids import HEALPIX, Grid

MOST = 32
"""corners that a polygon can have while it is clipped"""


def corners(grid: Grid) -> np.ndarray:
    """(G, K, 3) unit vectors: the corners of each cell counter-clockwise, the last one repeated.

    Edges are arcs of great circles, also where those of boxes and HEALPix pixels are not.
    """
    if grid.boxes is not None:
        return _of_boxes(grid.boxes)
    pixel = HEALPIX.fullmatch(grid.name)
    if pixel:
        return healpix.corners(int(pixel[2]), pixel[1] == "N")
    cells = SphericalVoronoi(grid.xyz)
    cells.sort_vertices_of_regions()
    count = np.array([len(region) for region in cells.regions])
    flat = np.concatenate(cells.regions)
    place = np.minimum(np.arange(count.max()), count[:, None] - 1) + (np.cumsum(count) - count)[:, None]
    return _counter_clockwise(cells.vertices[flat[place]], grid.xyz)


def _of_boxes(boxes: Boxes) -> np.ndarray:
    low, high = np.sort(np.stack([boxes.bands[:-1], boxes.bands[1:]]), axis=0).repeat(np.diff(boxes.first), axis=1)
    west, east = (np.concatenate([row[part] for row in boxes.edges]) for part in (slice(None, -1), slice(1, None)))

    def at(sines: np.ndarray, longitudes: np.ndarray) -> np.ndarray:
        sines = np.clip(sines, -1.0, 1.0)
        cosines = np.sqrt(1.0 - sines**2)
        return np.stack([cosines * np.cos(longitudes), cosines * np.sin(longitudes), sines], axis=-1)

    return np.stack([at(low, west), at(low, east), at(high, east), at(high, west)], axis=1)


def _counter_clockwise(polygons: np.ndarray, centres: np.ndarray) -> np.ndarray:
    turn = np.einsum("gi,gi->g", np.cross(polygons[:, 0] - centres, polygons[:, 1] - centres), centres)
    return np.where((turn < 0)[:, None, None], polygons[:, ::-1], polygons)


def overlaps(source: Grid, target: Grid) -> sparse.csr_array:
    """(T, S) steradian that the polygons of each target and source cell have in common."""
    ours, theirs = corners(target), corners(source)
    middle, centre = _middles(ours), _middles(theirs)
    reach = np.linalg.norm(ours - middle[:, None], axis=-1).max(axis=1)
    far = np.linalg.norm(theirs - centre[:, None], axis=-1).max()
    tree = cKDTree(centre)
    parts = []
    for begin in range(0, target.size, 20_000):
        part = slice(begin, begin + 20_000)
        near = tree.query_ball_point(middle[part], reach[part] + far)
        count = np.fromiter(map(len, near), np.int64, len(near))
        t, s = np.repeat(np.arange(begin, begin + len(count)), count), np.concatenate(near).astype(np.int64)
        area = np.empty(t.size)
        common_areas(ours, theirs, t, s, area)
        held = area > 0
        parts.append((area[held], t[held], s[held]))
    values, t, s = (np.concatenate(part) for part in zip(*parts, strict=True))
    return sparse.csr_array((values, (t, s)), shape=(target.size, source.size))


def _middles(polygons: np.ndarray) -> np.ndarray:
    middle = polygons.mean(axis=1)
    return middle / np.linalg.norm(middle, axis=1, keepdims=True)


@compiled()
def common_areas(
    ours: np.ndarray, theirs: np.ndarray, targets: np.ndarray, sources: np.ndarray, areas: np.ndarray
) -> None:
    """Area of each pair (target, source), by cutting one polygon along the edges of the other (Sutherland-Hodgman)."""
    a, b, side = np.empty((MOST, 3)), np.empty((MOST, 3)), np.empty(MOST)
    for pair in range(targets.size):
        cutter, polygon = ours[targets[pair]], theirs[sources[pair]]
        count = polygon.shape[0]
        a[:count] = polygon
        for k in range(cutter.shape[0]):
            p, q = cutter[k], cutter[(k + 1) % cutter.shape[0]]
            nx, ny, nz = p[1] * q[2] - p[2] * q[1], p[2] * q[0] - p[0] * q[2], p[0] * q[1] - p[1] * q[0]
            if nx * nx + ny * ny + nz * nz < 1e-28:
                continue
            for i in range(count):
                side[i] = nx * a[i, 0] + ny * a[i, 1] + nz * a[i, 2]
            kept = 0
            for i in range(count):
                j = i + 1 if i + 1 < count else 0
                if side[i] >= 0:
                    b[kept] = a[i]
                    kept += 1
                if (side[i] > 0 and side[j] < 0) or (side[i] < 0 and side[j] > 0):
                    share = side[i] / (side[i] - side[j])
                    x = a[i, 0] + share * (a[j, 0] - a[i, 0])
                    y = a[i, 1] + share * (a[j, 1] - a[i, 1])
                    z = a[i, 2] + share * (a[j, 2] - a[i, 2])
                    length = np.sqrt(x * x + y * y + z * z)
                    b[kept, 0], b[kept, 1], b[kept, 2] = x / length, y / length, z / length
                    kept += 1
            count = kept
            a, b = b, a
            if count < 3:
                break
        areas[pair] = _area(a, count) if count >= 3 else 0.0


@compiled(kept=False)
def _area(a: np.ndarray, count: int) -> float:
    """Steradian of a polygon, as a fan of triangles from its first corner (Van Oosterom and Strackee 1983)."""
    total = 0.0
    for i in range(1, count - 1):
        ux, uy, uz = a[i, 0] - a[0, 0], a[i, 1] - a[0, 1], a[i, 2] - a[0, 2]
        vx, vy, vz = a[i + 1, 0] - a[0, 0], a[i + 1, 1] - a[0, 1], a[i + 1, 2] - a[0, 2]
        volume = a[0, 0] * (uy * vz - uz * vy) + a[0, 1] * (uz * vx - ux * vz) + a[0, 2] * (ux * vy - uy * vx)
        dots = 1.0
        for d in range(3):
            dots += a[0, d] * a[i, d] + a[i, d] * a[i + 1, d] + a[i + 1, d] * a[0, d]
        total += 2.0 * np.arctan2(volume, dots)
    return total
