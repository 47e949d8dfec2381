"""HEALPix (Gorski et al. 2005): 12 n^2 pixels of equal area, in rings from north to south or nested in squares.

Each of the 12 base pixels is a face of n x n pixels, x towards the north-east and y towards the north-west.
"""

from __future__ import annotations

import numpy as np

RING = np.array([2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4])
"""ring of each face's southernmost corner, in units of n"""
MERIDIAN = np.array([1, 3, 5, 7, 0, 2, 4, 6, 1, 3, 5, 7])
"""longitude of each face's centre, in units of 45 degrees"""


def positions(number: int, nested: bool) -> tuple[np.ndarray, np.ndarray]:
    """(12 n^2,) sines of latitude and longitudes (radians) of the pixel centres.

    Nested order needs a power of two.
    """
    face, y, x = (axis.ravel() for axis in np.indices((12, number, number)))
    ring = RING[face] * number - x - y - 1
    pole = np.minimum(np.minimum(ring, 4 * number - ring), number)
    cap = 1.0 - pole**2 / (3.0 * number**2)
    sines = np.where(ring < number, cap, np.where(ring > 3 * number, -cap, (2 * number - ring) * 2.0 / (3.0 * number)))
    longitudes = (np.pi / 4) * (MERIDIAN[face] + (x - y) / pole) % (2 * np.pi)
    order = np.argsort(_interleaved(face, x, y, number)) if nested else np.lexsort((longitudes, ring))
    return sines[order], longitudes[order]


def pixels(number: int, sines: np.ndarray, longitudes: np.ndarray, nested: bool) -> np.ndarray:
    """(K,) index of the pixel that holds each position (sine of latitude, radians)."""
    turn = (longitudes / (np.pi / 2)) % 4.0
    quarter = np.minimum(turn.astype(np.int64), 3)
    part = turn - quarter
    rising, falling = 0.5 + turn - 0.75 * sines, 0.5 + turn + 0.75 * sines
    north, east = np.floor(rising).astype(np.int64), np.floor(falling).astype(np.int64)
    belt = np.where(north == east, north % 4 + 4, np.where(north < east, north % 4, east % 4 + 8))
    span = np.sqrt(3.0 * np.maximum(1.0 - np.abs(sines), 0.0))
    towards, away = part * span, (1.0 - part) * span
    in_belt, northern = np.abs(sines) <= 2.0 / 3.0, sines > 0
    face = np.where(in_belt, belt, np.where(northern, quarter, quarter + 8))
    x = np.where(in_belt, falling - east, np.where(northern, 1.0 - away, towards))
    y = np.where(in_belt, 1.0 - (rising - north), np.where(northern, 1.0 - towards, away))
    x, y = (np.clip((axis * number).astype(np.int64), 0, number - 1) for axis in (x, y))
    index = _interleaved(face, x, y, number)
    return index if nested else _to_ring(number)[(face * number + y) * number + x]


def _to_ring(number: int) -> np.ndarray:
    """Index in rings of each pixel counted by face, y and x."""
    face, y, x = (axis.ravel() for axis in np.indices((12, number, number)))
    ring = RING[face] * number - x - y - 1
    pole = np.minimum(np.minimum(ring, 4 * number - ring), number)
    order = np.lexsort(((MERIDIAN[face] + (x - y) / pole) % 8, ring))
    rank = np.empty(order.size, np.int64)
    rank[order] = np.arange(order.size)
    return rank


def _interleaved(face: np.ndarray, x: np.ndarray, y: np.ndarray, number: int) -> np.ndarray:
    """Nested index: the bits of x and y in turn, x the lower ones."""
    index = face.astype(np.int64) * number * number
    for bit in range(max(number - 1, 1).bit_length()):
        index = index + ((x >> bit & 1) << (2 * bit)) + ((y >> bit & 1) << (2 * bit + 1))
    return index
