import os
import subprocess
import sys

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
    features = graphs.edge_features(sources, targets, np.array([[0, 1], [0, 0]]))
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


def unit(rng, size):
    points = rng.normal(size=(size, 3))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def test_radius_edges_equal_brute_force_and_leave_none_out():
    rng = np.random.default_rng(1)
    sources, targets = unit(rng, 300), unit(rng, 40)
    edges = graphs.within(sources, targets, 0.2)
    angle = np.arccos(np.clip(targets @ sources.T, -1, 1))
    near = set(zip(*np.nonzero((angle < 0.2).T), strict=True))
    drawn = set(zip(*edges.tolist(), strict=True))
    assert near <= drawn and len(drawn) == edges.shape[1]
    assert set(edges[0]) == set(range(300)) and set(edges[1]) == set(range(40))
    for source, target in drawn - near:
        assert angle[target, source] in (angle[:, source].min(), angle[target].min())
    assert (np.diff(edges[1]) >= 0).all()


def test_each_source_goes_to_its_nearest_targets():
    rng = np.random.default_rng(2)
    sources, targets = unit(rng, 100), unit(rng, 60)
    edges = graphs.to_nearest(sources, targets, 3)
    expected = np.argsort(-(sources @ targets.T), axis=1)[:, :3]
    drawn = [set(edges[1][edges[0] == s]) for s in range(100)]
    assert all(set(row) <= found for row, found in zip(expected, drawn, strict=True))
    assert set(edges[1]) == set(range(60)) and edges.shape[1] < 320


def test_mesh_by_name_keeps_its_order_and_cutoff_makes_unequal_degrees():
    grid, mesh = grids.named("O16"), grids.named("O8")
    section = GraphTransformerSection(mesh="O8", encoder_cutoff=0.6, decoder_neighbours=3, coarse_neighbours=0)
    graph = graphs.build(grid.latitudes, grid.longitudes, section)
    np.testing.assert_allclose(graph["mesh"].x, mesh.xyz, atol=1e-6)
    degree = graph[graphs.ENCODER].edge_index[1].bincount()
    assert degree.min() >= 1 and degree.max() > degree.min() and len(degree) == mesh.size
    assert graph[graphs.ENCODER].edge_index[0].unique().numel() == grid.size
    assert graphs.table(graph, graphs.DECODER).shape == (grid.size, 3)
    with pytest.raises(ForecastError, match="model.encoder_neighbours in place of"):
        graphs.table(graph, graphs.ENCODER)
    same = [graphs.build(grid.latitudes, grid.longitudes, GraphTransformerSection(**options))
            for options in ({"mesh": "ico2"}, {"mesh_refinement": 2})]  # fmt: skip
    assert torch.equal(*(g[graphs.PROCESSOR].edge_index for g in same))


def test_graphs_are_kept_by_content(tmp_path, monkeypatch):
    monkeypatch.setenv("FORECAST_CACHE", str(tmp_path))
    grid = grids.gaussian(8)
    build = lambda lat, **options: graphs.build(lat, grid.longitudes, GraphTransformerSection(**options))  # noqa: E731
    first = build(grid.latitudes, mesh_refinement=1)
    monkeypatch.setattr(graphs, "_draw", None)  # drawing again would fail
    again = build(grid.latitudes, mesh_refinement=1, width=64, layers=2)  # widths do not change a graph
    for kind in first.edge_types:
        assert torch.equal(first[kind].edge_index, again[kind].edge_index)
        assert torch.equal(first[kind].edge_attr, again[kind].edge_attr)
    monkeypatch.undo()
    monkeypatch.setenv("FORECAST_CACHE", str(tmp_path))
    build(grid.latitudes + 0.1, mesh_refinement=1)
    build(grid.latitudes, mesh_refinement=1, decoder_neighbours=3)
    assert len(list(tmp_path.glob("graph-*.npz"))) == 3


@pytest.mark.slow
def test_n320_to_o96_within_4_gb_and_minutes(tmp_path):
    code = (
        "import resource, time; from forecast.core import grids; from forecast.models import graph\n"
        "from forecast.core.model_sections import GraphTransformerSection as S\n"
        "g = grids.named('N320'); began = time.monotonic()\n"
        "graph.build(g.latitudes, g.longitudes, S(mesh='O96', encoder_cutoff=0.6, decoder_neighbours=3))\n"
        "print(time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)"
    )
    environment = os.environ | {"FORECAST_CACHE": str(tmp_path)}
    told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    seconds, gigabytes = map(float, told.stdout.split())
    assert seconds < 180 and gigabytes < 4
