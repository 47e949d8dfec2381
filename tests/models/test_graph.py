import numpy as np
import pytest
import torch

from forecast.core import grids
from forecast.core.errors import ForecastError
from forecast.core.model_sections import GraphTransformerSection
from forecast.models import graph as graphs


def test_icosphere_counts_and_spacing():
    levels = graphs.icosphere(3)
    assert [len(level) for level in levels] == [10 * 4**r + 2 for r in range(4)]
    for coarse, fine in zip(levels[:-1], levels[1:], strict=True):
        np.testing.assert_array_equal(fine[: len(coarse)], coarse)
    for r, level in enumerate(levels):
        np.testing.assert_allclose(np.linalg.norm(level, axis=1), 1.0, atol=1e-14)
        distance = np.sort(np.linalg.norm(level[:, None] - level[None], axis=-1), axis=1)
        mean = 2 * np.pi / 5 / 2**r  # an icosahedron's edge spans about 63 degrees, halved by each refinement
        assert 0.75 * mean < distance[:, 1].min() <= distance[:, 5].max() < 1.1 * mean


def test_nearest_equals_brute_force():
    rng = np.random.default_rng(0)
    sources, targets = (p / np.linalg.norm(p, axis=1, keepdims=True) for p in rng.normal(size=(2, 200, 3)))
    expected = np.argsort(np.linalg.norm(targets[:, None] - sources[None], axis=-1), axis=1)[:, :6]
    np.testing.assert_array_equal(graphs.nearest(sources, targets, 6), expected)


def test_ties_go_to_the_lower_index():
    sources = np.array([[1.0, 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1, 0]])
    np.testing.assert_array_equal(graphs.nearest(sources, np.array([[0.0, 0, 1]]), 3), [[0, 1, 2]])
    with pytest.raises(ForecastError, match="5 neighbours"):
        graphs.nearest(sources, sources, 5)


def test_multiscale_neighbours():
    levels = graphs.icosphere(2)
    table = graphs.multiscale(levels, neighbours=7, coarse=3)
    assert table.shape == (162, 13)
    np.testing.assert_array_equal(table[:, 0], np.arange(162))
    np.testing.assert_array_equal(table[:, :7], graphs.nearest(levels[2], levels[2], 7))
    assert table[:, 7:10].max() < 42
    assert table[:, 10:].max() < 12
    assert all(len(set(row)) == 13 for row in table)
    assert graphs.multiscale(levels[:2], neighbours=42, coarse=3).shape == (42, 42)  # nothing coarser is left


def test_edge_features_by_hand():
    targets = np.array([[1.0, 0, 0]])
    angle = 0.1
    sources = np.array([[np.cos(angle), np.sin(angle), 0], [np.cos(angle), 0, -np.sin(angle)]])
    features = graphs.edge_features(sources, targets, np.array([[0, 1]]))
    ratio = np.sin(angle) / (2 * np.sin(angle / 2))
    np.testing.assert_allclose(features, [[1, ratio, 0], [1, 0, -ratio]], atol=1e-6)


def test_local_frame_is_orthonormal_also_at_the_poles():
    points = torch.tensor([[0.0, 0, 1], [0, 0, -1], [0.6, 0, 0.8]], dtype=torch.float64)
    frame = graphs.local_frame(points)
    torch.testing.assert_close(frame @ frame.mT, torch.eye(3, dtype=torch.float64).expand(3, 3, 3))
    torch.testing.assert_close(frame[2, 1:], torch.tensor([[0, 1, 0], [-0.8, 0, 0.6]], dtype=torch.float64))


@pytest.fixture
def graph():
    grid = grids.gaussian(16)
    return graphs.build(grid.latitudes, grid.longitudes, GraphTransformerSection(mesh_refinement=2))


def test_graph_has_fixed_degrees(graph):
    section = GraphTransformerSection()
    assert graph["grid"].num_nodes == 512
    assert graph["mesh"].num_nodes == 162
    for kind, degree in (
        (graphs.ENCODER, section.encoder_neighbours),
        (graphs.PROCESSOR, section.processor_neighbours + 2 * section.coarse_neighbours),
        (graphs.DECODER, section.decoder_neighbours),
    ):
        sources, targets = graph[kind].edge_index
        assert torch.equal(targets.bincount(), torch.full((graph[kind[2]].num_nodes,), degree))
        assert sources.max() < graph[kind[0]].num_nodes
        assert graph[kind].edge_attr.shape == (len(sources), 3)
        assert torch.equal(graphs.table(graph, kind).flatten(), sources)
    assert graph.validate()


def test_encoder_covers_the_grid_and_order_is_local(graph):
    assert graphs.table(graph, graphs.ENCODER).unique().numel() > 0.9 * 512
    mesh = graph["mesh"].x
    step = (mesh[1:] - mesh[:-1]).norm(dim=1).mean()
    assert step < 0.5 * (mesh[torch.randperm(162)][1:] - mesh[:-1]).norm(dim=1).mean()


def test_processor_table_follows_the_order(graph):
    table, mesh = graphs.table(graph, graphs.PROCESSOR), graph["mesh"].x
    assert torch.equal(table[:, 0], torch.arange(162))
    nearest = graphs.nearest(mesh.double().numpy(), mesh.double().numpy(), 7)
    far = (mesh[table[:, :7]] - mesh[:, None]).norm(dim=-1).max(dim=1).values
    expected = (mesh[nearest] - mesh[:, None]).norm(dim=-1).max(dim=1).values
    torch.testing.assert_close(far, expected, atol=1e-6, rtol=0)


def test_regional_mesh_lies_near_the_grid():
    grid = grids.latlon(np.linspace(60, 40, 11), np.linspace(-10, 14, 13))
    graph = graphs.build(grid.latitudes, grid.longitudes, GraphTransformerSection(mesh_refinement=4, mesh_region=True))
    mesh, points = graph["mesh"].x, graph["grid"].x
    spacing = (4 * np.pi / 2562) ** 0.5
    assert 20 < len(mesh) < 200
    assert torch.cdist(mesh, points).min(dim=1).values.max() < 1.5 * spacing
    assert torch.cdist(points, mesh).min(dim=1).values.max() < spacing
    assert graphs.table(graph, graphs.PROCESSOR).max() < len(mesh)


def test_graph_is_the_same_every_time(graph):
    grid = grids.gaussian(16)
    again = graphs.build(grid.latitudes, grid.longitudes, GraphTransformerSection(mesh_refinement=2))
    for kind in graph.edge_types:
        assert torch.equal(graph[kind].edge_index, again[kind].edge_index)
