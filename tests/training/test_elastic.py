"""Runs that change their number of ranks, are stopped, or lose a rank, go on as the undisturbed one."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from forecast.core import config as configs
from forecast.core import seeding
from forecast.core.config import Config
from forecast.training.resume import plain
from tests import tiny
from tests.training import launched, ranks

TOLERANCE = 1e-11
"""of losses and weights between layouts, relative, in float64: nothing differs but the order of sums"""


@pytest.fixture(scope="module")
def context() -> Any:
    return ranks.context()


def short(root: Path, archive: Path, **training: Any) -> Config:
    """12 updates of 4 samples, two stages; epochs of 31 windows end within updates."""
    stages = [{"updates": 8, "lr": 3e-3}, {"updates": 4, "rollout": 2, "lr": 1e-3}]
    given = {"stages": stages, "batch_size": 4, "device": "cpu", "validate_every": 6, "validation_starts": 2}
    return tiny.config(root, archive, **{**given, "checkpoint_every": 4, **training})


@pytest.fixture(scope="module")
def alone(context: Any, archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process, undisturbed, in float64."""
    config = short(tmp_path_factory.mktemp("alone"), archive)
    assert ranks.codes(ranks.start(context, config, 1, exact=True)) == [0], ranks.said(config, 0)
    return Path(config.root) / "training"


@pytest.fixture(scope="module")
def pair(context: Any, archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two processes, undisturbed."""
    config = short(tmp_path_factory.mktemp("pair"), archive)
    assert ranks.codes(ranks.start(context, config, 2)) == [0, 0], ranks.said(config, 0)
    return Path(config.root) / "training"


def weights(folder: Path) -> dict[str, torch.Tensor]:
    files = ("model", "ema")
    return {f"{f} {name}": x for f in files for name, x in load_file(folder / "latest" / f"{f}.safetensors").items()}


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def apart(one: Path, other: Path) -> float:
    """The distance between the weights of two runs, in units of their size; their losses agree."""
    assert len(losses(one)) == 12 and losses(one) == pytest.approx(losses(other), rel=TOLERANCE)
    mine, theirs = weights(one), weights(other)
    assert mine.keys() == theirs.keys()
    distance = torch.stack([(mine[name] - theirs[name]).square().sum() for name in mine]).sum().sqrt()
    return float(distance / torch.stack([x.square().sum() for x in theirs.values()]).sum().sqrt())


def legs(context: Any, config: Config, sizes: list[int], at: list[int], exact: bool = True) -> None:
    """A leg on each number of ranks, stopped by a signal to the last rank within the update in `at`."""
    done = 0
    for size, until in zip(sizes, [*at, 0], strict=True):
        stop = (size - 1, until - done) if until else None
        expected = 75 if until else 0
        started = ranks.start(context, config, size, done > 0, stop, exact=exact)
        assert ranks.codes(started) == [expected] * size, ranks.said(config, 0)
        if until:
            assert ranks.said(config, 0).endswith(f"SIGTERM after update {until}: saved, go on with --resume\n")
            assert (Path(config.root) / "training" / "latest").resolve().name == f"update-{until:08d}"
        done = until


def test_one_two_one_ranks_continue_the_same_curve(context: Any, archive: Path, tmp_path: Path, alone: Path) -> None:
    """Stopped in the middle of an epoch, then in the middle of a stage."""
    config = short(tmp_path, archive)
    legs(context, config, [1, 2, 1], at=[5, 10])
    assert 0 < apart(tmp_path / "training", alone) < TOLERANCE


def test_two_four_ranks_continue_the_same_curve(context: Any, archive: Path, tmp_path: Path, alone: Path) -> None:
    config = short(tmp_path, archive)
    legs(context, config, [2, 4], at=[7])
    assert apart(tmp_path / "training", alone) < TOLERANCE


def test_the_same_ranks_continue_to_the_same_bits(context: Any, archive: Path, tmp_path: Path, pair: Path) -> None:
    config = short(tmp_path, archive)
    legs(context, config, [2, 2], at=[5], exact=False)
    assert apart(tmp_path / "training", pair) == 0 and losses(tmp_path / "training") == losses(pair)


def test_each_rank_writes_its_part(pair: Path) -> None:
    names = {path.name for path in (pair / "latest").iterdir()}
    parts = {f"optimizer-0000{rank}-of-00002.safetensors" for rank in (1, 2)}
    assert parts | {"model.safetensors", "ema.safetensors", "files.json", "training.json", "checkpoint.json"} == names
    sizes = [(pair / "latest" / name).stat().st_size for name in sorted(parts)]
    assert max(sizes) < 1.2 * min(sizes)
    for path in (pair / "latest").glob("*.safetensors"):
        with safe_open(path, framework="np") as file:
            assert set(file.metadata()) <= {"forecast", "pieces"}


def test_a_missing_shard_falls_back_and_all_missing_is_one_line_from_the_first_rank(
    context: Any, archive: Path, tmp_path: Path, pair: Path
) -> None:
    config = short(tmp_path, archive)
    shutil.copytree(pair, tmp_path / "training", symlinks=True)
    (tmp_path / "training" / "latest" / "optimizer-00002-of-00002.safetensors").unlink()
    assert ranks.codes(ranks.start(context, config, 2, resume=True)) == [0, 0]
    assert "is damaged (" in ranks.said(config, 0) and apart(tmp_path / "training", pair) == 0
    for checkpoint in (tmp_path / "training").glob("update-*"):
        (checkpoint / "optimizer-00001-of-00002.safetensors").unlink()
    began = time.monotonic()
    assert ranks.codes(ranks.start(context, config, 2, resume=True)) == [1, 1]
    assert time.monotonic() - began < 30  # seconds, on a busy machine
    assert ranks.said(config, 0).splitlines()[-1].startswith("forecast: every checkpoint in ")
    assert "damaged" not in ranks.said(config, 1)


def test_a_checkpoint_of_another_model_is_one_line_from_the_first_rank(
    context: Any, archive: Path, tmp_path: Path, pair: Path
) -> None:
    shutil.copytree(pair, tmp_path / "training", symlinks=True)
    config = configs.parse({**plain(short(tmp_path, archive)), "seed": 7})
    assert ranks.codes(ranks.start(context, config, 2, resume=True)) == [1, 1]
    assert ranks.said(config, 0).splitlines()[-1].endswith("seed (was 1, now 7); change it back, or use --out")
    assert ranks.said(config, 1) == ""


def killed_at_random(context: Any, config: Config, size: int, key: int) -> bool:
    """Resume, and kill one rank at a random moment; whether it died of that, all others ending as well.

    Now and then gloo, which connects to the one that died, keeps another beyond its time limit: docs/checkpoints.md.
    """
    wait, which, place = seeding.uniform(key, 3)
    metrics = Path(config.root) / "training" / "metrics.jsonl"
    before = metrics.stat().st_size if metrics.exists() else 0
    started = ranks.start(context, config, size, resume=True)
    while all(process.is_alive() for process in started) and place < 0.8:
        if metrics.exists() and metrics.stat().st_size not in (0, before):
            break  # it makes updates
        time.sleep(0.002)
    time.sleep(0.5 * wait)
    victim = started[int(which * size)]
    victim.kill()
    found = ranks.codes(started, 130)  # who is left alone while ranks meet waits for 100 s, see `ranks`
    assert None not in found, f"ranks hang after {victim.name} was killed: {found}"
    return victim.exitcode == -9


def killed_often(context: Any, config: Config, kills: int, seed: int) -> int:
    """Kill until the run has come to its end or been killed so often; then let it end. Returns how often."""
    done = sum(killed_at_random(context, config, 2, seeding.key(seed, "kill", n)) for n in range(kills))
    assert ranks.codes(ranks.start(context, config, 2, resume=True)) == [0, 0], ranks.said(config, 0)
    return done


def test_a_rank_killed_at_random_moments_changes_nothing(
    context: Any, archive: Path, tmp_path: Path, pair: Path
) -> None:
    config = short(tmp_path, archive)
    assert killed_often(context, config, kills=2, seed=1) == 2
    assert apart(tmp_path / "training", pair) == 0 and losses(tmp_path / "training") == losses(pair)


@pytest.mark.slow
def test_ranks_killed_fifty_times_at_random_moments_change_nothing(
    context: Any, archive: Path, tmp_path: Path, pair: Path
) -> None:
    kills = 0
    for seed in range(2, 40):
        config = short(tmp_path / str(seed), archive)
        kills += killed_often(context, config, kills=4, seed=seed)
        assert apart(tmp_path / str(seed) / "training", pair) == 0, seed
        if kills >= 50:
            return
    raise AssertionError(f"only {kills} kills met a run that was not at its end")


def test_what_is_not_finite_names_its_rank(context: Any, archive: Path, tmp_path: Path) -> None:
    config = short(tmp_path, archive)
    assert ranks.codes(ranks.start(context, config, 2, spoil=(1, 6))) == [1, 1]
    line = ranks.said(config, 0).splitlines()[-1]
    expected = (
        r"forecast: update 6: loss, gradient_norm not finite on rank 1 on \S+ \(windows from (2001-\S+, ){1}2001-"
    )
    assert re.match(expected, line), line
    assert (tmp_path / "training" / "latest").resolve().name == "update-00000004"


def test_sharded_weights_go_on_in_one_process(context: Any, archive: Path, tmp_path: Path, alone: Path) -> None:
    """FSDP2 on two ranks; each writes its rows of weights, averages and moments."""
    config = short(tmp_path, archive, mesh={"parameters": "sharded"})
    legs(context, config, [2, 1], at=[5])
    assert apart(tmp_path / "training", alone) < TOLERANCE


def test_the_end_of_a_jobs_time_saves_stops_and_says_so(context: Any, archive: Path, tmp_path: Path) -> None:
    config = short(tmp_path, archive, wall_time="5s", stages=[{"updates": 9000, "lr": 1e-4}])
    began = time.monotonic()
    assert ranks.codes(ranks.start(context, config, 2)) == [75, 75], ranks.said(config, 0)
    assert time.monotonic() - began < 60  # far from 9000 updates, on a busy machine as well
    folder, (*_, last) = tmp_path / "training", ranks.said(config, 0).splitlines()
    done = len(losses(folder))
    assert last == f"forecast: training.wall_time is near after update {done}: saved, go on with --resume"
    assert (folder / "latest").resolve().name == f"update-{done:08d}" and (folder / "stopped").exists()


@pytest.mark.slow
def test_torchrun_starts_all_again_when_a_rank_dies(archive: Path, tmp_path: Path, pair: Path) -> None:
    config = short(tmp_path, archive)
    agent = launched.torchrun(config, "--standalone", "--nproc-per-node=2", "--max-restarts=2")
    try:
        launched.wait_for_update(config, 5, [agent])
        os.kill(launched.workers(agent)[-1], signal.SIGKILL)
        assert agent.wait(200) == 0, (tmp_path / "log").read_text()[-3000:]
    finally:
        agent.kill()
    assert apart(tmp_path / "training", pair) == 0 and losses(tmp_path / "training") == losses(pair)
    assert not (tmp_path / "training" / "stopped").exists()
