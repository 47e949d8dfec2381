"""A run on a mesh of processes equals that of one process: losses, first gradients, weights, averages, validation.

In float64 they agree to 1e-11 after 20 updates (seen: 3e-14), so nothing differs but the order of sums. In float32 that
order shows: AdamW divides a gradient by its own size, so where it is nothing but rounding a weight moves by its whole
learning rate, at random. How far apart that drives two runs is measured by a run of one process whose first weights are
off by about a unit in their last place; a mesh may be ten times as far from it in no group of tensors.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

ROOT = Path(__file__).parents[2]
QUICK = ("graph-few:1x1x2", "graph-few:1x2x1", "fuxi-few:1x1x2", "waves:1x1x2", "terms:1x2x1", "muon:2x1x1:sharded")
LONG = {
    2: tuple(f"{kind}:{mesh}" for kind in ("graph", "fuxi") for mesh in ("2x1x1", "1x2x1", "1x1x2")),
    4: tuple(f"{kind}:{mesh}" for kind in ("graph", "fuxi") for mesh in ("2x2x1", "1x2x2")),
}
KINDS = ("compact:1x1x2", "dense:1x1x2", "harmonic:1x1x2", "edges:1x1x2", "dropout:1x1x2", "fields:1x2x1",
         "fields:1x1x2", "waves:2x1x1:sharded", "compact:2x1x1:sharded", "fuxi-few:2x1x1:sharded", "terms:1x1x2",
         "terms-fuxi:1x1x2", "terms-fuxi:1x2x1", "terms-learnt:2x1x1:sharded",
         "terms-learnt:1x2x1:sharded")  # fmt: skip
TECHNIQUES = ("gradients:2x1x1", "gradients:1x2x1", "gradients:1x1x2", "samples:2x1x1", "generations:2x1x1")

Results = dict[str, Tensor]


def made(processes: int, cases: tuple[str, ...], archive: Path, out: Path, double: bool = True) -> dict[str, Results]:
    """What so many processes make of all cases, one after another."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *launch[: 5 * (processes > 1)], "-m", "tests.distributed.worker", str(out), str(archive)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | ({"DOUBLE": "1"} if double else {})
    done = subprocess.run([*command, *cases], cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
                          timeout=3000)  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return {case: load_file(out / f"{case.replace(':', '-')}.safetensors") for case in cases}


def alone(cases: tuple[str, ...], archive: Path, out: Path) -> dict[str, Results]:
    """Of each case what one process makes, without torch.distributed."""
    kinds = {what: f"{what.partition(':')[0]}:1x1x1" for what in cases}
    found = made(1, tuple(sorted(set(kinds.values()))), archive, out)
    return {what: found[kind] for what, kind in kinds.items()}


def assert_equal(found: Results, expected: Results, what: str) -> None:
    assert found.keys() == expected.keys()
    whole = torch.stack([g.norm() for name, g in expected.items() if name.startswith("gradient/")]).norm()
    for name, value in expected.items():
        error, most = (found[name] - value).norm(), 1e-11 * value.norm()
        if name.startswith("gradient/"):
            most += 1e-12 * whole
        assert error <= most, f"{what}: {name} differs by {error:.1e} of {value.norm():.1e}"


def assert_meshes_equal(processes: int, cases: tuple[str, ...], archive: Path, out: Path) -> None:
    expected = alone(cases, archive, out)
    for what, found in made(processes, cases, archive, out).items():
        assert_equal(found, expected[what], what)


def test_two_processes_equal_one(archive: Path, tmp_path: Path) -> None:
    assert_meshes_equal(2, QUICK, archive, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("cases", [KINDS, TECHNIQUES], ids=["kinds", "techniques"])
def test_all_that_differs_between_models_equals_one_process(
    cases: tuple[str, ...], archive: Path, tmp_path: Path
) -> None:
    """Processors, scores, further terms, optimisers, weights in pieces; techniques."""
    assert_meshes_equal(2, cases, archive, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("processes", LONG)
def test_twenty_updates_on_every_mesh_equal_one_process(processes: int, archive: Path, tmp_path: Path) -> None:
    """Rollouts of 3, accumulation, clipping, an average, recomputed activations."""
    assert_meshes_equal(processes, LONG[processes], archive, tmp_path)


@pytest.mark.slow
def test_in_float32_a_mesh_is_as_far_from_one_process_as_rounding_drives_runs_apart(
    archive: Path, tmp_path: Path
) -> None:
    found = made(2, LONG[2], archive, tmp_path, double=False)
    for kind in ("graph", "fuxi"):
        one, other = made(1, (f"{kind}:1x1x1", f"{kind}:1x1x1:nudged"), archive, tmp_path, double=False).values()
        by_rounding = apart(one, other)
        for what, results in found.items():
            if what.startswith(kind):
                for group, distance in apart(one, results).items():
                    print(f"{what} {group}: {distance:.1e}, by rounding {by_rounding[group]:.1e}")
                    assert distance <= 10 * by_rounding[group], what


def apart(one: Results, other: Results) -> dict[str, float]:
    """Distance of each group of results, relative to its norm."""
    groups = sorted({name.partition("/")[0] for name in one})
    members = {group: [name for name in one if name.partition("/")[0] == group] for group in groups}
    norm = {group: torch.stack([one[name].norm() for name in names]).norm() for group, names in members.items()}
    away = {g: torch.stack([(one[n] - other[n]).norm() for n in names]).norm() for g, names in members.items()}
    return {group: float(away[group] / norm[group]) for group in groups}


def test_a_wrong_gradient_would_be_seen() -> None:
    names = ("gradient/a", "gradient/b", "term/loss", "weight/a")
    right = {name: torch.linspace(1.0, 2.0, 10, dtype=torch.float64) for name in names}
    assert_equal(right, right, "")
    for name in names:
        with pytest.raises(AssertionError, match=name):
            assert_equal({**right, name: right[name] * (1 + 1e-9)}, right, "")
