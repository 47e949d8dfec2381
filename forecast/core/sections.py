"""What a run's configuration may say: frozen sections, unknown keys refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, Field, model_validator

from forecast.core.section import Section as Section
from forecast.core.section import Time as Time
from forecast.core.technique_sections import AnyTechnique, check_together
from forecast.core.times import parse_duration

Duration = Annotated[np.timedelta64, BeforeValidator(parse_duration)]


Normalisation = Literal["mean-std", "std", "max", "none", "log"]
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
    masked: tuple[str, ...] = Field(
        (), description="of the predicted ones: with gaps (sst over land), not scored there"
    )
    forcings: tuple[Forcing, ...] = ("cos_latitude", "sin_latitude", "cos_longitude", "sin_longitude",
                                     "cos_julian_day", "sin_julian_day")  # fmt: skip
    normalisation: dict[str, Normalisation] = Field({}, description="variable -> method; mean-std for the rest")
    prefetch: int = Field(2, ge=0, description="batches read ahead")
    workers: int = Field(2, ge=1, description="threads that read and decode")


class Event(Section):
    """What an event head of the forecaster predicts: whether a variable exceeds values, or between which it lies."""

    variable: str
    above: float | tuple[float, ...] | None = Field(
        None, description="the variable's units; the event is a value above it, or a label for each of several"
    )
    edges: tuple[float, ...] = Field((), description="rising, the variable's units; n edges make n + 1 classes")

    @model_validator(mode="after")
    def _one_kind(self) -> Event:
        if (self.above is None or self.above == ()) == (not self.edges):
            raise ValueError("an event needs either `above` (a value or several) or `edges` (of bins)")
        values = self.edges or (self.above if isinstance(self.above, tuple) else ())
        if any(b <= a for a, b in zip(values[:-1], values[1:], strict=True)):
            raise ValueError(f"the values of an event must rise: {list(values)}")
        return self


Of = Literal["members", "rollout", "event", "distribution", "latent", "code", "attention", "critic", "weights"]


class Term(Section):
    """A loss beside the score of the members (docs/losses.md lists all)."""

    loss: str = Field(description="short name")
    of: Of = Field(description="what of the forecaster it is fed")
    weight: float = 1.0
    options: dict[str, Any] = Field({}, description="of the loss")
    event: Event | None = Field(None, description="for `of: event`, and classes of a critic; equal ones share a head")
    variable: str | None = Field(None, description="for `of: distribution`")
    teacher: str | tuple[str, ...] | None = Field(None, description="checkpoint of a teacher, or of two")
    forget: tuple[str, str] | None = Field(None, description="first and last date of the samples to forget")
    error: float = Field(0.1, gt=0, description="of the truth, for losses that reckon with it; standard deviations")

    @model_validator(mode="after")
    def _with_what_it_is_of(self) -> Term:
        if self.of != "critic" and (self.of == "event") != (self.event is not None):
            raise ValueError("`event` goes with `of: event`")
        if (self.of == "distribution") != (self.variable is not None):
            raise ValueError("`variable` goes with `of: distribution`")
        return self

    @property
    def teachers(self) -> tuple[str, ...]:
        """Folders of all teachers."""
        return (self.teacher,) if isinstance(self.teacher, str) else self.teacher or ()


class LossSection(Section):
    """The score that is trained, its weights, and further terms."""

    name: str = "almost_fair_crps"
    alpha: float = Field(0.95, ge=0, le=1)
    options: dict[str, Any] = Field({}, description="of the score, beside alpha")
    terms: dict[str, Term] = Field({}, description="name -> a further loss, added with its weight")
    variable_weights: dict[str, float] = Field({}, description="variable or short name -> weight; 1 for the rest")
    level_slope: float = Field(0.001, ge=0, description="weight of a level: max(floor, slope * hPa)")
    level_floor: float = Field(0.2, ge=0)
    tendency_weighting: bool = Field(True, description="score in units of the 6 h tendency's standard deviation")


class Stage(Section):
    """One leg of the curriculum."""

    updates: int = Field(ge=1)
    rollout: int | tuple[int, int] = Field(1, description="steps per window, or (first, last), growing evenly")
    lr: float = Field(gt=0)
    members: int | None = Field(None, ge=1, description="in place of training.members; 1: absolute error")
    warmup: int = Field(0, ge=0, description="updates of linear warm-up")
    schedule: Literal["cosine", "constant"] = "cosine"


class MeshSection(Section):
    """How processes share the work: data x ensemble x grid of them (docs/parallel.md)."""

    data: int | None = Field(None, ge=1, description="groups that share the samples; what is left over if absent")
    ensemble: int = Field(1, ge=1, description="processes that share the members of a sample")
    grid: int = Field(1, ge=1, description="processes that share points, nodes and edges")
    parameters: Literal["replicated", "sharded"] = Field("replicated", description="weights: DDP, or FSDP2")


class KeepSection(Section):
    """Which checkpoints stay; the best one always does."""

    last: int = Field(2, ge=1, description="the newest ones; with 2, a damaged one has one before it")
    every: int | None = Field(None, ge=1, description="also those whose update is a multiple of this")


class TrainingSection(Section):
    """How the forecaster is trained."""

    members: int = Field(4, ge=2)
    batch_size: int = Field(4, ge=1, description="samples of an update, over all processes")
    accumulate: int = Field(1, ge=1, description="pieces of a batch, one after another, to save memory")
    mesh: MeshSection = MeshSection()
    stages: tuple[Stage, ...] = Field(min_length=1)
    optimizer: Literal["adamw", "muon"] = Field("adamw", description="muon: for matrices inside the network")
    weight_decay: float = Field(0.1, ge=0)
    betas: tuple[float, float] = (0.9, 0.95)
    clip_norm: float = Field(1.0, gt=0)
    ema: float = Field(0.999, ge=0, lt=1, description="decay of the averaged weights; 0 switches it off")
    start_from: str | None = Field(None, description="checkpoint of another run; weights that fit are taken over")
    analysis_share: float = Field(
        0.5, ge=0, le=1, description="share of windows that start from the analysis store; 0: none in validation either"
    )
    validate_every: int = Field(200, ge=1)
    validation_starts: int = Field(4, ge=1)
    validation_steps: int = Field(4, ge=1, description="length of validation rollouts")
    checkpoint_every: int = Field(100, ge=1)
    keep: KeepSection = Field(KeepSection(), description="which checkpoints stay (docs/checkpoints.md)")
    monitors: tuple[Literal["jsonl", "tensorboard", "mlflow"], ...] | Literal["auto"] = Field(
        "auto", description="where the numbers go; auto: JSONL, and TensorBoard where it is installed"
    )
    wall_time: Duration | None = Field(None, description="of a job: a checkpoint and an orderly end come before it")
    device: Literal["cpu", "cuda", "auto"] = "auto"
    precision: Literal["float32", "bfloat16", "auto"] = Field(
        "float32", description="of matrix products, then also in forecasts; auto: bfloat16 where the device has it"
    )
    compile: bool = False
    techniques: tuple[AnyTechnique, ...] = Field((), description="by name, with options (docs/techniques.md)")

    @model_validator(mode="after")
    def _techniques_combine(self) -> TrainingSection:
        check_together(self.techniques, self.accumulate, self.mesh.parameters == "sharded")
        return self


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


class OutputSection(Section):
    """A file made of a forecast store: all of it, or what is named (docs/outputs.md)."""

    variables: tuple[str, ...] | None = Field(None, description="names; a short name stands for all its levels")
    leads: tuple[str, ...] | None = Field(None, description="lead times or ranges: 24h, 0h..5d/12h")
    members: tuple[int | str, ...] | None = Field(None, description="numbers or ranges: 0, 5..9")
    area: tuple[float, float, float, float] | None = Field(None, description="north, west, south, east")
    products: tuple[str, ...] = Field((), description="in place of members: mean, spread, min, max, q90, tp>0.001")
    packing: Literal["simple", "ccsds", "ieee"] = Field("ccsds", description="of GRIB; ieee is exact")
    bits: int = Field(16, ge=1, le=32, description="of a packed GRIB value")
    grib: dict[str, int | str] = Field({}, description="further GRIB keys, e.g. centre")


class PerturbationSection(Section):
    """How the initial states of learnt members depart from the analysis (docs/ensembles.md)."""

    kind: Literal["none", "analysis-error", "gaussian", "correlated", "bred", "lagged", "ensemble"] = Field(
        "none", description="analysis-error: sample planet only; ensemble: members of an ensemble of analyses"
    )
    scale: float = Field(1.0, gt=0, description="size, in analysis errors")
    error: Literal["auto", "ensemble", "truth", "tendency"] | dict[str, float] = Field(
        "auto",
        description="analysis error: spread of the analyses, their distance to the truth, a fifth of the changes in a "
        "step, or stated by variable (0 for the rest); auto: the first that the stores allow",
    )
    length: float = Field(500.0, gt=0, description="km, of correlated ones; bred ones begin with them, too")
    cycles: int = Field(8, ge=1, description="of breeding, a step each")
    lags: int = Field(4, ge=1, description="steps of the longest lagged forecast")
    ensemble: str | None = Field(None, description="store with the ensemble of analyses; the analysis store if absent")
    recentred: bool = Field(True, description="pairs with opposite signs; an ensemble of analyses about the analysis")
    control: bool = Field(False, description="member 0 starts from the analysis itself")


def _kind(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


class ForecastSection(Section):
    """The ensembles to make."""

    starts: Starts
    members: int = Field(20, ge=1)
    lead: Duration = np.timedelta64(15 * 24, "h")
    out: str = "forecast.zarr"
    member_batch: int | None = Field(
        None,
        ge=1,
        description="members computed and written as one; what fits memory if absent, the fields are the same",
    )
    perturbation: Annotated[PerturbationSection, BeforeValidator(_kind)] = Field(
        PerturbationSection(),
        description="of the learnt members' initial states, a kind or a section; physics members always are perturbed",
    )
    physics: dict[Literal["perfect", "imperfect"], str] = Field(
        {}, description="planet only: settings -> forecast store"
    )
    outputs: dict[str, OutputSection] = Field({}, description="file beside `out` (.nc, .grib2) -> what it holds")


class VerificationSection(Section):
    """What is scored, and against what."""

    regions: tuple[str, ...] | None = Field(
        None, description="globe, n.hem, s.hem, tropics, or domain if absent; also name=south:north/west:east"
    )
    variables: tuple[str, ...] | None = None
    leads: tuple[Duration, ...] | None = Field(None, description="lead times to score; all if absent")
    scores: tuple[str, ...] | None = Field(
        None, description="names of docs/verification.md, `pointwise` for the cheap ones; all if absent, and pointwise "
        "while forecasting"
    )  # fmt: skip
    baselines: tuple[Literal["persistence", "climatology"], ...] | None = Field(
        None, description="what else is scored; both if absent, and persistence while forecasting"
    )
    events: tuple[str, ...] = Field(("< p10", "> p90"), description="as `> p90`, `tp > 0.005`, `2t < 273.15`")
    seasons: bool = Field(False, description="also average over the starts of each season")
    spans: tuple[str, ...] = Field((), description="spans of lead time to average over, as `week 1=1d..7d`")
    draws: int = Field(1000, ge=0, description="resampled series behind bands and p-values; 0: no significance")
    nan: Literal["propagate", "skip"] = Field(
        "propagate", description="what a missing value of the truth does; skip if absent and `data.masked` names any"
    )
    grid: Literal["truth", "1.5", "same"] = Field(
        "truth", description="grid to score on: the truth's, 1.5 degrees, or refuse grids that differ"
    )
    names: str = Field("", description="names in files of others: `member=ens, init=basedate, geop=z_500`")
    accumulation: dict[str, str] = Field({}, description="variable -> period that sums are compared over, tp: 24h")
    workers: int = Field(2, ge=1, description="threads, or processes")
    scheduler: str = Field("threads", description="threads, processes, or the address of a dask cluster")
    climatology: tuple[Time, Time] | None = Field(None, description="its period; the training period if absent")
    climatology_window: Duration = Field(np.timedelta64(5 * 24, "h"), description="days around the calendar day")
    ridge: bool = Field(False, description="also show ridge regression (small regional grids)")
    out: str = "scores"
    report: str = "report.html"
