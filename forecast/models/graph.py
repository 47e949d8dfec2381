"""Graphs of the forecaster: icosahedral mesh, nearest-neighbour edges between grid and mesh, edge features.

Every target node has the same number of incoming edges, so an edge list (2, targets * K) is also a table
(targets, K) of sources, and attention needs no scatter.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor
from torch_geometric.data import HeteroData

from forecast.core.errors import ForecastError
from forecast.core.grids import unit_vectors
from forecast.core.model_sections import GraphTransformerSection

ENCODER = ("grid", "encode", "mesh")
PROCESSOR = ("mesh", "process", "mesh")
DECODER = ("mesh", "decode", "grid")


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


def nearest(sources: np.ndarray, targets: np.ndarray, neighbours: int) -> np.ndarray:
    """(targets, K) indices of the K nearest sources of each target, nearest first; ties go to the lower index.

    Args:
        sources: (S, 3) unit vectors. targets: (N, 3) unit vectors.

    Raises:
        ForecastError: fewer sources than neighbours.
    """
    if neighbours > len(sources):
        raise ForecastError(f"graph: {neighbours} neighbours asked for, but there are only {len(sources)} nodes")
    spare = min(neighbours + 8, len(sources))
    distance, index = cKDTree(sources).query(targets, k=spare)
    distance, index = distance.reshape(len(targets), spare), index.reshape(len(targets), spare)
    order = np.lexsort((index, distance.round(9)), axis=-1)[:, :neighbours]
    return np.take_along_axis(index, order, axis=1)


def multiscale(levels: list[np.ndarray], neighbours: int, coarse: int) -> np.ndarray:
    """(N, K) sources of each node of the finest mesh: its nearest nodes, itself first, and some of every coarser level.

    Long edges lead to the nodes of coarse levels only, so that far places are a few hops apart. None is chosen twice;
    a level so coarse that its nodes are neighbours already adds none.
    """
    finest = levels[-1]
    chosen = nearest(finest, finest, min(neighbours, len(finest)))
    for level in reversed(levels[:-1]):
        candidates = nearest(level, finest, min(coarse + chosen.shape[1], len(level)))
        taken = (candidates[:, :, None] == chosen[:, None, :]).any(axis=-1)
        order = np.argsort(taken, axis=1, kind="stable")[:, :coarse]
        if order.shape[1] == coarse and not np.take_along_axis(taken, order, axis=1).any():
            chosen = np.concatenate([chosen, np.take_along_axis(candidates, order, axis=1)], axis=1)
    return chosen


def locality(points: np.ndarray) -> np.ndarray:
    """(N,) order of (N, 3) unit vectors along a Morton curve: neighbours in space are mostly neighbours in memory."""
    cells = np.floor((points + 1.0) * 511.37).astype(np.int64)  # 10 bits an axis, edges off the planes of symmetry
    bits = cells[:, None, :] >> np.arange(10)[:, None] & 1
    return np.argsort((bits << (3 * np.arange(10)[:, None] + np.arange(3))).sum(axis=(1, 2)), kind="stable")


def edge_features(sources: np.ndarray, targets: np.ndarray, table: np.ndarray) -> np.ndarray:
    """(N * K, 3) float32: distance, and direction to the east and north as seen from the target node.

    Distance is the chord and direction the tangential part of the chord; all three are divided by the
    root-mean-square distance, so that they are of order one.
    """
    chord = sources[table] - targets[:, None]
    frame = local_frame(torch.from_numpy(targets)).numpy()
    length = np.linalg.norm(chord, axis=-1)
    tangential = np.einsum("nkx,nfx->nkf", chord, frame[:, 1:])
    features = np.concatenate([length[..., None], tangential], axis=-1)
    scale = np.sqrt((length**2).mean())
    return (features / (scale if scale > 0 else 1.0)).reshape(-1, 3).astype(np.float32)


def local_frame(positions: Tensor) -> Tensor:
    """(N, 3, 3): at each unit vector the vectors up, east and north."""
    x, y, _ = positions.unbind(-1)
    horizontal = torch.hypot(x, y)
    pole = horizontal < 1e-6
    safe = torch.where(pole, torch.ones_like(x), horizontal)
    east = torch.stack([torch.where(pole, 0, -y / safe), torch.where(pole, 1, x / safe), torch.zeros_like(x)], dim=-1)
    return torch.stack([positions, east, torch.linalg.cross(positions, east)], dim=1)


def build(latitudes: np.ndarray, longitudes: np.ndarray, section: GraphTransformerSection) -> HeteroData:
    """The graph: node positions `x` (unit vectors) of grid and mesh, and three edge types with features.

    Args:
        latitudes, longitudes: (G,) degrees of the grid points.
        section: refinement of the mesh, neighbours per edge type, and whether to keep only the mesh nodes that lie
            within reach (1.5 mesh spacings) of a regional grid.
    """
    grid = unit_vectors(latitudes, longitudes)
    levels = icosphere(section.mesh_refinement)
    reach = 1.5 * np.sqrt(4 * np.pi / len(levels[-1]))
    everywhere = np.full(len(levels[-1]), True)
    near = cKDTree(grid).query(levels[-1])[0] < reach if section.mesh_region else everywhere
    order = locality(levels[-1][near])
    rank = np.full(len(levels[-1]), -1)
    rank[np.flatnonzero(near)[order]] = np.arange(len(order))
    mesh = levels[-1][near][order]
    tables = {
        ENCODER: nearest(grid, mesh, min(section.encoder_neighbours, len(grid))),
        PROCESSOR: _processor_table(levels, near, rank, section),
        DECODER: nearest(mesh, grid, min(section.decoder_neighbours, len(mesh))),
    }
    graph = HeteroData()
    positions = {"grid": grid, "mesh": mesh}
    for name, points in positions.items():
        graph[name].x = torch.from_numpy(points.astype(np.float32))
    for kind, table in tables.items():
        targets = np.repeat(np.arange(len(table)), table.shape[1])
        graph[kind].edge_index = torch.from_numpy(np.stack([table.ravel(), targets]))
        graph[kind].edge_attr = torch.from_numpy(edge_features(positions[kind[0]], positions[kind[2]], table))
    return graph


def _processor_table(
    levels: list[np.ndarray], near: np.ndarray, rank: np.ndarray, section: GraphTransformerSection
) -> np.ndarray:
    """Multi-scale table among the nodes kept (`near`), in their order (`rank`)."""
    kept = [level[near[: len(level)]] for level in levels]
    table = multiscale([level for level in kept if len(level)], section.processor_neighbours, section.coarse_neighbours)
    to_rank = rank[near]
    out = np.empty_like(table)
    out[to_rank] = to_rank[table]
    return out


def table(graph: HeteroData, kind: tuple[str, str, str]) -> Tensor:
    """(targets, K) source of every edge of a kind."""
    return graph[kind].edge_index[0].reshape(graph[kind[2]].num_nodes, -1)
