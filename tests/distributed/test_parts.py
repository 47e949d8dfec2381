"""What each process computes, without starting any: parts cover the whole once, noise is the same bits, bad meshes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from forecast.core.errors import ForecastError
from forecast.core.sections import LossSection, TrainingSection
from forecast.core.world import World, world
from forecast.losses import registry
from forecast.models.forecaster import Forecaster, build
from forecast.models.score import Score
from forecast.training import parallelize
from forecast.training.exchange import Move
from forecast.training.mesh import Axis, Mesh, sizes
from forecast.training.sharing import POINTWISE
from tests.models import fuxi, small


def section(**changes: Any) -> TrainingSection:
    return TrainingSection.model_validate({"stages": [{"updates": 1, "lr": 1.0}], **changes})


def at(rank: int, ensemble: int = 1, grid: int = 1) -> Mesh:
    """Where a process of a mesh ensemble x grid stands; it cannot exchange anything."""
    mesh = Mesh(World(rank, ensemble * grid))
    mesh.ensemble, mesh.grid = Axis(rank // grid, ensemble), Axis(rank % grid, grid)
    return mesh


def fresh(kind: str) -> Forecaster:
    if kind == "fuxi":
        return fuxi.fresh(dropout=0.3, prior_share=0.0)
    return small.trained(small.fields())


@pytest.mark.parametrize("kind", ["graph", "fuxi"])
def test_noise_is_the_same_bits_on_every_layout(kind: str) -> None:
    whole = fresh(kind)._noise([5, 6], 4, 2)
    found: dict[int, list[float]] = {member: [] for member in range(4)}
    for rank in range(4):
        model = fresh(kind)
        parallelize.divide(model, section(), at(rank, ensemble=2, grid=2))
        model.part.members = 4  # type: ignore[union-attr]
        here = model._noise([5, 6], 4, 2)
        for place, member in enumerate(model._members(4)):
            found[member] += here[:, place].flatten().tolist()
    for member, values in found.items():
        assert sorted(values) == sorted(whole[:, member].flatten().tolist())


def test_points_are_read_once_and_weights_add_up() -> None:
    for kind in ("graph", "fuxi"):
        total, points = 0.0, []
        for rank in range(4):
            model = fresh(kind)
            part = parallelize.divide(model, section(), at(rank, ensemble=2, grid=2))
            points += list(range(part.start, part.stop)) if rank % 4 < 2 else []
            total += float(model.weights.sum())
        assert points == list(range(fresh(kind).fields.grid_size))
        assert total == pytest.approx(1.0, abs=1e-6)


def test_rows_move_to_where_they_are_wanted() -> None:
    given, wanted = [np.array([3, 0]), np.array([1, 2])], [np.array([2, 3, 2]), np.array([], np.int64)]
    moves = [Move(Axis(rank, 2), given, wanted) for rank in range(2)]
    rows = [torch.tensor(held)[:, None].float() for held in given]
    sent = [[rows[s].index_select(-2, getattr(moves[s], f"give{d}")) for d in range(2)] for s in range(2)]
    here = torch.cat([sent[0][0], sent[1][0]])
    assert moves[0].sizes == [1, 2] and moves[1].sizes == [0, 0]
    assert here.index_select(0, moves[0].order).flatten().tolist() == [2, 3, 2]


@pytest.mark.parametrize("name", [e.name for e in registry.entries() if e.takes == "ensemble"])
def test_scores_of_points_are_those_that_see_no_other_point(name: str) -> None:
    """The others are given whole fields; an unknown one counts among them."""
    fields = small.fields()
    needed = {"threshold_weighted_crps": {"above": 0.0}, "outcome_weighted_crps": {"above": 0.0},
              "ensemble_brier": {"threshold": 0.0}}  # fmt: skip
    try:
        score = Score(LossSection(name=name, options=needed.get(name, {})), fields)
    except ForecastError:
        assert name not in POINTWISE
        return
    generator = torch.Generator().manual_seed(0)
    members = torch.randn(1, 3, fields.grid_size, 3, generator=generator)
    truth = torch.randn(1, fields.grid_size, 3, generator=generator)
    changed = members.clone()
    changed[:, 0, 40:] += 1.0
    if name in POINTWISE:
        assert score(members, truth)[:, :40].equal(score(changed, truth)[:, :40])


MESH = {"data": None, "ensemble": 1, "grid": 1}


@pytest.mark.parametrize(
    ("ranks", "mesh", "changes", "says"),
    [
        (3, {"ensemble": 2}, {}, "ensemble 2 x grid 1 does not fit 3 processes: start a multiple of 2"),
        (4, {"data": 3}, {}, "data 3 x ensemble 1 x grid 1 does not fit 4 processes: start 3"),
        (1, {"grid": 2}, {}, "does not fit 1 process: start a multiple of 2"),
        (8, {}, {}, "leaves processes without a sample of training.batch_size=4: raise it to at least 8"),
        (4, {}, {"accumulate": 2}, "data 4 in 2 pieces leaves processes without a sample"),
        (8, {"ensemble": 8}, {}, "ensemble 8 leaves processes without a member of 4"),
        (2, {"ensemble": 2}, {"stages": [{"updates": 1, "lr": 1.0, "members": 1}]}, "without a member of 1"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(
    ranks: int, mesh: dict[str, int], changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(ForecastError, match=says):
        sizes(section(mesh=mesh, **changes), ranks)
    assert sizes(section(mesh={"ensemble": 2, "grid": 2}), 8) == (2, 2, 2)


@pytest.mark.parametrize(
    ("mesh", "changes", "says"),
    [
        ({"grid": 5}, {}, "grid 5 leaves processes without rows of patches or windows"),
        ({"grid": 2}, {"latent": {"coarsening": 2}}, "latent.coarsening ties points"),
        ({"grid": 2}, {"divergence": {"free_bits": 0.1}}, "divergence.free_bits ties points"),
    ],
)
def test_what_can_not_be_divided_is_refused(mesh: dict[str, int], changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ForecastError, match=says):
        parallelize.divide(fuxi.fresh(**changes), section(), at(0, **mesh))


def test_compiling_is_refused_with_a_grid_axis_alone() -> None:
    for compiled in (fuxi.fresh(), build(small.SMALL, small.fields(), LossSection())):
        with pytest.raises(ForecastError, match="training.compile does not work with a grid axis"):
            parallelize.divide(compiled, section(compile=True), at(0, grid=2))
    assert parallelize.divide(fuxi.fresh(), section(compile=True), at(0, ensemble=2)) == slice(0, 128)


@pytest.mark.parametrize(
    ("term", "says"),
    [
        ({"loss": "attention_entropy", "of": "attention"}, "`attention_entropy` makes a pass of its own"),
        ({"loss": "mixed_barlow_twins", "of": "latent"}, "ensemble 1 x grid 2 has a part: use the data axis alone"),
    ],
)
def test_a_term_with_a_pass_of_its_own_is_refused_where_members_or_points_are_shared(
    term: dict[str, Any], says: str
) -> None:
    loss = LossSection.model_validate({"terms": {"it": term}})
    model = build(small.SMALL, small.fields(), loss)
    assert parallelize.divide(model, section(), at(0)) == slice(0, 128)
    with pytest.raises(ForecastError, match=says):
        parallelize.divide(model, section(), at(0, grid=2))


def test_members_of_prior_and_posterior_are_shared_evenly() -> None:
    model = fuxi.fresh(prior_share=0.5)
    parallelize.divide(model, section(), at(1, ensemble=2))
    assert model._members(8) == [2, 3, 6, 7]
    with pytest.raises(ForecastError, match="ensemble 4 is more than the 2 members"):
        model = fuxi.fresh(prior_share=0.5)
        parallelize.divide(model, section(), at(0, ensemble=4))
        model.check_members([4])


def test_the_environment_says_which_process_this_is() -> None:
    torchrun = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "h", "MASTER_PORT": "7"}
    assert world(torchrun) == World(3, 8, 1, "h", 7)
    srun = {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "12345",
            "SLURM_STEP_NODELIST": "n[07-10,12],x"}  # fmt: skip
    assert world(srun) == World(5, 8, 1, "n07", 29845)
    assert world({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "1"}) == World()
    with pytest.raises(ForecastError, match="RANK=8 of WORLD_SIZE=8"):
        world({**torchrun, "RANK": "8"})
    with pytest.raises(ForecastError, match="WORLD_SIZE=many"):
        world({**torchrun, "WORLD_SIZE": "many"})
