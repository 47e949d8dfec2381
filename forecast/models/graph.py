"""Graphs of the forecaster: edges from grid to mesh, within the mesh and back, with features of their geometry.

Edges are sorted by target. Where every target has as many (all but radius edges), the edge list (2, targets * K) is
also a table (targets, K) of sources, and attention needs no scatter.
"""

from __future__ import annotations

import re

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor
from torch_geometric.data import HeteroData

from forecast.core import cache
from forecast.core.errors import ForecastError
from forecast.core.grids import named, unit_vectors
from forecast.core.icosphere import icosphere, locality
from forecast.core.model_sections import GraphTransformerSection

ENCODER = ("grid", "encode", "mesh")
PROCESSOR = ("mesh", "process", "mesh")
DECODER = ("mesh", "decode", "grid")
VERSION = 1
"""raised whenever graphs change, so that none of an older version are read"""
DRAWN = ("mesh", "mesh_refinement", "mesh_region", "encoder_neighbours", "encoder_cutoff", "encoder_spread",
         "processor_neighbours", "coarse_neighbours", "decoder_neighbours")  # fmt: skip
"""what of a section a graph follows from"""


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


def within(sources: np.ndarray, targets: np.ndarray, radius: float) -> np.ndarray:
    """(2, E) sources and targets of all edges shorter than `radius` (radians), by target, then by source.

    No node is left out: a target that nothing is near to gets its nearest source, a source that reaches nothing
    goes to its nearest target.
    """
    tree, chord = cKDTree(sources), 2 * np.sin(min(radius, np.pi) / 2)
    near = tree.query_ball_point(targets, chord, return_sorted=True)
    degree = np.fromiter(map(len, near), np.int64, len(near))
    edges = np.stack([np.concatenate(near).astype(np.int64), np.repeat(np.arange(len(targets)), degree)])
    alone = np.flatnonzero(degree == 0)
    unread = np.setdiff1d(np.arange(len(sources)), edges[0])
    unread = np.setdiff1d(unread, nearest(sources, targets[alone], 1)) if alone.size else unread
    more = [np.stack([nearest(sources, targets[alone], 1)[:, 0], alone])] if alone.size else []
    more += [np.stack([unread, nearest(targets, sources[unread], 1)[:, 0]])] if unread.size else []
    return _by_target(np.concatenate([edges, *more], axis=1))


def to_nearest(sources: np.ndarray, targets: np.ndarray, neighbours: int) -> np.ndarray:
    """(2, E) edges from each source to its K nearest targets, and to targets left out from their nearest source."""
    table = nearest(targets, sources, neighbours)
    edges = np.stack([np.repeat(np.arange(len(sources)), neighbours), table.ravel()])
    alone = np.setdiff1d(np.arange(len(targets)), edges[1])
    more = [np.stack([nearest(sources, targets[alone], 1)[:, 0], alone])] if alone.size else []
    return _by_target(np.concatenate([edges, *more], axis=1))


def _by_target(edges: np.ndarray) -> np.ndarray:
    return edges[:, np.lexsort(edges)]


def _edges_of(table: np.ndarray) -> np.ndarray:
    """(2, N * K) edges of a table (N, K)."""
    return np.stack([table.ravel(), np.repeat(np.arange(len(table)), table.shape[1])])


def edge_features(sources: np.ndarray, targets: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """(E, 3) float32: distance, and direction to the east and north as seen from the target node.

    Distance is the chord and direction the tangential part of the chord; all three are divided by the
    root-mean-square distance, so that they are of order one.

    Args:
        sources: (S, 3) unit vectors. targets: (N, 3) unit vectors. edges: (2, E).
    """
    chord = sources[edges[0]] - targets[edges[1]]
    frame = local_frame(torch.from_numpy(targets)).numpy()[edges[1], 1:]
    length = np.linalg.norm(chord, axis=-1)
    features = np.concatenate([length[:, None], np.einsum("ex,efx->ef", chord, frame)], axis=-1)
    scale = np.sqrt((length**2).mean())
    return (features / (scale if scale > 0 else 1.0)).astype(np.float32)


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

    Graphs are kept in the cache (core/cache.py), by all that they follow from.

    Args:
        latitudes, longitudes: (G,) degrees of the grid points.
        section: the mesh, how edges are drawn, and whether to keep only the mesh nodes that lie within reach (1.5 mesh
            spacings) of a regional grid.

    Raises:
        ForecastError: an unknown mesh, one finer than the grid, or fewer nodes than neighbours.
    """
    points = np.stack([latitudes, longitudes]).astype(np.float64)
    key = {"points": points, "version": VERSION, **section.model_dump(include=set(DRAWN))}
    arrays = cache.arrays("graph", key, lambda: _draw(unit_vectors(*points), section))
    graph = HeteroData()
    for name in ("grid", "mesh"):
        graph[name].x = torch.from_numpy(arrays[name])
    for kind in (ENCODER, PROCESSOR, DECODER):
        graph[kind].edge_index = torch.from_numpy(arrays[kind[1]].astype(np.int64))
        graph[kind].edge_attr = torch.from_numpy(arrays[f"{kind[1]}_features"])
    return graph


def _draw(grid: np.ndarray, section: GraphTransformerSection) -> cache.Arrays:
    levels, order = ([grid], np.arange(len(grid))) if section.mesh == "data" else _mesh(section)
    reach = 1.5 * np.sqrt(4 * np.pi / len(levels[-1]))
    everywhere = np.full(len(levels[-1]), True)
    near = cKDTree(grid).query(levels[-1])[0] < reach if section.mesh_region else everywhere
    kept = order[near[order]]
    rank = np.full(len(levels[-1]), -1)
    rank[kept] = np.arange(len(kept))
    mesh = levels[-1][kept]
    edges = {
        ENCODER: _encoder(grid, mesh, section),
        PROCESSOR: _edges_of(_processor_table(levels, near, rank, section)),
        DECODER: _edges_of(nearest(mesh, grid, min(section.decoder_neighbours, len(mesh)))),
    }
    positions = {"grid": grid, "mesh": mesh}
    arrays = {name: at.astype(np.float32) for name, at in positions.items()}
    for (source, kind, target), drawn in edges.items():
        arrays[kind] = drawn.astype(np.int32)
        arrays[f"{kind}_features"] = edge_features(positions[source], positions[target], drawn)
    return arrays


def _mesh(section: GraphTransformerSection) -> tuple[list[np.ndarray], np.ndarray]:
    """Nodes of all levels, the finest last, and the order of its nodes: a mesh by name keeps that of its grid."""
    refinement = f"ico{section.mesh_refinement}" if section.mesh is None else section.mesh
    found = re.fullmatch(r"ico(\d)", refinement)
    if found:
        levels = icosphere(int(found[1]))
        return levels, locality(levels[-1])
    nodes = named(refinement).xyz
    return [nodes], np.arange(len(nodes))


def _encoder(grid: np.ndarray, mesh: np.ndarray, section: GraphTransformerSection) -> np.ndarray:
    if section.encoder_cutoff is not None:
        if len(mesh) < 2:
            raise ForecastError(
                "model.encoder_cutoff is in units of the mesh's spacing, but the mesh has a single node"
            )
        chord = cKDTree(mesh).query(mesh, k=2)[0][:, 1].max()
        return within(grid, mesh, section.encoder_cutoff * 2 * np.arcsin(chord / 2))
    if section.encoder_spread is not None:
        return to_nearest(grid, mesh, min(section.encoder_spread, len(mesh)))
    return _edges_of(nearest(grid, mesh, min(section.encoder_neighbours, len(grid))))


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
    """(targets, K) source of every edge of a kind.

    Raises:
        ForecastError: targets with different numbers of edges.
    """
    sources, targets = graph[kind].edge_index
    nodes = graph[kind[2]].num_nodes
    if not torch.equal(targets, torch.arange(nodes).repeat_interleave(max(len(targets) // nodes, 1))):
        raise ForecastError(
            "model.blocks compact needs as many edges into each node: set model.encoder_neighbours in place of "
            "encoder_cutoff or encoder_spread, or model.blocks to full"
        )
    return sources.reshape(nodes, -1)
