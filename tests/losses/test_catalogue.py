"""The library as a whole: its page is up to date, every loss is built or says what it needs, and all keep the rules."""

import inspect
import re
import tomllib
import warnings
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import nn

import forecast
from forecast.core.errors import ForecastError
from forecast.losses import catalogue, registry
from forecast.losses.common import from_memory, wide

ROOT = Path(forecast.__file__).parents[1]
PAGE = ROOT / "docs" / "losses.md"
ENTRIES = registry.entries()


def each(entries=ENTRIES):
    return pytest.mark.parametrize("entry", entries, ids=lambda entry: entry.name)


def test_page_is_what_the_registry_says():
    assert PAGE.read_text() == catalogue.render(), "python -m forecast.losses.catalogue > docs/losses.md"


def test_page_lists_every_loss_once():
    text = catalogue.render()
    for name in registry.names():
        assert text.count(f"\n| `{name}` | ") == 1
    tables = [line for line in text.splitlines() if line.startswith("| `")]
    widths = {len(re.split(r"(?<!\\)\|", line)) for line in tables}
    assert len(tables) == len(ENTRIES) and widths == {len(catalogue.COLUMNS) + 2}


def test_examples_of_the_page_run():
    examples = re.findall(r"```python\n(.*?)```", catalogue.INTRODUCTION, flags=re.DOTALL)
    names: dict = {}
    for example in examples:
        exec(compile(example, PAGE.name, "exec"), names)
    assert len(examples) == 3
    assert names["same"].ndim == 0 and names["total"].ndim == 0
    assert set(names["parts"]) == {"error", "tails"} and names["total"].isfinite()


@each()
def test_it_is_built_or_says_what_it_needs(entry):
    try:
        assert isinstance(registry.build({"name": entry.name}), nn.Module)
    except ForecastError as error:
        assert re.search(r"needs `\w+`", str(error)), error


@each()
def test_it_says_what_it_is(entry):
    assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", entry.name) and not entry.name.endswith("_loss")
    assert entry.status in get_args(registry.Status) and entry.takes in get_args(registry.Takes)
    for words in (entry.formula, entry.source, entry.use):
        assert words.strip() == words != "" and "\n" not in words and "`" not in words
    assert inspect.getdoc(entry.make)
    function = getattr(entry.make, "function", None)
    if function is not None:
        assert inspect.getdoc(function)


@each([entry for entry in ENTRIES if hasattr(entry.make, "function")])
def test_a_thin_module_takes_its_data_by_position_and_its_settings_by_keyword(entry):
    kinds = {p.kind for p in inspect.signature(entry.make.function).parameters.values()}
    assert kinds <= {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}
    assert "reduction" not in [p.name for p in inspect.signature(entry.make.function).parameters.values()
                               if p.kind is p.POSITIONAL_OR_KEYWORD]  # fmt: skip


@each([entry for entry in ENTRIES if entry.status == "from memory"])
def test_what_is_from_memory_is_an_experiment_and_warns(entry):
    assert entry.family.startswith("experimental.")
    function = getattr(entry.make, "function", None)
    if function is not None:
        assert getattr(function, "from_memory", False)
    else:
        assert "@from_memory" in Path(inspect.getfile(entry.make)).read_text()


@each([entry for entry in ENTRIES if not entry.family.startswith("experimental.")])
def test_nothing_else_warns(entry):
    assert not getattr(getattr(entry.make, "function", None), "from_memory", False)


@pytest.mark.parametrize("inner_first", [True, False])
def test_a_loss_from_memory_warns_once(inner_first):
    def plain(x):
        return x.sum()

    loss = from_memory(wide(plain)) if inner_first else wide(from_memory(plain))
    assert loss.from_memory
    with pytest.warns(UserWarning, match="plain was built from memory"):
        loss(torch.ones(2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss(torch.ones(2))


def test_files_are_short():
    for path in (ROOT / "forecast" / "losses").rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 350, path


def test_extras_are_declared():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {entry.extra for entry in ENTRIES if entry.extra} <= set(extras)


def test_every_family_of_the_folder_is_imported():
    """A file that registers losses and that nobody imports would be missing from the page."""
    folder = ROOT / "forecast" / "losses"
    for path in folder.rglob("*.py"):
        if re.search(r"^@register\(", path.read_text(), flags=re.MULTILINE):
            family = ".".join(path.relative_to(folder).with_suffix("").parts)
            assert any(entry.family == family for entry in ENTRIES), f"{family} is not imported by forecast.losses"
