"""A run's configuration: one YAML file, `--set a.b=c`, and errors that name the nearest known key."""

from __future__ import annotations

import difflib
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from forecast.core.archive_sections import Source, StoreSection
from forecast.core.errors import ForecastError
from forecast.core.model_sections import KINDS, GraphTransformerSection, ModelSection
from forecast.core.sections import (
    DataSection,
    ForecastSection,
    LossSection,
    Section,
    TrainingSection,
    VerificationSection,
)
from forecast.core.technique_sections import NAMES

_TAGS = {"planet", "grib", "netcdf", "zarr", "anemoi", *KINDS, *NAMES}
"""kinds of sections, which pydantic puts between the keys of an error"""
S = TypeVar("S", bound=Section)


class Config(Section):
    """One run, whole. Relative paths lie under `root`."""

    name: str
    title: str = ""
    root: str = "runs"
    seed: int = 1
    source: Source
    store: StoreSection = StoreSection()
    data: DataSection
    model: ModelSection = GraphTransformerSection()
    loss: LossSection = LossSection()
    training: TrainingSection
    forecast: ForecastSection
    verification: VerificationSection = VerificationSection()

    def path(self, name: str) -> Path:
        """`name` under the run's root (absolute names stay)."""
        return Path(self.root) / name


def load(path: str | Path, settings: tuple[str, ...] = ()) -> Config:
    """Read a YAML config and apply `a.b=c` settings.

    A name without a folder or suffix (`demo`) means a config that ships with the package.

    Raises:
        ForecastError: no such file, not YAML, an unknown key (names the nearest known one), a bad value.
    """
    path = _find(path)
    try:
        raw = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ForecastError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise ForecastError(f"{path}: a config is a mapping of sections, e.g. `name: demo`")
    return parse(raw, str(path), settings)


def parse(raw: dict[str, Any], where: str = "config", settings: tuple[str, ...] = ()) -> Config:
    """Build a Config from plain data, to which `settings` are applied; see `load` for errors."""
    for setting in settings:
        _apply(raw, setting)
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        raise ForecastError(f"{where}: " + "; ".join(_explain(e) for e in error.errors())) from None


def adjusted(kind: type[S], name: str, settings: tuple[str, ...]) -> S:
    """Section `name` on its own, its defaults changed by settings `name.key=value`; see `load` for errors."""
    raw: dict[str, Any] = {name: {}}
    for setting in settings:
        _apply(raw, setting)
    if len(raw) > 1:
        raise ForecastError(f"--set {settings[0]}: only settings of `{name}` count here, e.g. {name}.key=value")
    return section(kind, raw[name], name)


def section(kind: type[S], raw: dict[str, Any], where: str) -> S:
    """One section from plain data; see `load` for errors."""
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        raise ForecastError(f"{where}: " + "; ".join(_explain(e) for e in error.errors())) from None


def shipped() -> Path:
    """The folder of the configs that ship with the package (in the wheel, or the checkout)."""
    inside = Path(__file__).parents[1] / "configs"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "configs"


def _find(path: str | Path) -> Path:
    path = Path(path)
    candidates = [path, shipped() / path.name, shipped() / f"{path.name}.yaml"]
    if len(path.parts) > 1:
        candidates = [path]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    known = ", ".join(sorted(p.stem for p in shipped().glob("*.yaml")))
    raise ForecastError(f"no config {path}: give a YAML file, or one that ships: {known}")


def _apply(raw: dict[str, Any], setting: str) -> None:
    keys, sep, value = setting.partition("=")
    if not sep or not keys:
        raise ForecastError(f"--set {setting}: expected a.b=value")
    *parents, last = keys.split(".")
    node: Any = raw
    for key in [*parents, last][:-1]:
        node = _child(node, key, setting)
    value = yaml.safe_load(value)
    if isinstance(node, list):
        node[_index(node, last, setting)] = value
    else:
        node[last] = value


def _child(node: Any, key: str, setting: str) -> Any:
    child = node[_index(node, key, setting)] if isinstance(node, list) else node.setdefault(key, {})
    if not isinstance(child, dict | list):
        raise ForecastError(f"--set {setting}: `{key}` is a single value, not a section")
    return child


def _index(node: list[Any], key: str, setting: str) -> int:
    if not key.isdigit() or int(key) >= len(node):
        raise ForecastError(f"--set {setting}: `{key}` must be an index below {len(node)}")
    return int(key)


def _explain(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"] if part not in _TAGS)
    if error["type"] == "extra_forbidden":
        known = _known_keys(error["loc"][:-1])
        near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1, cutoff=0.0)
        return f"unknown key `{where}`" + (f", did you mean `{near[0]}`?" if near else "")
    if error["type"] == "missing":
        return f"`{where}` is missing"
    message = error["msg"].removeprefix("Value error, ")
    return f"`{where}`: {message}" if where else message


def _known_keys(loc: tuple[Any, ...]) -> list[str]:
    models: list[type[Section]] = [Config]
    for part in loc:
        if part in _TAGS:
            models = [model for model in models if _tag(model) == part] or models
        if isinstance(part, int) or part in _TAGS:
            continue
        fields = [model.model_fields[part] for model in models if part in model.model_fields]
        models = [section for field in fields for section in _sections(field.annotation)]
    return sorted({key for model in models for key in model.model_fields})


def _tag(model: type[Section]) -> Any:
    """The kind or name by which a section is told from others in its place."""
    return next((model.model_fields[key].default for key in ("kind", "name") if key in model.model_fields), None)


def _sections(annotation: Any) -> list[type[Section]]:
    is_class = isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias)
    if is_class and issubclass(annotation, Section):
        return [annotation]
    return [s for arg in typing.get_args(annotation) for s in _sections(arg)]
