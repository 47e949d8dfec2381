"""A variational forecaster in the trainer: schedules survive a kill, validations tell of the latent."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from forecast.core import config as configs
from forecast.core.errors import ForecastError
from forecast.core.store import Store
from forecast.inference.system import LearntSystem
from forecast.models.serialise import load_forecaster, load_weights
from pipelines.check import check
from pipelines.train import train
from tests import tiny
from tests.models.fuxi import HARMONIC, SMALL, section

STAGES = [
    {"updates": 2, "lr": 3e-3, "members": 1},
    {"updates": 4, "lr": 3e-3},
    {"updates": 2, "rollout": [1, 2], "lr": 1e-3},
]
DIVERGENCE = {"beta": 0.1, "schedule": "cyclic", "cycle": 4, "rise": 1.0}


def config_of(root: Path, archive: Path, **training):
    raw = tiny.raw(root, archive, **{"members": 4, "stages": STAGES, "validate_every": 4, **training})
    return configs.parse(raw | {"model": {**SMALL, "patch": [2, 4], "divergence": DIVERGENCE}})


@pytest.fixture(scope="module")
def harmonic(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = config_of(tmp_path_factory.mktemp("run"), archive, stages=[{"updates": 2, "lr": 0.1}], validate_every=2)
    return train(config.model_copy(update={"model": section(**HARMONIC, last_step=0)}))


@pytest.fixture(scope="module")
def trained(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(config_of(tmp_path_factory.mktemp("run"), archive))


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_metrics_tell_of_the_divergence(trained: Path) -> None:
    """beta counts from the first update with several members on, and the deterministic stage has none."""
    updates = [line for line in lines(trained) if "loss" in line]
    assert all("kl" not in line for line in updates[:2])
    assert [line["beta"] for line in updates[2:]] == pytest.approx([0, 0.025, 0.05, 0.075, 0, 0.025])
    assert all(line["terms/kl"] == pytest.approx(line["beta"] * line["kl"], rel=1e-5) for line in updates[2:])
    for line in (line["validation"] for line in lines(trained) if "validation" in line):
        assert set(line["kl"]) == {"z_500", "t_850"}
        assert {"kl", "active", "abs_mean_prior", "abs_logvar_posterior"} <= set(line["latent"])
        assert set(line["crps_prior"]) == set(line["crps_posterior"]) == {"z_500", "t_850", "tp"}
    assert (trained / "curves.png").stat().st_size > 10_000


def test_a_stopped_run_goes_on_to_the_same_bits(trained: Path, archive: Path, tmp_path: Path) -> None:
    """Stopped in the middle of a cycle of beta."""
    train(config_of(tmp_path, archive, stages=[*STAGES[:1], {**STAGES[1], "updates": 3, "schedule": "constant"}]))
    whole = tmp_path / "whole"
    constant = [STAGES[0], {**STAGES[1], "schedule": "constant"}, STAGES[2]]
    train(config_of(tmp_path, archive, stages=constant), resume=True)
    train(config_of(whole, archive, stages=constant))
    model = load_forecaster(whole / "training" / "latest")
    one, other = (load_weights(f / "training" / "latest" / "model.safetensors", model) for f in (tmp_path, whole))
    assert all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("backbone", ["trained", "harmonic"])
def test_member_is_the_same_bits_alone_and_in_any_batch(
    backbone: str, request: pytest.FixtureRequest, archive: Path
) -> None:
    folder = request.getfixturevalue(backbone) / "latest"

    def states(members, steps=3):
        system = LearntSystem(folder, Store.open(archive / "analysis.zarr"), device="cpu")
        return np.stack(list(system.forecast(np.datetime64("2001-02-01T00", "s"), members, steps)))

    together = states(list(range(5)))
    assert np.isfinite(together).all()
    assert (together[1:, 0] != together[1:, 1]).any()
    for members in ([3], [4, 0], [2, 1, 0]):
        assert np.array_equal(states(members), together[:, members])


def test_check_explains_what_does_not_fit(archive: Path, tmp_path: Path) -> None:
    raw = tiny.raw(tmp_path, archive, members=2, stages=STAGES)
    check(config_of(tmp_path, archive))
    with pytest.raises(ForecastError, match="prior_share=0.5 of 2 members draws 1"):
        check(configs.parse(raw | {"model": SMALL}))
    with pytest.raises(ForecastError, match="unknown key `model.latent.rnk`, did you mean `rank`"):
        configs.parse(raw | {"model": {**SMALL, "latent": {"rnk": 2}}})
    with pytest.raises(ForecastError, match="`model`: model.heads=3 must divide model.width=16"):
        configs.parse(raw | {"model": {**SMALL, "heads": 3}})
