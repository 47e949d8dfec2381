"""Where the numbers of a run go: a JSONL file with curves, TensorBoard, MLflow. A new place is a class and a row."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from forecast.core.errors import ForecastError
from forecast.core.progress import console
from forecast.training.curves import plot

METRICS = "metrics.jsonl"
_DRAW_EVERY = 20.0  # seconds; a drawing takes half of one


class Begin(NamedTuple):
    """What a sink begins with.

    Attributes:
        folder: of the training. done: updates already made. kept: bytes of metrics.jsonl that belong to them.
        about: the run's config, flat: `training.batch_size` -> value.
    """

    folder: Path
    done: int = 0
    kept: int = 0
    about: Mapping[str, Any] = {}


class Sink(Protocol):
    """Takes what is measured, on the first rank only. An update may come again after a resume, with equal numbers."""

    def update(self, update: int, values: Mapping[str, float]) -> None:
        """Numbers of one update, counted from 1."""

    def validation(self, update: int, scores: Mapping[str, Any]) -> None:
        """Scores of one validation: `score`, and score -> variable -> a value for each step; None is not finite."""

    def sync(self) -> None:
        """A checkpoint follows: what came before must last."""

    def close(self) -> None:
        """The run ends here, for now."""


class Jsonl:
    """`metrics.jsonl`, a line for each update and validation, and `curves.png` drawn from it.

    A resumed run cuts off the lines past its checkpoint.
    """

    def __init__(self, begin: Begin) -> None:
        self._folder, self._drawn = begin.folder, time.monotonic() - _DRAW_EVERY
        self._file = (begin.folder / METRICS).open("ab")
        self._file.truncate(min(begin.kept, os.fstat(self._file.fileno()).st_size))

    def update(self, update: int, values: Mapping[str, float]) -> None:
        """As of a sink."""
        self._write({"update": update, **values})

    def validation(self, update: int, scores: Mapping[str, Any]) -> None:
        """As of a sink; draws the curves, if they are not fresh."""
        self._write({"update": update, "validation": scores})
        if time.monotonic() - self._drawn > _DRAW_EVERY:
            self._draw()

    def sync(self) -> None:
        """As of a sink."""
        os.fsync(self._file.fileno())

    def size(self) -> int:
        """Bytes so far."""
        return os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        """As of a sink; draws the last curves."""
        self._file.close()
        self._draw()

    def _draw(self) -> None:
        try:
            plot(self._folder / METRICS, self._folder / "curves.png")
        except OSError as error:  # no reason to stop training
            console.print(f"curves not drawn: {error.strerror}")
        self._drawn = time.monotonic()

    def _write(self, line: dict[str, Any]) -> None:
        try:
            self._file.write(json.dumps(line, allow_nan=False).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise ForecastError(
                f"can't write {self._folder / METRICS}: {error.strerror}; make room and resume"
            ) from error


class TensorBoard:
    """Event files in `tensorboard/`."""

    def __init__(self, begin: Begin) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise _missing("tensorboard") from None
        self._board: Any = SummaryWriter(
            str(begin.folder / "tensorboard"), purge_step=begin.done + 1 if begin.done else None
        )

    def update(self, update: int, values: Mapping[str, float]) -> None:
        """As of a sink."""
        for name, value in values.items():
            self._board.add_scalar(f"training/{name}", value, update)

    def validation(self, update: int, scores: Mapping[str, Any]) -> None:
        """As of a sink."""
        for name, value in first_steps(scores):
            self._board.add_scalar(name, value, update)

    def sync(self) -> None:
        """As of a sink."""
        self._board.flush()

    def close(self) -> None:
        """As of a sink."""
        self._board.close()


class MLflow:
    """A run of MLflow in the local file store `mlruns/` beside the training folder; a resumed run goes on in its own.

    `MLFLOW_TRACKING_URI` overrides the place. MLflow keeps what comes again after a resume, with equal numbers.
    """

    def __init__(self, begin: Begin) -> None:
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # else refused by MLflow 3.14 and later
        try:
            from mlflow.entities import Metric, Param
            from mlflow.tracking import MlflowClient
        except ImportError:
            raise _missing("mlflow") from None
        place = os.environ.get("MLFLOW_TRACKING_URI", (begin.folder.parent / "mlruns").resolve().as_uri())
        self._client, self._metric, self._waiting = MlflowClient(tracking_uri=place), Metric, list[Any]()
        known = begin.folder / "mlflow.json"
        if begin.done and known.exists():
            self._run = json.loads(known.read_text())["run"]
            return
        name = str(begin.about.get("name", "forecast"))
        experiment = self._client.get_experiment_by_name(name)
        where = experiment.experiment_id if experiment else self._client.create_experiment(name)
        self._run = self._client.create_run(where, run_name=begin.folder.parent.resolve().name).info.run_id
        params = [Param(key, str(value)[:500]) for key, value in begin.about.items()]
        self._client.log_batch(self._run, params=params[:100])
        known.write_text(json.dumps({"run": self._run}) + "\n")

    def update(self, update: int, values: Mapping[str, float]) -> None:
        """As of a sink."""
        self._add(update, ((f"training/{name}", value) for name, value in values.items()))

    def validation(self, update: int, scores: Mapping[str, Any]) -> None:
        """As of a sink."""
        self._add(update, first_steps(scores))
        self.sync()

    def _add(self, update: int, values: Any) -> None:
        now = int(time.time() * 1000)
        self._waiting += [self._metric(_plain(name), value, now, update) for name, value in values]
        if len(self._waiting) > 900:
            self.sync()

    def sync(self) -> None:
        """As of a sink."""
        for first in range(0, len(self._waiting), 1000):  # as many as it takes at once
            self._client.log_batch(self._run, metrics=self._waiting[first : first + 1000])
        self._waiting = []

    def close(self) -> None:
        """As of a sink."""
        self.sync()
        self._client.set_terminated(self._run)


SINKS: dict[str, type[Any]] = {"jsonl": Jsonl, "tensorboard": TensorBoard, "mlflow": MLflow}


def chosen(names: Sequence[str] | str) -> list[str]:
    """Names of sinks; `auto` is JSONL, and TensorBoard where it is installed."""
    if names != "auto":
        return list(names)
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        return ["jsonl"]
    return ["jsonl", "tensorboard"]


def first_steps(scores: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Scores as single numbers: those of the first step, by variable; NaN where they are not finite."""
    for name, found in scores.items():
        if isinstance(found, dict):
            yield from ((f"{name}/{variable}", _number(leads[0])) for variable, leads in found.items())
        elif name == "score":
            yield "validation/score", _number(found)


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _plain(name: str) -> str:
    """A name as MLflow allows it."""
    return "".join(letter if letter.isalnum() or letter in "_-. /" else "_" for letter in name)


def _missing(extra: str) -> ForecastError:
    return ForecastError(
        f"training.monitors: {extra} is not installed: pip install 'forecast[{extra}]', or leave it out"
    )
