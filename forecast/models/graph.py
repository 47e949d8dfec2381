"""Graphs of the forecaster: icosahedral mesh, nearest-neighbour edges between grid and mesh, edge features.

Every target node has the same number of incoming edges, so an edge list (2, targets * K) is also a table
(targets, K) of sources, and attention needs no scatter.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor
from torch_geometric.data import HeteroData

from forecast.core.errors import ForecastError
from forecast.core.grids import unit_vectors
from forecast.core.icosphere import icosphere, locality
from forecast.core.model_sections import GraphTransformerSection

ENCODER = ("grid", "encode", "mesh")
PROCESSOR = ("mesh", "process", "mesh")
DECODER = ("mesh", "decode", "grid")


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
