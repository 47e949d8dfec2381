"""A run's configuration: frozen sections, one YAML file, `--set a.b=c`, unknown keys refused."""

from __future__ import annotations

import difflib
import types
import typing
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from forecast.core.errors import ForecastError
from forecast.core.times import parse_duration, parse_time

Time = Annotated[np.datetime64, BeforeValidator(parse_time)]
Duration = Annotated[np.timedelta64, BeforeValidator(parse_duration)]


class Section(BaseModel):
    """Base of all sections: frozen, no unknown keys, defaults validated as well."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True, validate_default=True)


class PlanetSource(Section):
    """The sample planet as an archive (forecast/planet)."""

    kind: Literal["planet"]
    years: int = Field(8, ge=1, description="simulated years, one trajectory each, run side by side")
    first_year: int = 2001
    truncation: Literal[21, 31] = 21
    seed: int = 1


class FileSource(Section):
    """GRIB or NetCDF files."""

    kind: Literal["grib", "netcdf"]
    paths: tuple[str, ...] = Field(min_length=1, description="files or glob patterns, relative to the working folder")
    variables: tuple[str, ...] | None = Field(None, description="names to keep (z_500, 2t); all if absent")
    rename: dict[str, str] = Field({}, description="name in the file -> ERA5 name, where the file's is not known")
    units: dict[str, str] = Field({}, description="ERA5 name -> unit, where the file states none")
    frequency: Duration | None = Field(None, description="time step of the store; the files' own if absent")


Source = Annotated[PlanetSource | FileSource, Field(discriminator="kind")]


class StoreSection(Section):
    """What ingest writes."""

    path: str = "truth.zarr"
    analysis: str | None = Field(None, description="second store with the analyses (sample planet only)")
    dates_per_shard: int = Field(64, ge=1)
    workers: int = Field(2, ge=1, description="Dask threads")
    allow_nan: bool = Field(False, description="accept missing values within fields, e.g. sst over land")


Normalisation = Literal["mean-std", "std", "max", "none"]
Forcing = Literal[
    "cos_latitude", "sin_latitude", "cos_longitude", "sin_longitude",
    "cos_julian_day", "sin_julian_day", "cos_local_time", "sin_local_time", "insolation",
]  # fmt: skip


class DataSection(Section):
    """Which states the forecaster sees, and when."""

    train: tuple[Time, Time]
    validation: tuple[Time, Time]
    step: Duration = Field(np.timedelta64(6, "h"), description="time step of the forecaster, a multiple of the store's")
    input_steps: int = Field(2, ge=1, description="states given to the forecaster: t-step and t for 2")
    prognostic: tuple[str, ...] = Field(min_length=1, description="predicted and fed back")
    diagnostic: tuple[str, ...] = Field(
        (), description="predicted, not fed back (tp: the sum over the store's step that ends at the date)"
    )
    static: tuple[str, ...] = ()
    forcings: tuple[Forcing, ...] = ("cos_latitude", "sin_latitude", "cos_longitude", "sin_longitude",
                                     "cos_julian_day", "sin_julian_day")  # fmt: skip
    normalisation: dict[str, Normalisation] = Field({}, description="variable -> method; mean-std for the rest")
    prefetch: int = Field(2, ge=0, description="batches read ahead by a thread")


class ModelSection(Section):
    """Graph transformer of the AIFS-CRPS kind: grid -> icosahedral mesh -> grid."""

    kind: Literal["graph_transformer"] = "graph_transformer"
    mesh_refinement: int = Field(3, ge=0, le=7, description="icosahedral refinements: 3 = 642 nodes")
    mesh_region: bool = Field(False, description="keep only mesh nodes near the grid (regional grids)")
    width: int = Field(128, ge=8)
    heads: int = Field(4, ge=1)
    layers: int = Field(4, ge=1)
    mlp_ratio: float = Field(2.0, gt=0)
    processor: Literal["graph", "dense"] = Field("graph", description="attention to mesh neighbours, or to all nodes")
    grid_width: int = Field(64, ge=8, description="features per grid point, where most of the nodes are")
    grid_heads: int = Field(4, ge=1)
    encoder_neighbours: int = Field(12, ge=1)
    processor_neighbours: int = Field(7, ge=1, description="nearest mesh nodes, itself included")
    coarse_neighbours: int = Field(3, ge=0, description="nearest nodes of each coarser level of the mesh")
    decoder_neighbours: int = Field(4, ge=1)
    noise_channels: int = Field(4, ge=1)
    noise_hidden: int = Field(32, ge=1)
    trainable_features: int = Field(8, ge=0, description="learnt numbers per node")
    activation_checkpointing: bool = False

    @model_validator(mode="after")
    def _heads_divide_width(self) -> ModelSection:
        for heads, width in (("heads", "width"), ("grid_heads", "grid_width")):
            if getattr(self, width) % getattr(self, heads):
                given = f"model.{heads}={getattr(self, heads)} must divide model.{width}={getattr(self, width)}"
                raise ValueError(given)
        return self


class LossSection(Section):
    """The score that is trained, and its weights."""

    name: str = "almost_fair_crps"
    alpha: float = Field(0.95, ge=0, le=1)
    variable_weights: dict[str, float] = Field({}, description="variable or short name -> weight; 1 for the rest")
    level_slope: float = Field(0.001, ge=0, description="weight of a level: max(floor, slope * hPa)")
    level_floor: float = Field(0.2, ge=0)
    tendency_weighting: bool = Field(True, description="score in units of the 6 h tendency's standard deviation")


class Stage(Section):
    """One leg of the curriculum."""

    updates: int = Field(ge=1)
    rollout: int | tuple[int, int] = Field(1, description="steps per window, or (first, last), growing evenly")
    lr: float = Field(gt=0)
    members: int | None = Field(None, ge=2, description="in place of training.members")
    warmup: int = Field(0, ge=0, description="updates of linear warm-up")
    schedule: Literal["cosine", "constant"] = "cosine"


class TrainingSection(Section):
    """How the forecaster is trained."""

    members: int = Field(4, ge=2)
    batch_size: int = Field(4, ge=1)
    stages: tuple[Stage, ...] = Field(min_length=1)
    optimizer: Literal["adamw", "muon"] = Field("adamw", description="muon: for matrices inside the network")
    weight_decay: float = Field(0.1, ge=0)
    betas: tuple[float, float] = (0.9, 0.95)
    clip_norm: float = Field(1.0, gt=0)
    ema: float = Field(0.999, ge=0, lt=1, description="decay of the averaged weights; 0 switches it off")
    start_from: str | None = Field(None, description="checkpoint of another run; weights that fit are taken over")
    analysis_share: float = Field(0.5, ge=0, le=1, description="share of windows that start from the analysis store")
    validate_every: int = Field(200, ge=1)
    validation_starts: int = Field(4, ge=1)
    validation_steps: int = Field(4, ge=1, description="length of validation rollouts")
    checkpoint_every: int = Field(100, ge=1)
    device: Literal["cpu", "cuda", "auto"] = "auto"
    precision: Literal["float32", "bfloat16", "auto"] = Field(
        "float32", description="of matrix products, then also in forecasts; auto: bfloat16 where the device has it"
    )
    compile: bool = False


class Starts(Section):
    """Initial times: a list, or a range with both ends."""

    first: Time | None = None
    last: Time | None = None
    every: Duration = np.timedelta64(24, "h")
    at: tuple[Time, ...] = ()

    @model_validator(mode="after")
    def _one_kind(self) -> Starts:
        if bool(self.at) == bool(self.first is not None and self.last is not None):
            raise ValueError("starts: give either `at` (a list) or `first` and `last` (a range)")
        return self

    def times(self) -> np.ndarray:
        """The starts as datetime64[s], in order, without repeats."""
        if self.at:
            return np.unique(np.array(self.at, dtype="datetime64[s]"))
        assert self.first is not None and self.last is not None
        return np.arange(self.first, self.last + np.timedelta64(1, "s"), self.every.astype("timedelta64[s]"))


class ForecastSection(Section):
    """The ensembles to make."""

    starts: Starts
    members: int = Field(20, ge=1)
    lead: Duration = np.timedelta64(15 * 24, "h")
    out: str = "forecast.zarr"
    member_batch: int = Field(10, ge=1, description="members computed together; member k's bits depend on it")
    perturbation: Literal["none", "analysis-error"] = Field(
        "none", description="of the learnt members' initial states; physics members are always perturbed"
    )
    physics: dict[Literal["perfect", "imperfect"], str] = Field(
        {}, description="planet only: settings -> forecast store"
    )


class VerificationSection(Section):
    """What is scored, and against what."""

    regions: tuple[str, ...] | None = Field(None, description="globe, n.hem, s.hem, tropics, or domain if absent")
    variables: tuple[str, ...] | None = None
    leads: tuple[Duration, ...] | None = Field(None, description="lead times to score; all if absent")
    climatology: tuple[Time, Time] | None = Field(None, description="its period; the training period if absent")
    climatology_window: Duration = Field(np.timedelta64(5 * 24, "h"), description="days around the calendar day")
    ridge: bool = Field(False, description="also show ridge regression (small regional grids)")
    out: str = "scores"
    report: str = "report.html"


class Config(Section):
    """One run, whole. Relative paths lie under `root`."""

    name: str
    title: str = ""
    root: str = "runs"
    seed: int = 1
    source: Source
    store: StoreSection = StoreSection()
    data: DataSection
    model: ModelSection = ModelSection()
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
    where = ".".join(str(part) for part in error["loc"] if part not in ("planet", "grib", "netcdf"))
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
        if isinstance(part, int) or part in ("planet", "grib", "netcdf"):
            continue
        fields = [model.model_fields[part] for model in models if part in model.model_fields]
        models = [section for field in fields for section in _sections(field.annotation)]
    return sorted({key for model in models for key in model.model_fields})


def _sections(annotation: Any) -> list[type[Section]]:
    is_class = isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias)
    if is_class and issubclass(annotation, Section):
        return [annotation]
    return [s for arg in typing.get_args(annotation) for s in _sections(arg)]
