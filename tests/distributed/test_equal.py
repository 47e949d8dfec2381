"""A run on a mesh of processes equals that of one process: losses, first gradients, weights, averages, validation.

Tolerances: sums are taken in another order, so losses and gradients differ in their last bits (float32: 1e-7, seen up
to 5e-7). Adam divides a gradient by its own size, so weights whose gradient is no more than rounding move apart by up
to their learning rate; 20 updates of that stay below 2e-4 of a tensor's norm (seen: 5e-5).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from forecast.training.mesh import Mesh
from tests import tiny
from tests.distributed import runs

ROOT = Path(__file__).parents[2]
QUICK = ("graph-few:1x1x2", "graph-few:1x2x1", "fuxi-few:1x1x2", "fuxi-few:2x1x1:sharded", "compact:2x1x1:sharded",
         "fields:1x1x2", "waves:1x1x2")  # fmt: skip
LONG = {
    2: (*(f"{kind}:{mesh}" for kind in ("graph", "fuxi") for mesh in ("2x1x1", "1x2x1", "1x1x2")), "compact:1x1x2",
        "dense:1x1x2", "harmonic:1x1x2", "edges:1x1x2", "dropout:1x1x2", "fields:1x2x1", "waves:2x1x1:sharded"),
    4: tuple(f"{kind}:{mesh}" for kind in ("graph", "fuxi") for mesh in ("2x2x1", "1x2x2")),
}  # fmt: skip

TECHNIQUES = ("gradients:2x1x1", "gradients:1x2x1", "gradients:1x1x2", "samples:2x1x1", "generations:2x1x1")

Results = dict[str, Tensor]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    tiny.stores(folder)
    return folder


@pytest.fixture(scope="module")
def alone(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Results]:
    """What one process without torch.distributed makes of a case."""
    made: dict[str, Results] = {}

    def of(case: str) -> Results:
        if case not in made:
            made[case] = runs.run(runs.config(case, tmp_path_factory.mktemp("alone"), archive), Mesh())
        return made[case]

    return of


def together(processes: int, cases: tuple[str, ...], archive: Path, out: Path) -> dict[str, Results]:
    """What a mesh makes of all cases, in one group of processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes),
               "-m", "tests.distributed.worker", str(out), str(archive), *cases]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=3000)
    assert done.returncode == 0, done.stderr[-4000:]
    return {case: load_file(out / f"{case.replace(':', '-')}.safetensors") for case in cases}


def assert_equal(found: Results, expected: Results, what: str) -> None:
    assert found.keys() == expected.keys()
    whole = torch.stack([g.norm() for name, g in expected.items() if name.startswith("gradient/")]).norm()
    for name, value in expected.items():
        group, error = name.partition("/")[0], (found[name] - value).norm()
        if group in ("term", "score"):
            assert error <= 1e-5 * value.norm(), f"{what}: {name}"
        elif group == "gradient":
            assert error <= 1e-5 * value.norm() + 1e-6 * whole, f"{what}: {name}"
        else:
            assert error <= 2e-4 * value.norm(), f"{what}: {name}"


def test_two_processes_equal_one(archive: Path, alone: Callable[[str], Results], tmp_path: Path) -> None:
    for what, found in together(2, QUICK, archive, tmp_path).items():
        assert_equal(found, alone(what.partition(":")[0]), what)


@pytest.mark.slow
def test_techniques_on_a_mesh_equal_one_process(archive: Path, alone: Callable[[str], Results], tmp_path: Path) -> None:
    for what, found in together(2, TECHNIQUES, archive, tmp_path).items():
        assert_equal(found, alone(what.partition(":")[0]), what)


@pytest.mark.slow
@pytest.mark.parametrize("processes", LONG)
def test_twenty_updates_on_every_mesh_equal_one_process(
    processes: int, archive: Path, alone: Callable[[str], Results], tmp_path: Path
) -> None:
    """Rollouts of 3, accumulation, clipping, an average, recomputed activations."""
    for what, found in together(processes, LONG[processes], archive, tmp_path).items():
        assert_equal(found, alone(what.partition(":")[0]), what)


def test_a_wrong_gradient_would_be_seen(alone: Callable[[str], Results]) -> None:
    right = alone("compact")
    for name in ("gradient/network.encoder.points", "term/loss", "weight/network.encoder.embed.weight"):
        with pytest.raises(AssertionError, match=name):
            assert_equal({**right, name: right[name] * 1.001}, right, "")
