"""Weights of a forecaster taken over by one of another grid, or of more variables."""

from dataclasses import replace

import torch

from forecast.core import grids
from forecast.core.model_sections import GraphTransformerSection
from forecast.models.forecaster import build
from forecast.models.serialise import save_forecaster
from forecast.training.resume import take_over
from tests.models.small import SMALL, batch, fields, statistics, trained

FULL = {"blocks": "full", "processor": "window", "window": 9}


def left_fresh(model, source):
    theirs = source.state_dict()
    return {name for name, p in model.named_parameters() if not torch.equal(p, theirs.get(name, p + 1))}


def taken(tmp_path, known, **changes):
    """A trained forecaster, and a fresh one of `known` fields that took its weights over."""
    source = trained(fields(), **FULL)
    save_forecaster(tmp_path / "source", source)
    torch.manual_seed(1)
    model = build(GraphTransformerSection(**{**SMALL.model_dump(), **FULL, **changes}), known)
    take_over(model, str(tmp_path / "source"))
    return model, source


def test_to_another_grid_all_but_the_points_own_numbers_are_taken(tmp_path):
    grid = grids.gaussian(10)
    known = replace(fields(), latitudes=grid.latitudes, longitudes=grid.longitudes, areas=grid.areas)
    model, source = taken(tmp_path, known)
    assert left_fresh(model, source) == {"network.encoder.points.learnt"}
    assert model.training_loss(batch(known), 2, (1, 2))["loss"].isfinite()


def test_to_more_variables_only_what_reads_and_writes_them_is_fresh(tmp_path):
    more = {**fields().statistics, "msl": statistics(101_000.0, 1_000.0, 200.0)}
    known = replace(fields(), prognostic=("z_500", "2t", "msl"), statistics=more)
    model, source = taken(tmp_path, known)
    edge = {"encoder.embed_points.weight", "decoder.embed_points.weight", "decoder.head.weight", "decoder.head.bias"}
    assert left_fresh(model, source) == {f"network.{name}" for name in edge}


def test_to_a_longer_window_and_more_layers(tmp_path):
    model, source = taken(tmp_path, fields(), window=20, layers=3)
    assert all(name.startswith("network.layers.2.") for name in left_fresh(model, source))
