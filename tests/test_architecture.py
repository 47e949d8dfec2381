"""The walls of the house: who may import whom, how long things may be, and what no code here may call."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CHAIN = ("core", "planet", "data", "losses", "models", "training")  # each may take those before it
ROOMS = {room: {room, *CHAIN[:place]} for place, room in enumerate(CHAIN)} | {
    "inference": {"inference", "core", "data", "models"},
    "verification": {"verification", "core"},
    "report": {"report", "core"},
    "outputs": {"outputs", "core"},
    "plots": {"plots", "outputs", "core"},
}
ROOMS["training"] |= {"verification"}  # its numpy kernels score the validation forecasts
WITHOUT_TORCH = ("core", "planet", "verification", "report", "outputs", "plots")

FILE_LINES, PIPELINE_LINES, FUNCTION_LINES = 350, 80, 60

PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
NETWORK = {"requests", "urllib", "urllib3", "http", "httpx", "aiohttp", "ftplib"}
BANNED_CALLS = {
    "eval", "exec", "torch.load", "torch.save", "torch.hub.load", "os.system",
    "yaml.load", "yaml.full_load", "yaml.unsafe_load", "pd.read_pickle", "pandas.read_pickle",
}  # fmt: skip
UNKEYED = ("np.random.", "numpy.random.", "random.", "torch.rand")  # random numbers come from core/seeding.py

FILES = sorted([*(ROOT / "forecast").rglob("*.py"), *(ROOT / "pipelines").rglob("*.py")])
Found = Iterator[tuple[int, str]]  # line, what is wrong


def parts(path: Path) -> tuple[str, ...]:
    """Dotted name of a file's module, split: ('forecast', 'core', 'grids')."""
    inside = path.relative_to(ROOT).with_suffix("").parts
    return inside[:-1] if inside[-1] == "__init__" else inside


def imports(tree: ast.AST, package: tuple[str, ...]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """All modules that a file imports, at the top or within a function, with relative imports resolved."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, tuple(alias.name.split("."))) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            base += tuple(node.module.split(".")) if node.module else ()
            yield from ((node.lineno, (*base, alias.name)) for alias in node.names)


def forbidden_imports(tree: ast.AST, module: tuple[str, ...], package: tuple[str, ...]) -> Found:
    """Imports against the direction of the rooms, of torch where it may not be, of pickles, of the network."""
    room = module[1] if len(module) > 1 and module[0] == "forecast" else None
    for line, name in imports(tree, package):
        if name[0] in PICKLES | NETWORK:
            yield line, f"imports {name[0]}: no pickles, and no network at run time"
        if room not in ROOMS:  # pipelines and forecast/cli.py may take all
            continue
        if name[0] == "pipelines" or name[:2] == ("forecast", "cli"):
            yield line, f"forecast.{room} imports {'.'.join(name)}"
        if name[0] == "forecast" and len(name) > 1 and name[1] in ROOMS and name[1] not in ROOMS[room]:
            yield line, f"forecast.{room} imports forecast.{name[1]}, and may take only {sorted(ROOMS[room])}"
        if room in WITHOUT_TORCH and name[0] in {"torch", "torch_geometric"}:
            yield line, f"forecast.{room} imports torch"


def banned_calls(tree: ast.AST) -> Found:
    """Calls by which a file from a stranger, or a config, could run code; random numbers that have no key."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        if name in BANNED_CALLS or name.startswith(UNKEYED):
            yield node.lineno, f"calls {name}"
        for keyword in node.keywords:
            unsafe = keyword.arg in {"allow_pickle", "shell"} and not (
                isinstance(keyword.value, ast.Constant) and keyword.value.value is False
            )
            if unsafe:
                yield node.lineno, f"calls {name} with {keyword.arg}"


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    yield from (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))


def long_functions(tree: ast.AST) -> Found:
    for function in functions(tree):
        length = (function.end_lineno or function.lineno) - function.lineno + 1
        if length > FUNCTION_LINES:
            yield function.lineno, f"{function.name} has {length} lines, more than {FUNCTION_LINES}"


def public_functions(tree: ast.Module) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef, bool]]:
    """Functions and methods of public classes whose names say that they are for others; with 'is a method'."""
    for node in tree.body:
        inside = [(n, True) for n in node.body] if isinstance(node, ast.ClassDef) and node.name[0] != "_" else []
        for function, is_method in [(node, False), *inside]:
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) and function.name[0] != "_":
                yield function, is_method


def undocumented(tree: ast.Module) -> Found:
    """Public functions with no docstring, public functions and methods with a parameter or result without a type."""
    for function, is_method in public_functions(tree):
        if not is_method and not ast.get_docstring(function):
            yield function.lineno, f"{function.name} has no docstring"
        given = function.args
        every = [*given.posonlyargs, *given.args, *given.kwonlyargs, *filter(None, (given.vararg, given.kwarg))]
        bare = [a.arg for a in every if a.annotation is None and a.arg not in ("self", "cls")]
        if bare or function.returns is None:
            yield function.lineno, f"{function.name} lacks type hints: {', '.join(bare) or 'result'}"


def check(path: Path, text: str) -> list[str]:
    """All that is wrong with a file, one line each."""
    tree = ast.parse(text)
    module = parts(path)
    package = module if path.name == "__init__.py" else module[:-1]
    found = [*forbidden_imports(tree, module, package), *banned_calls(tree), *long_functions(tree)]
    if module[0] == "forecast":
        found += undocumented(tree)
    limit = PIPELINE_LINES if module[0] == "pipelines" else FILE_LINES
    length = len(text.splitlines())
    if length > limit:
        found.append((length, f"the file has {length} lines, more than {limit}"))
    return [f"{path.relative_to(ROOT)}:{line}: {what}" for line, what in sorted(found)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_file_keeps_the_rules(path: Path) -> None:
    assert not (found := check(path, path.read_text())), "\n" + "\n".join(found)


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_tests_are_of_readable_size(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= FILE_LINES
    assert not list(long_functions(ast.parse(text)))


def test_every_room_is_known() -> None:
    rooms = {p.name for p in (ROOT / "forecast").iterdir() if (p / "__init__.py").exists()}
    assert rooms == set(ROOMS), "a new room needs its place in ROOMS and in docs/architecture.md"
    deep = [p for p in FILES if len(p.relative_to(ROOT).parts) > 4]
    assert not deep, "two folder levels at most within forecast/"


@pytest.mark.parametrize("room", WITHOUT_TORCH)
def test_room_never_loads_torch_not_even_through_others(room: str) -> None:
    modules = [".".join(parts(p)) for p in FILES if parts(p)[:2] == ("forecast", room)]
    program = f"import sys, {', '.join(modules)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


HINTS = "def f(x: int) -> int:\n    '''Doc.'''\n    return x\n"
BREACHES = {
    "against the direction": ("forecast/core/x.py", "from forecast.data import store"),
    "from the package's top": ("forecast/core/x.py", "from forecast import training"),
    "relative": ("forecast/data/x.py", "from ..models import graph"),
    "relative, from an __init__": ("forecast/data/__init__.py", "from ..models import graph"),
    "within a function": ("forecast/losses/x.py", "def _f():\n    import forecast.models.graph"),
    "inference takes no training": ("forecast/inference/x.py", "import forecast.training"),
    "verification takes core only": ("forecast/verification/x.py", "from forecast.data import batch"),
    "report takes no verification": ("forecast/report/x.py", "import forecast.verification"),
    "a room imports a pipeline": ("forecast/training/x.py", "import pipelines.train"),
    "a room imports the cli": ("forecast/training/x.py", "from forecast import cli"),
    "torch in core": ("forecast/core/x.py", "import torch.nn as nn"),
    "torch in the report": ("forecast/report/x.py", "from torch import nn"),
    "pickle": ("pipelines/x.py", "import pickle"),
    "network": ("forecast/data/x.py", "from urllib.request import urlopen"),
    "torch.load": ("forecast/models/x.py", "import torch\ntorch.load('x')"),
    "yaml.load": ("forecast/core/x.py", "import yaml\nyaml.load('x')"),
    "eval": ("pipelines/x.py", "eval('1')"),
    "allow_pickle": ("forecast/core/x.py", "import numpy as np\nnp.load('x', allow_pickle=True)"),
    "random without a key": ("forecast/models/x.py", "import torch\ntorch.randn(3)"),
    "a generator without a key": ("forecast/planet/x.py", "import numpy as np\nnp.random.default_rng(0)"),
    "long file": ("forecast/core/x.py", "x = 1\n" * 351),
    "long pipeline": ("pipelines/x.py", "x = 1\n" * 81),
    "long function": ("pipelines/x.py", "def f():\n" + "    x = 1\n" * 60),
    "no docstring": ("forecast/core/x.py", "def f(x: int) -> int:\n    return x"),
    "no type of a parameter": ("forecast/core/x.py", "def f(x) -> int:\n    '''Doc.'''"),
    "no type of a result": ("forecast/core/x.py", "class A:\n    def f(self, *xs: int):\n        pass"),
}  # fmt: skip
KEPT = {
    "down the chain": ("forecast/training/x.py", "from forecast.core import grids\nfrom ..verification import kernels"),
    "a sibling": ("forecast/data/x.py", "from .batch import Batch\nfrom . import loader"),
    "pipelines take all": ("pipelines/x.py", "import torch\nimport forecast.training\nimport pipelines.run"),
    "a model's own eval, safe loads": ("forecast/models/x.py", "model.eval()\nyaml.safe_load('')\nnp.load('x')"),
    "private needs no docstring": ("forecast/core/x.py", f"{HINTS}def _g(x):\n    return x"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "text"), BREACHES.values(), ids=BREACHES)
def test_a_breach_is_found(name: str, text: str) -> None:
    assert len(check(ROOT / name, text)) == 1


@pytest.mark.parametrize(("name", "text"), KEPT.values(), ids=KEPT)
def test_what_is_allowed_is_not_found(name: str, text: str) -> None:
    assert check(ROOT / name, text) == []
