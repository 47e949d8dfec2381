"""The package as a user installs it: the wheel holds the whole tree, and its command runs from any folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

import forecast

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built by the build backend that is installed: no network."""
    out = tmp_path_factory.mktemp("wheel")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--wheel-dir", str(out)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(ROOT)], check=True)
    (made,) = out.glob("*.whl")
    return made


def tree() -> Iterator[str]:
    """Every file that the wheel should hold, by its name in there."""
    for folder, inside in (("forecast", "forecast"), ("pipelines", "pipelines"), ("configs", "forecast/configs")):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                yield f"{inside}/{path.relative_to(ROOT / folder)}"


def test_wheel_holds_every_module_and_config_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name for name in names if ".dist-info/" not in name} == set(tree())
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert wheel.name == f"forecast-{forecast.__version__}-py3-none-any.whl"


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment with the wheel in it; the libraries come from this one, but not the code."""
    place = tmp_path_factory.mktemp("an environment")
    venv.create(place, with_pip=False)
    pip = [sys.executable, "-m", "pip", "--python", str(place / "bin/python"), "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel)], check=True)
    site = next(place.glob("lib/python*/site-packages"))
    libraries = {str(Path(str(metadata.distribution(name).locate_file(""))).resolve()) for name in ("numpy", "torch")}
    (site / "libraries.pth").write_text("\n".join(libraries))  # plain folders: their own .pth files are not followed
    return place / "bin"


def run(program: Path, *arguments: str, folder: Path) -> str:
    plain = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run([program, *arguments], cwd=folder, env=plain, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_command_runs_from_another_folder(installed: Path, tmp_path: Path) -> None:
    said = run(installed / "forecast", "--help", folder=tmp_path)
    for command in ("check", "ingest", "planet", "inspect", "train", "run", "verify", "report", "demo"):
        assert re.search(rf"\b{command}\b", said), f"no command {command} in:\n{said}"


def test_installed_package_is_whole(installed: Path, tmp_path: Path) -> None:
    """Every module imports, from the wheel and not from the checkout, and every config that ships is valid."""
    program = """
import importlib, pathlib, forecast, pipelines
site = pathlib.Path(forecast.__file__).parents[1]
for path in [*site.glob("forecast/**/*.py"), *site.glob("pipelines/**/*.py")]:
    importlib.import_module(".".join(path.relative_to(site).with_suffix("").parts).removesuffix(".__init__"))
from forecast.core import config
for path in sorted(config.shipped().glob("*.yaml")):
    print(config.load(path.stem, ()).name, path)
"""
    said = run(installed / "python", "-c", program, folder=tmp_path)
    assert len(said.splitlines()) == len(list((ROOT / "configs").glob("*.yaml")))
    assert str(ROOT) not in said


def test_nothing_asked_for_is_left_out() -> None:
    """This environment satisfies the ranges that pyproject.toml states."""
    from packaging.requirements import Requirement

    stated = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    for requirement in map(Requirement, stated):
        assert requirement.specifier.contains(metadata.version(requirement.name), prereleases=True), requirement
