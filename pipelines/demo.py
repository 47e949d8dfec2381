"""Demo: the whole job on the sample planet, from nothing to a scored 15-day ensemble."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from rich.table import Table

from forecast.core.config import Config
from forecast.core.progress import stdout
from forecast.verification.checks import skill_checks
from forecast.verification.results import Scores
from pipelines.generate import generate
from pipelines.ingest import ingest
from pipelines.train import train
from pipelines.verify import verify

HOURS = (24, 72, 120, 240)


def demo(config: Config) -> Path:
    """Archive -> store -> training -> ensembles -> scores -> report.

    A demo that was stopped goes on where it was when it is started again with the same config.

    Returns:
        The report, one HTML file.
    """
    began = time.monotonic()

    def say(text: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - began), 60)
        stdout.print(f"[bold]\\[{minutes:02d}:{seconds:02d}] {text}")

    say(f"{config.source.kind} archive -> sharded Zarr store in {config.root}")
    ingest(config)
    say("training with the almost fair CRPS")
    train(config, resume=True)
    say(f"ensembles of {config.forecast.members} members, learnt and physical")
    generate(config)
    say("scores against the truth, beside persistence, climatology and the physics")
    scores, report = verify(config)
    for table in (skill_table(scores), check_table(scores)):
        stdout.print(table)
    say("done")
    return report


def skill_table(scores: Scores) -> Table:
    """Fair CRPS in percent of climatology's, mean over variables, a row a forecast and a column a lead."""
    crps = {label: metrics["fair_crps"].isel(region=0) for label, metrics in scores.metrics.items()}
    leads = [hours for hours in HOURS if np.timedelta64(hours, "h") in crps["learnt"]["lead_time"].values]
    title = "Fair CRPS in % of climatology's, mean over variables (less is better)"
    table = Table("forecast", *(f"{hours} h" for hours in leads), title=title, title_justify="left")
    for label, score in crps.items():
        shares = [(score / crps["climatology"]).sel(lead_time=np.timedelta64(hours, "h")) for hours in leads]
        table.add_row(label, *(f"{100 * float(share.mean('variable')):.0f}" for share in shares))
    return table


def check_table(scores: Scores) -> Table:
    """What was claimed of the ensemble's skill, and what came out."""
    table = Table("claim", "asked", "reached", "", title="Skill of the learnt ensemble", title_justify="left")
    for check in skill_checks(scores, "learnt", rival="imperfect"):
        table.add_row(check.claim, check.asked, check.reached, "yes" if check.ok else "[bold]no")
    return table
