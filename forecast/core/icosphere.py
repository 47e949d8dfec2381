"""Icosahedral meshes: an icosahedron whose triangles are parted into four again and again."""

from __future__ import annotations

from itertools import combinations

import numpy as np


def icosphere(refinement: int) -> list[np.ndarray]:
    """Nodes of the icosahedral meshes of refinement 0..r, each a (10 * 4^r + 2, 3) array of unit vectors.

    A finer mesh begins with the nodes of the coarser one and adds the middles of its edges.
    """
    golden = (1 + 5**0.5) / 2
    corners = [(0, a, b * golden) for a in (-1, 1) for b in (-1, 1)]
    nodes = np.array([np.roll(corner, k) for k in range(3) for corner in corners]) / np.hypot(1, golden)
    distance = np.linalg.norm(nodes[:, None] - nodes[None], axis=-1)
    near = np.isclose(distance, distance[distance > 1e-9].min())
    faces = np.array([f for f in combinations(range(12), 3) if all(near[i, j] for i, j in combinations(f, 2))])
    levels = [nodes]
    for _ in range(refinement):
        nodes, faces = _refine(nodes, faces)
        levels.append(nodes)
    return levels


def _refine(nodes: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each triangle becomes four."""
    edges = np.sort(np.stack([faces, np.roll(faces, -1, axis=1)], axis=-1), axis=-1)
    unique, inverse = np.unique(edges.reshape(-1, 2), axis=0, return_inverse=True)
    middles = nodes[unique].sum(axis=1)
    middles /= np.linalg.norm(middles, axis=1, keepdims=True)
    a, b, c = faces.T
    ab, bc, ca = (inverse.reshape(-1, 3) + len(nodes)).T
    faces = np.concatenate([np.stack(f, axis=1) for f in ((a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca))])
    return np.concatenate([nodes, middles]), faces


def locality(points: np.ndarray) -> np.ndarray:
    """(N,) order of (N, 3) unit vectors along a Morton curve: neighbours in space are mostly neighbours in memory."""
    cells = np.floor((points + 1.0) * 511.37).astype(np.int64)  # 10 bits an axis, edges off the planes of symmetry
    bits = cells[:, None, :] >> np.arange(10)[:, None] & 1
    return np.argsort((bits << (3 * np.arange(10)[:, None] + np.arange(3))).sum(axis=(1, 2)), kind="stable")
