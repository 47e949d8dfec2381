"""The command line: each command is a few lines that call a page of `pipelines/`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from forecast.core import config as configs
from forecast.core.errors import ForecastError
from forecast.core.progress import stdout

app = typer.Typer(
    help="Ensemble weather forecasting: archive -> store -> training -> ensembles -> scores.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigFile = Annotated[str, typer.Argument(metavar="CONFIG", help="a YAML file, or the name of one that ships (demo)")]
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C", help="override a value; may be repeated")]
Out = Annotated[Path | None, typer.Option("--out", help="run folder, in place of the config's `root`")]


def _load(config: str, settings: list[str] | None, out: Path | None) -> configs.Config:
    return configs.load(config, (*(settings or ()), *((f"root={out}",) if out else ())))


@app.command()
def check(config: ConfigFile, settings: Settings = None, out: Out = None) -> None:
    """Explain a config before it runs: sizes, members, memory, files."""
    from pipelines.check import check

    stdout.print(check(_load(config, settings, out)))


@app.command()
def ingest(config: ConfigFile, settings: Settings = None, out: Out = None) -> None:
    """Write the config's source into a sharded Zarr store (and the analysis store, if any)."""
    from pipelines.ingest import ingest

    for path in ingest(_load(config, settings, out)):
        typer.echo(path)


@app.command()
def inspect(store: Annotated[Path, typer.Argument(help="a store or a forecast store")]) -> None:
    """Show what a store holds: variables, dates, gaps, statistics, chunks, sizes."""
    from forecast.data.inspect import inspect

    stdout.print(inspect(store))


@app.command()
def train(
    config: ConfigFile,
    settings: Settings = None,
    out: Out = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on from the last checkpoint")] = False,
) -> None:
    """Train the forecaster; live progress, metrics.jsonl, curves.png, checkpoints."""
    from pipelines.train import train

    typer.echo(train(_load(config, settings, out), resume=resume))


def main() -> None:
    """Run the command line: a user's mistake is one line and exit code 1, a bug keeps its traceback."""
    try:
        app()
    except ForecastError as error:
        sys.exit(f"forecast: {error}")
    except KeyboardInterrupt:
        sys.exit("forecast: stopped")
    except BrokenPipeError:
        sys.exit(0)


if __name__ == "__main__":
    main()
