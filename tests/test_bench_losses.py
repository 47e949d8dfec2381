"""The benchmark of the losses: its verdict, what it measures of ours, and what it says without a network."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "scripts/bench_losses.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_losses", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def rows(bench: ModuleType, memory: float = 1.0, naive: float = 30.0) -> list:
    found = []
    for members in (2, 4, 16, 50):
        row = {bench.OURS: {"seconds": 1.0, "memory": memory}, bench.STABLE: {"seconds": 40.0}}
        found.append((bench.Case(members, 10, 1, "float32"), row | {bench.NAIVE: {"seconds": naive}}))
    return found


def test_verdict(bench: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.verdict(rows(bench)) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "target speed of 16 members over stable: reached 40.00x, asked 20x"
    assert said[-1] == "target peak memory over the members: reached 1.00x, asked at most 2x"
    assert bench.verdict(rows(bench, memory=2.1)) == 1
    assert bench.verdict(rows(bench, naive=19.9)) == 1  # of 50 members
    assert bench.verdict(rows(bench, naive=0.7)) == 1  # the faster of 2 and 4 members
    assert bench.verdict(rows(bench)[:3]) == 1  # 50 members were not measured


def test_measures_ours(bench: ModuleType) -> None:
    case = bench.Case(16, 2_000, torch.get_num_threads(), "bfloat16")
    row = bench.measure_time(case, [bench.OURS], 0.1)[bench.OURS]
    assert 0 < row["seconds"] < 10
    assert row["value"] > 0
    assert bench.measure_memory(case, bench.OURS)[bench.OURS]["memory"] < 2


def test_without_a_network_it_says_so_in_one_line(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    environment |= {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
    command = [sys.executable, str(SCRIPT), "--quick", "--peer", str(tmp_path / "peer")]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert "cannot install anemoi-training" in result.stderr
