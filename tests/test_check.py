"""`forecast check`: what it refuses, what it counts, and the configs of the published systems."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from forecast.core import config as configs
from forecast.core import grids
from forecast.core.errors import ForecastError
from forecast.training import costs as counted
from forecast.training import estimate, fits
from pipelines.check import check
from tests import tiny

PUBLISHED = 229e6


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("archive")
    tiny.make(folder)
    tiny.make(folder, error=0.1)
    return folder


FULL = ("model.blocks=full", "model.processor=window")


def changed(folder, archive, *settings):
    return configs.parse(tiny.raw(folder, archive), "tiny", settings)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["data.prognostic=[z_500,t_500]"], "holds no `t_500` .*nearest.*leave it out, or ingest it"),
        (["data.static=[lsm,sdor]"], "data.static: .*holds no `sdor`"),
        (["model.heads=3"], "model.heads=3 must divide model.width=16"),
        (["training.stages.1.rollout=[1,200]"], "data.train spans 738h, .* 200 steps .*shorten the rollout"),
        (["training.stages.1.rollout=[1,100]"], "for a rollout of 100 steps: .*without a gap.*shorten the rollout"),
        (["training.validation_steps=60"], "data.validation spans .* validation rollout of 60 steps"),
        (["model.mesh_refinement=3"], r"model.mesh_refinement: a mesh of 642 nodes is finer than .*\(128 points\)"),
        (["model.mesh=O16"], "model.mesh: a mesh of 1,600 nodes is finer than .*take a coarser mesh"),
        (["model.mesh=X16"], "model.mesh: unknown grid `X16`: O96, N320"),
        ([*FULL, "model.window=64"], "model.window=64 reaches beyond the 42 nodes .*lower it, or set"),
        (["model.residual={grid: O8}"], "model.residual.grid: O8 .* is no coarser than the data .*take a coarser grid"),
        (["model.residual={grid: Q8}"], "model.residual.grid: unknown grid `Q8`"),
        (["store.grid=O16"], "store.grid is O16, but .* is on gaussian-8x16: correct it"),
        (["model.blocks=direct"], "model.blocks=direct has no mesh of its own: set model.mesh to data"),
        (["model.processor=harmonic", "model.truncation=9"], "model.truncation=9 has 100 .*lower it, or take a finer"),
        (["model.encoder_cutoff=0.6"], "model.encoder_neighbours in place of"),
        (["model.encoder_cutoff=0.6", "model.encoder_spread=3"], "exclude each other: give one"),
        (["model.bounds=[{variables: [q_500], minimum: 0}]"], "model.bounds names `q_500`; predicted are"),
        (["forecast.starts.at=[2001-01-05]"], "lies in the training period: start after"),
        (["forecast.starts.at=[2002-01-05]"], "outside the archive .*choose starts within it"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)  # fmt: skip
def test_pieces_that_do_not_fit_are_refused_in_a_sentence(settings, sentence, archive, tmp_path):
    with pytest.raises(ForecastError, match=sentence) as error:
        check(changed(tmp_path, archive, *settings))
    assert "\n" not in str(error.value)


def test_what_needs_no_store_is_refused_before_there_is_one(tmp_path):
    for settings, sentence in [
        (["model.mesh=O48"], "finer than the data on gaussian-32x64"),
        (["store.grid=O4"], r"a mesh of 642 nodes is finer than the data on O4 \(208 points\)"),
        (["store.grid=X"], "store.grid: unknown grid `X`"),
    ]:
        with pytest.raises(ForecastError, match=sentence):
            check(changed(tmp_path, tmp_path, "model.mesh_refinement=3", *settings))


def told(table):
    return dict(zip(*(list(column.cells) for column in table.columns), strict=True))


def test_costs_are_told_with_a_store_and_without(archive, tmp_path):
    with_store = told(check(changed(tmp_path, archive)))
    without = told(check(changed(tmp_path, tmp_path, "store.grid=F4", "store.path=none.zarr")))  # F4: the store's grid
    assert "not there yet" in without["store"]
    assert with_store["parameters"] == without["parameters"]
    for row in ("a forecast step", "a member to 15d", "stage 1, rollout 1", "stage 2, rollout 3"):
        assert with_store[row] == without[row]
    assert "60 steps" in with_store["a member to 15d"] and "A100" in with_store["a member to 15d"]


def published(name, *settings):
    config = configs.load(name, settings)
    grid = fits.expected_grid(config)
    fits.check_periods(config)
    fits.check_grids(config, grid)
    return config, estimate.outline(config, grid)


@pytest.mark.parametrize(
    ("name", "points"), [("aifs_crps_o96", 40_320), pytest.param("aifs_crps_n320", 542_080, marks=pytest.mark.slow)]
)
def test_published_systems_have_the_published_size_and_take_no_memory(name, points):
    config, model = published(name)
    assert model.fields.grid_size == points
    assert abs(sum(p.numel() for p in model.parameters()) / PUBLISHED - 1) < 0.03
    held = sum(p.nbytes for p in model.parameters() if p.device.type != "meta")
    assert held < 0.03 * 4 * PUBLISHED  # learnt numbers of nodes and edges; the weights are on the meta device
    assert (config.training.batch_size, config.training.weight_decay, config.model.heads) == (16, 0.1, 8)


def small(archive, tmp_path, *settings):
    config = changed(tmp_path, archive, "model.width=32", "model.blocks=full", "model.mesh=O2",
                     "model.encoder_neighbours=3", "model.decoder_neighbours=2", *settings)  # fmt: skip
    return estimate.outline(config, grids.named("F16"))


def test_costs_grow_linearly_with_members_rollout_and_layers(archive, tmp_path):
    """Exponents at most 1.05, of operations and of memory."""
    model, deeper = (small(archive, tmp_path, f"model.layers={n}") for n in (1, 2))
    one, two, three = (counted._update(model, 1, 2, n, "float32") for n in (1, 2, 3))
    twice = counted._update(model, 1, 4, 2, "float32")
    deep = counted._update(deeper, 1, 2, 2, "float32")
    for kind in ("operations", "memory"):
        a, b, c = (getattr(cost, kind) for cost in (one, two, three))
        assert abs((c - b) / (b - a) - 1) < 0.05
        assert np.log2(getattr(twice, kind) / b) < 1.05
        assert np.log2(getattr(deep, kind) / b) < 1.05
    four, (extrapolated,) = counted._update(model, 1, 2, 4, "float32"), counted.update(model, 1, 2, [4], "float32")
    assert extrapolated.operations == four.operations
    assert abs(extrapolated.memory / four.memory - 1) < 0.02


def test_operations_of_layers_counted_by_hand(archive, tmp_path):
    """2 a weight and row of linear layers, 4 a query, key and channel of attention, whose chunks see three chunks."""
    window = ("model.processor=window", "model.window=16")
    two, four = (small(archive, tmp_path, f"model.layers={n}", *window) for n in (2, 4))
    more = counted.step(four, 3, "float32").operations - counted.step(two, 3, "float32").operations
    nodes, width, rows, channels = 88, 32, 3, 4
    linear = 2 * rows * nodes * width * (4 + 2 * 2) * width  # query, key, value, out, and an MLP twice as wide
    norms = 2 * 2 * rows * nodes * channels * 2 * width
    attention = 4 * rows * (6 * 16) * (3 * 16) * width
    assert more == 2 * (linear + norms + attention)


def test_checkpointing_costs_operations_and_saves_memory(archive, tmp_path):
    none, layer, both = (
        counted._update(small(archive, tmp_path, "model.layers=3", f"model.activation_checkpointing={kind}"),
                        1, 4, 2, "float32")
        for kind in ("none", "layer", "both")
    )  # fmt: skip
    assert both.memory < layer.memory < none.memory
    assert none.operations < layer.operations < both.operations


MEASURE = """
import sys, torch
from forecast.core import config as configs
from forecast.core import grids
from forecast.training import estimate, fits
from forecast.training import costs as counted
from forecast.models.forecaster import build
config = configs.load("demo", tuple(sys.argv[1:]))
grid = grids.named("O48")
model = estimate.outline(config, grid)
told = counted._update(model, 1, 4, 2, "float32").memory
torch.manual_seed(0)
real = build(model.section, model.fields, model.loss)
batch = counted._batch(real, 1, 2)
batch.states.normal_(); batch.forcings.normal_()
now = lambda key: int(open("/proc/self/status").read().split(key + ":")[1].split()[0]) * 1024
real.training_loss(batch, 1, batch.keys)["loss"].backward()  # compiles loops
base = now("VmRSS")
open("/proc/self/clear_refs", "w").write("5")  # forget the peak
real.training_loss(batch, 4, batch.keys)["loss"].backward()
print(told, now("VmHWM") - base)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["none", "both"])
def test_memory_told_is_that_measured(kind):
    """Within a third, of a step that takes about a gigabyte; on the CPU, whose operators keep a little more or less."""
    settings = ["model.blocks=full", "model.mesh=O32", "model.width=96", "model.layers=4", "model.processor=window",
                "model.window=64", f"model.activation_checkpointing={kind}"]  # fmt: skip
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    command = [sys.executable, "-c", MEASURE, *settings]
    out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    told_, measured = map(float, out.split())
    assert 0.67 < measured / told_ < 1.5, (told_, measured)


@pytest.mark.parametrize("name", ["demo", "demo_events", "demo_fuxi", "planet_aifs", "planet_fuxi"])
def test_configs_of_the_planet_are_counted_before_there_is_an_archive(name, tmp_path):
    """Event terms among them, whose losses look at numbers that counting does not have."""
    rows = told(check(configs.load(name, (f"root={tmp_path}",))))
    assert "GFLOP" in rows["a forecast step"]
