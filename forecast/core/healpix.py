"""HEALPix (Gorski et al. 2005): 12 n^2 pixels of equal area, in rings from north to south or nested in squares.

Each of the 12 base pixels is a face of n x n pixels, x towards the north-east and y towards the north-west.
"""

from __future__ import annotations

import numpy as np

RING = np.array([2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4])
"""how far each face's southernmost corner is from the north pole, in sides of a face"""
MERIDIAN = np.array([1, 3, 5, 7, 0, 2, 4, 6, 1, 3, 5, 7])
"""longitude of each face's centre, in units of 45 degrees"""


def positions(number: int, nested: bool) -> tuple[np.ndarray, np.ndarray]:
    """(12 n^2,) sines of latitude and longitudes (radians) of the pixel centres.

    Nested order needs a power of two.
    """
    face, y, x = _pixels(number, nested)
    return _place(face, (x + 0.5) / number, (y + 0.5) / number)


def corners(number: int, nested: bool) -> np.ndarray:
    """(12 n^2, 4, 3) unit vectors of the southern, eastern, northern and western corner of each pixel."""
    face, y, x = _pixels(number, nested)
    around = []
    for east, west in ((0, 0), (1, 0), (1, 1), (0, 1)):
        sines, longitudes = _place(face, (x + east) / number, (y + west) / number)
        cosines = np.sqrt(np.maximum(1.0 - sines**2, 0.0))
        around.append(np.stack([cosines * np.cos(longitudes), cosines * np.sin(longitudes), sines], axis=-1))
    return np.stack(around, axis=1)


def _pixels(number: int, nested: bool) -> np.ndarray:
    """(3, 12 n^2) face, y and x of each pixel, in order."""
    pixels = np.indices((12, number, number)).reshape(3, -1)
    face, y, x = pixels
    if nested:
        return pixels[:, np.argsort(_interleaved(face, x, y, number))]
    ring = RING[face] * number - x - y - 1
    pole = np.minimum(np.minimum(ring, 4 * number - ring), number)
    return pixels[:, np.lexsort(((MERIDIAN[face] + (x - y) / pole) % 8, ring))]


def _place(face: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sine of latitude and longitude of places in faces, 0 <= x, y <= 1."""
    ring = RING[face] - x - y
    pole = np.minimum(np.minimum(ring, 4.0 - ring), 1.0)
    cap = 1.0 - pole**2 / 3.0
    sines = np.where(ring < 1.0, cap, np.where(ring > 3.0, -cap, (2.0 - ring) * 2.0 / 3.0))
    return sines, (np.pi / 4) * (MERIDIAN[face] + (x - y) / np.maximum(pole, 1e-12)) % (2 * np.pi)


def _interleaved(face: np.ndarray, x: np.ndarray, y: np.ndarray, number: int) -> np.ndarray:
    """Nested index: the bits of x and y in turn, x the lower ones."""
    index = face.astype(np.int64) * number * number
    for bit in range(max(number - 1, 1).bit_length()):
        index = index + ((x >> bit & 1) << (2 * bit)) + ((y >> bit & 1) << (2 * bit + 1))
    return index
