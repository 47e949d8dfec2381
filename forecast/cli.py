"""The command line: each command is a few lines that call a page of `pipelines/`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from forecast.core import config as configs
from forecast.core import times
from forecast.core.errors import ForecastError, Stopped
from forecast.core.progress import stdout
from forecast.core.sections import OutputSection

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
def ingest(
    config: ConfigFile,
    settings: Settings = None,
    out: Out = None,
    update: Annotated[bool, typer.Option("--update", help="append dates, read again what has changed")] = False,
    replace: Annotated[str | None, typer.Option(metavar="FIRST..LAST", help="read these dates again")] = None,
    dry: Annotated[bool, typer.Option("--dry-run", help="say what would be read and written, and stop")] = False,
) -> None:
    """Write the config's source into a sharded Zarr store (and the analysis store, if any)."""
    from pipelines.ingest import ingest

    again = times.period(replace, "--replace") if replace else None
    for path in ingest(_load(config, settings, out), update, again, dry):
        typer.echo(path)


@app.command()
def inspect(
    store: Annotated[Path, typer.Argument(help="a store or a forecast store")],
    check: Annotated[bool, typer.Option("--check", help="also read everything and verify its checksums")] = False,
) -> None:
    """Show what a store holds: variables, dates, gaps, statistics, chunks, sizes."""
    from forecast.data.inspect import inspect
    from forecast.data.verify import verify as verify_store

    stdout.print(inspect(store))
    if check:
        stdout.print(verify_store(store))


@app.command("export-store")
def export_store(
    store: Annotated[Path, typer.Argument(help="a store")],
    out: Annotated[Path, typer.Argument(help="Zarr v2 store to write, in anemoi's layout")],
    variables: Annotated[str | None, typer.Option(help="z_500,2t,...; all if absent")] = None,
    period: Annotated[str | None, typer.Option(metavar="FIRST..LAST", help="all dates if absent")] = None,
) -> None:
    """Export a subset of a store for anemoi-datasets with zarr 2."""
    from forecast.data.export_anemoi import export_anemoi

    dates = times.period(period, "--period") if period else None
    typer.echo(export_anemoi(store, out, variables.split(",") if variables else None, dates))


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


@app.command()
def population(config: ConfigFile, settings: Settings = None, out: Out = None) -> None:
    """Train several runs in turns that copy the best and vary what they were told (docs/techniques.md)."""
    from pipelines.population import population

    typer.echo(population(_load(config, settings, out)))


@app.command()
def run(
    config: Annotated[str | None, typer.Argument(metavar="[CONFIG]", help="make all of a config, or ...")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="... those of a checkpoint, e.g. DIR/training/best")] = None,
    start: Annotated[list[str] | None, typer.Option(help="2001-03-01T00, or 2001-03-01T00..2001-05-01T00/24h")] = None,
    members: Annotated[int, typer.Option(min=1)] = 50,
    lead: Annotated[str, typer.Option(help="how far")] = "15d",
    out: Annotated[Path | None, typer.Option(help="forecast store to write (with a config: its run folder)")] = None,
    analysis: Annotated[Path | None, typer.Option(help="store to start from; that of the training if absent")] = None,
    perturbation: Annotated[
        str | None, typer.Option(help="of initial states: none, gaussian, correlated, bred, lagged, ensemble")
    ] = None,
    score: Annotated[Path | None, typer.Option(help="store to score against while it forecasts")] = None,
    scores: Annotated[Path | None, typer.Option(help="folder of these scores; OUT-scores if absent")] = None,
    store: Annotated[bool, typer.Option(help="keep the fields; without, those of a start go once scored")] = True,
    settings: Settings = None,
    batch: Annotated[int | None, typer.Option(min=1, help="members at once; what fits memory if absent")] = None,
    cluster: Annotated[str | None, typer.Option(help="a dask scheduler (tcp://host:8786), or N local workers")] = None,
    part: Annotated[
        str | None, typer.Option(metavar="I/N", help="I-th (from 0) of N that share it; known under torchrun, SLURM")
    ] = None,
) -> None:
    """Forecast ensembles of any size; a run that was killed goes on where it was."""
    from forecast.inference.share import part_of_environment
    from forecast.inference.starts import parse_part, parse_starts
    from pipelines import generate
    from pipelines import run as with_checkpoint
    from pipelines.scoring import Scoring

    if score is None and not store:
        raise ForecastError("--no-store leaves nothing behind unless it is scored: add --score TRUTH")
    scoring = Scoring(score, scores, analysis, store) if score else None
    share = parse_part(part) if part else part_of_environment(os.environ)
    chosen = {"forecast.member_batch": batch, "forecast.perturbation": perturbation}
    settings = [*(f"{key}={value}" for key, value in chosen.items() if value is not None), *(settings or ())]
    if config is not None and checkpoint is None and cluster is None:
        made = generate.generate(_load(config, settings, out), share, scoring)
    elif checkpoint is not None and config is None and out is not None:
        length, starts = times.duration(lead, "--lead"), parse_starts(start or ())
        about = (checkpoint, starts, members, length, out, analysis, share, tuple(settings))
        made = with_checkpoint.run(*about, scoring, cluster)
    elif config is not None and cluster is not None:
        raise ForecastError("--cluster takes --checkpoint DIR, with --start and --out, in place of a config")
    else:
        raise ForecastError("give a config, or --checkpoint with --start and --out")
    for path in made:
        typer.echo(path)


def _list(value: str | None) -> tuple[str, ...] | None:
    return tuple(part.strip() for part in value.split(",")) if value else None


@app.command()
def export(
    store: Annotated[Path, typer.Argument(help="a forecast store")],
    to: Annotated[Path, typer.Option(help="file to write; its suffix says the format: .nc, .grib2")],
    variables: Annotated[str | None, typer.Option(help="z_500,2t; z stands for all its levels")] = None,
    starts: Annotated[str | None, typer.Option(help="2008-03-01T00, or FIRST..LAST")] = None,
    members: Annotated[str | None, typer.Option(help="0,5..9")] = None,
    leads: Annotated[str | None, typer.Option(help="24h,48h, or 0h..10d/24h")] = None,
    area: Annotated[str | None, typer.Option(help="north,west,south,east")] = None,
    products: Annotated[str | None, typer.Option(help="in place of members: mean,spread,q10,q90,'tp>0.001'")] = None,
    packing: Annotated[str, typer.Option(help="of GRIB: ccsds, simple, or ieee (exact)")] = "ccsds",
    bits: Annotated[int, typer.Option(min=1, max=32, help="of a packed GRIB value")] = 16,
    grib: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="GRIB key, e.g. centre=ecmf")] = None,
) -> None:
    """Write a forecast store, or products of its ensemble, as NetCDF (CF) or GRIB2."""
    from forecast.outputs.selection import parse_area
    from pipelines import outputs

    given: dict[str, Any] = {"variables": _list(variables), "leads": _list(leads), "members": _list(members)}
    given |= {"area": parse_area(area) if area else None, "products": _list(products) or (), "packing": packing}
    given |= {"bits": bits, "grib": dict(key.partition("=")[::2] for key in grib or ())}
    typer.echo(outputs.write(store, to, configs.section(OutputSection, given, "export"), _list(starts)))


def _numbers(value: str | None, option: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in value.split(",")) if value else ()
    except ValueError:
        raise ForecastError(f"{option} {value}: numbers are expected, with commas between them") from None


def _pair(value: str | None, option: str) -> tuple[float, float] | None:
    found = _numbers(value, option)
    if value and len(found) != 2:
        raise ForecastError(f"{option} {value}: two numbers are expected, with a comma between them")
    return (found[0], found[1]) if found else None


@app.command()
def plot(
    store: Annotated[Path, typer.Argument(help="a forecast store")],
    kind: Annotated[str, typer.Argument(help="map, stamps, spaghetti, meteogram or animation")],
    to: Annotated[Path, typer.Option(help="picture to write: .png, .svg, .pdf; animations .gif, .mp4")],
    variables: Annotated[str, typer.Option(help="2t; several for a meteogram; ws_500 and 10si are wind speeds")] = "2t",
    start: Annotated[str | None, typer.Option(help="the first one if absent")] = None,
    leads: Annotated[str | None, typer.Option(help="24h,72h or 0h..5d/12h; the last one if absent")] = None,
    products: Annotated[str, typer.Option(help="mean,spread,q90,'tp>0.001', or m3 for member 3")] = "mean",
    area: Annotated[str | None, typer.Option(help="north,west,south,east")] = None,
    projection: Annotated[str | None, typer.Option(help="platecarree, robinson, orthographic, north or south")] = None,
    centre: Annotated[str | None, typer.Option(help="longitude,latitude in the middle of the map")] = None,
    place: Annotated[str | None, typer.Option(help="latitude,longitude of a meteogram")] = None,
    levels: Annotated[str | None, typer.Option(help="isolines of spaghetti, in the unit shown")] = None,
    style: Annotated[str, typer.Option(help="of a meteogram: auto, plume, box, both")] = "auto",
    coast: Annotated[str, typer.Option(help="auto, earth, or a store with a land-sea mask")] = "auto",
    rate: Annotated[float, typer.Option(min=0.1, help="frames of an animation in a second")] = 4.0,
    dpi: Annotated[int, typer.Option(min=30, max=600, help="pixels of an inch")] = 150,
) -> None:
    """Draw maps, stamps of all members, spaghetti, meteograms and animations of a forecast."""
    from forecast.outputs.selection import parse_area
    from forecast.plots.draw import Request, draw

    request = Request(
        kind=kind,
        variables=_list(variables) or (),
        start=start,
        leads=_list(leads),
        products=_list(products) or (),
        area=parse_area(area) if area else None,
        projection=projection,
        centre=_pair(centre, "--centre"),
        place=_pair(place, "--place"),
        levels=_numbers(levels, "--levels"),
        style=style,
        rate=rate,
        coast=coast,
        dpi=dpi,
    )
    typer.echo(draw(store, to, request))


@app.command()
def watch(
    store: Annotated[Path, typer.Argument(help="a forecast store that is being made, by whomever")],
    once: Annotated[bool, typer.Option("--once", help="look once, do not wait for the end")] = False,
) -> None:
    """Show live how far a forecast store is: starts, member batches, processes, time left."""
    from pipelines.watch import watch

    watch(store, once=once)


@app.command()
def verify(
    forecasts: Annotated[list[str], typer.Argument(help="forecasts (Zarr, NetCDF, GRIB) with --truth; or one config")],
    truth: Annotated[Path | None, typer.Option(help="store to verify against")] = None,
    out: Annotated[Path | None, typer.Option(help="folder of scores (with a config: its run folder)")] = None,
    analysis: Annotated[Path | None, typer.Option(help="store that persistence starts from")] = None,
    settings: Settings = None,
) -> None:
    """Score forecasts and baselines side by side; the report follows."""
    from forecast.core.sections import VerificationSection
    from forecast.verification.score import score
    from pipelines import scoring, verify

    if truth is None:
        if len(forecasts) > 1:
            raise ForecastError("--truth is missing: the store that the forecasts are verified against")
        typer.echo(verify.verify(_load(forecasts[0], settings, out))[1])
    else:
        section = configs.adjusted(VerificationSection, "verification", tuple(settings or ()))
        labelled, how = verify.labels([Path(name) for name in forecasts]), scoring.options(section)
        typer.echo(score(labelled, truth, out or Path("scores"), analysis=analysis, **how).path)


@app.command()
def tracks(
    forecast: Annotated[Path, typer.Argument(help="a forecast (Zarr, NetCDF, GRIB) with msl; winds and z_500, z_300")],
    truth: Annotated[Path, typer.Option(help="store to verify against")],
    out: Annotated[Path, typer.Option(help="folder for tracks.csv, scores.csv, strikes.csv")] = Path("tracks"),
    names: Annotated[str, typer.Option(help="names in files of others, as verification.names")] = "",
) -> None:
    """Follow tropical cyclones; score tracks and strike probabilities."""
    from forecast.verification.cyclone_scores import score_cyclones

    found = score_cyclones(forecast, truth, out, names)
    stdout.print(found.to_string(index=False, float_format=lambda x: f"{x:.4g}", na_rep=""), highlight=False)
    typer.echo(out)


@app.command()
def spectra(
    scores: Annotated[Path, typer.Argument(help="folder that `forecast verify` wrote")],
    lead: Annotated[str, typer.Option(help="lead time, whole days")] = "240h",
    wavenumbers: Annotated[str, typer.Option(help="band of total wavenumbers")] = "2-15",
    against: Annotated[str, typer.Option(help="truth, or a forecast or baseline of the folder")] = "truth",
) -> None:
    """Print how much power members have at each scale, over the truth's or another ensemble's."""
    from forecast.verification.results import open_scores
    from pipelines.spectra import spectra_table

    stdout.print(spectra_table(open_scores(scores), lead, wavenumbers, against))


@app.command()
def report(
    scores: Annotated[Path, typer.Argument(help="folder that `forecast verify` wrote")],
    out: Annotated[Path, typer.Option(help="file to write")] = Path("report.html"),
) -> None:
    """Show a folder of scores as one self-contained HTML file."""
    from forecast.report.page import write_report

    typer.echo(write_report(scores, out))


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="run folder; a demo that was stopped goes on in it")] = Path("runs/demo"),
    config: Annotated[str, typer.Option(help="another config of the same kind")] = "demo",
    settings: Settings = None,
) -> None:
    """The whole job on the sample planet: archive, store, training, ensembles, scores, report."""
    from pipelines.demo import demo

    typer.echo(demo(_load(config, settings, out)))


def main() -> None:
    """Run the command line: a user's mistake is one line and exit code 1, a bug keeps its traceback."""
    try:
        app()
    except Stopped as error:
        print(f"forecast: {error}", file=sys.stderr)
        sys.exit(error.code)
    except ForecastError as error:
        sys.exit(f"forecast: {error}")
    except KeyboardInterrupt:
        sys.exit("forecast: stopped")
    except BrokenPipeError:
        sys.exit(0)


if __name__ == "__main__":
    main()
