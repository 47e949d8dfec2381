"""Several ways to train side by side on the sample planet, the same budget for each: what makes a forecaster good?

    python scripts/study.py fuxi --out runs/study        # an hour of training each, ensembles: about six hours
    python scripts/study.py aifs --out runs/ablations --updates 1500 --starts 5 --members 10    # about an hour
    python scripts/study.py fuxi --out runs/study --sides FuXi-ENS white    # those only; what is there is kept

`fuxi` asks what the variational part is worth. All share archive, batches and curriculum of configs/planet_fuxi.yaml:

    FuXi-ENS    prior, posterior, CRPS + beta KL
    beta-0      no divergence: only the prior's own members teach the prior
    white       N(0, 1) at every point in place of the learnt prior, which is what the released weights amount to
    CRPS-only   no posterior: all members from the learnt prior, scored by the CRPS
    AIFS-CRPS   configs/planet_aifs.yaml

The stage of one member knows of no latent, so the first four share it: it is trained once, in `one member`.

`aifs` changes one thing of configs/planet_aifs.yaml at a time (see STUDIES).

How many updates each makes follows from the seconds that they take, measured first (stages.json); with --updates
it is the same for all, for machines that do other work. Writes study.md (one table), study.png (one figure) and
study.json into --out. A study that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from forecast.core import config as configs  # noqa: E402
from forecast.core.config import Config  # noqa: E402
from forecast.core.progress import stdout  # noqa: E402
from forecast.verification.results import Scores  # noqa: E402
from forecast.verification.score import score  # noqa: E402
from pipelines.generate import generate  # noqa: E402
from pipelines.ingest import ingest  # noqa: E402
from pipelines.train import train  # noqa: E402


class Side(NamedTuple):
    """A way to train: a config, what is set in it, and what is changed in each of its stages."""

    config: str
    settings: tuple[str, ...] = ()
    stages: dict[str, Any] = {}  # noqa: RUF012 - never written


MULTISCALE = "loss={name: multiscale, options: {radii_km: [3000, 1500], factors: [1, 1, 2]}, level_slope: 0}"
GRAPH = "model={mesh_refinement: 3, width: 96, heads: 4, layers: 4, step_flag: [1, 1]}"
STUDIES: dict[str, dict[str, Side]] = {
    "fuxi": {
        "FuXi-ENS": Side("planet_fuxi"),
        "beta-0": Side("planet_fuxi", ("model.divergence.beta=0",)),
        "white": Side("planet_fuxi", ("model.latent={prior: white}",)),
        "CRPS-only": Side("planet_fuxi", ("model.divergence.beta=0", "model.prior_share=1")),
        "AIFS-CRPS": Side("planet_aifs"),
    },
    "aifs": {
        "as shipped": Side("planet_aifs"),
        "no noise": Side("planet_aifs", (), {"members": 1}),
        "rollout 1 only": Side("planet_aifs", (), {"rollout": 1}),
        "plain CRPS": Side("planet_aifs", ("loss={name: crps, level_slope: 0, level_floor: 1}",)),
        "multi-scale": Side("planet_aifs", (MULTISCALE,)),
        "truncated residual": Side("planet_aifs", ("model.residual={grid: F8, shown: true}",)),
        "graph transformer": Side("planet_aifs", (GRAPH,)),
        "from analyses": Side("planet_aifs", ("training.analysis_share=1", "forecast.perturbation=none")),
    },
}
SHARES = {"fuxi": (0.8, 0.18, 0.02), "aifs": (0.75, 0.2, 0.05)}
"""of the budget, for one member, for several, for rollouts"""
PROBE = (12, 8, 4)
"""updates of each stage that are timed"""
HOURS = (24, 72, 120, 240)
GAP = {72: 0.95, 120: 0.90, 240: 0.85}


def config_of(side: str, out: Path, options: argparse.Namespace, *more: str) -> Config:
    """The run of a side: its own folder, the archive shared."""
    name, settings, _ = STUDIES[options.study][side]
    archive = (out / "archive").resolve()
    shared: tuple[str, ...] = (
        f"root={out / side}", f"store.path={archive / 'truth.zarr'}", f"store.analysis={archive / 'analysis.zarr'}",
        f"forecast.members={options.members}", "training.validation_starts=4",
    )  # fmt: skip
    if options.starts:
        shared += (f"forecast.starts.every={max(300 // options.starts, 1)}d",)
    if side != options.sides[0]:
        shared += ("forecast.physics={}",)
    return configs.load(name, (*settings, *shared, *more))


def stages(side: str, out: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The curriculum of a side, as long as the budget allows; measured once and kept."""
    path = out / "stages.json"
    known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    if side not in known:
        plain = [stage.model_dump(mode="json") for stage in config_of(side, out, options).training.stages]
        plain = [stage | STUDIES[options.study][side].stages for stage in plain]
        each = [1.0] * len(plain) if options.updates else seconds(side, plain, out, options)
        budget = options.updates or 60 * options.minutes
        for stage, share, cost in zip(plain, SHARES[options.study], each, strict=True):
            stage["updates"] = max(10, round(budget * share / cost))
            stage["warmup"] = min(stage["warmup"], stage["updates"] // 4)
        known[side] = plain
        path.write_text(json.dumps(known, indent=1))
    return list(known[side])


def seconds(side: str, plain: list[dict[str, Any]], out: Path, options: argparse.Namespace) -> list[float]:
    """What an update of each stage takes, by a short run."""
    short = [stage | {"updates": n} for stage, n in zip(plain, PROBE, strict=True)]
    probe = config_of(side, out, options, f"training.stages={json.dumps(short)}", f"root={out / 'probes' / side}",
                      "training.validate_every=1000000", "training.validation_steps=1")  # fmt: skip
    return per_update(train(probe) / "metrics.jsonl")


def per_update(metrics: Path) -> list[float]:
    """Median seconds of an update of each of the stages of a probe, the first ones, which compile, left out."""
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    at = [line["seconds"] for line in lines if "loss" in line]
    took, ends = np.diff(at), np.cumsum(PROBE)
    return [
        statistics.median(took[max(begin + 1, 0) : end - 1]) for begin, end in zip([0, *ends[:-1]], ends, strict=True)
    ]


def run(side: str, out: Path, options: argparse.Namespace) -> None:
    """Train a side and make its ensembles."""
    curriculum = stages(side, out, options)
    more: tuple[str, ...] = ()
    if STUDIES[options.study][side].config == "planet_fuxi":
        begun = learn(out / "one member", "FuXi-ENS", curriculum[:1], out, options)
        more = f"model.divergence.warmup={curriculum[1]['updates'] // 4}", f"training.start_from={begun / 'latest'}"
        curriculum = curriculum[1:]
    learn(out / side, side, curriculum, out, options, *more)
    generate(config_of(side, out, options))


def learn(
    root: Path, side: str, curriculum: list[dict[str, Any]], out: Path, options: argparse.Namespace, *more: str
) -> Path:
    """Train a side through some stages in the folder `root`, or go on; returns the folder of checkpoints."""
    updates = sum(stage["updates"] for stage in curriculum)
    every = max(updates // 6, 1)
    stdout.print(f"[bold]{root.name}: {updates} updates")
    return train(config_of(side, out, options, f"root={root}", f"training.stages={json.dumps(curriculum)}",
                           f"training.validate_every={every}", f"training.checkpoint_every={every}", *more),
                 resume=True)  # fmt: skip


def verify(out: Path, options: argparse.Namespace) -> Scores:
    """Scores of all sides and of the physics, side by side."""
    first = config_of(options.sides[0], out, options)
    forecasts = {
        side: out / side / "forecast.zarr" for side in STUDIES[options.study] if (out / side / "forecast.zarr").exists()
    }
    forecasts |= {kind: first.path(path) for kind, path in first.forecast.physics.items()}
    return score(
        forecasts, first.path(first.store.path), out / "scores", title="Ways to train, the same budget for each",
        analysis=first.path(str(first.store.analysis)), climatology=first.data.train,
        window=first.verification.climatology_window, leads=first.verification.leads, seed=first.seed,
        scores=("fair_crps", "spread_skill"), regions=("globe",),
    )  # fmt: skip


def summary(scores: Scores, out: Path) -> dict[str, dict[str, Any]]:
    """What the table says of each forecast."""
    crps = {label: m["fair_crps"].isel(region=0) for label, m in scores.metrics.items()}
    hours = crps["climatology"]["lead_time"].values / np.timedelta64(1, "h")
    found: dict[str, dict[str, Any]] = {}
    for label, values in crps.items():
        share = values / crps["climatology"]
        found[label] = {"crps": {f"{h:g}": 100 * float(share.isel(lead_time=i).mean("variable"))
                                 for i, h in enumerate(hours)}}  # fmt: skip
        early = hours <= 240
        if "imperfect" in crps:
            better = (values < crps["imperfect"]).isel(lead_time=early)
            found[label]["beats_imperfect"] = 100 * float(better.mean())
        if "perfect" in crps:
            gap = (crps["climatology"] - values) / (crps["climatology"] - crps["perfect"])
            found[label]["gap"] = {str(h): 100 * float(gap.isel(lead_time=int(i)).mean("variable"))
                                   for h in GAP for i in np.flatnonzero(hours == h)}  # fmt: skip
        if "spread_skill" in scores.metrics[label]:
            ratio = scores.metrics[label]["spread_skill"].isel(region=0, lead_time=early)
            found[label]["spread_skill"] = [float(ratio.mean("variable").min()), float(ratio.mean("variable").max())]
        found[label] |= training_of(label, out)
    return found


def training_of(side: str, out: Path) -> dict[str, Any]:
    """Updates, validation scores after how many, and the last signs of life of the latent."""
    metrics = out / side / "training" / "metrics.jsonl"
    if not metrics.exists():
        return {}
    total = sum(stage["updates"] for stage in json.loads((out / "stages.json").read_text())[side])
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    before = total - max(line["update"] for line in lines if "loss" in line)  # in the stage that sides share
    checks = [(before + line["update"], line["validation"]) for line in lines if "validation" in line]
    last = checks[-1][1]
    found: dict[str, Any] = {"updates": total, "validation": [(update, v["score"]) for update, v in checks]}
    if "latent" in last:
        found |= {name: last["latent"][name][0] for name in ("kl", "active") if name in last["latent"]}
        for name in ("crps_prior", "crps_posterior"):
            if name in last:
                found[name] = statistics.fmean(x[0] for x in last[name].values())
    return found


def table(found: dict[str, dict[str, Any]]) -> str:
    """One table in Markdown."""
    heads = ["forecast", "updates", *(f"{h} h" for h in HOURS), *(f"gap {h} h" for h in GAP), "beats imperfect",
             "spread-skill", "KL / dim", "active", "CRPS, z of P", "CRPS, z of Q"]  # fmt: skip
    rows: list[list[str]] = [heads]
    for label, f in found.items():
        cells = [label, f"{f['updates']:,}" if "updates" in f else ""]
        cells += [f"{f['crps'][str(h)]:.1f}" if str(h) in f["crps"] else "" for h in HOURS]
        cells += [f"{f['gap'][str(h)]:.0f} %" if str(h) in f.get("gap", {}) else "" for h in GAP]
        cells.append(f"{f['beats_imperfect']:.0f} %" if "beats_imperfect" in f else "")
        cells.append("{:.2f}-{:.2f}".format(*f["spread_skill"]) if "spread_skill" in f else "")
        for key, form in (("kl", ".2g"), ("active", ".0%"), ("crps_prior", ".4f"), ("crps_posterior", ".4f")):
            cells.append(format(f[key], form) if f.get(key) is not None else "")
        rows.append(cells)
    used = [i for i in range(len(heads)) if any(row[i] for row in rows[1:])]
    lines = ["| " + " | ".join(row[i] for i in used) + " |" for row in rows]
    lines.insert(1, "|" + "---|" * len(used))
    note = (
        "Fair CRPS in % of climatology's, mean over variables (less is better); share of the gap from climatology "
        "to the perfect model that is closed; share of variables and leads to 240 h better than the imperfect "
        "model; least and greatest spread-skill ratio to 240 h, mean over variables; at the last validation KL "
        "in nats per latent dimension, dimensions above 0.01 nats, one-step CRPS with z of prior and posterior."
    )
    return "\n".join(["# Ways to train, the same budget for each", "", *lines, "", note, ""])


def picture(found: dict[str, dict[str, Any]], path: Path) -> None:
    """One figure: skill by lead, and learning by update."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    skill, learning = figure.subplots(1, 2)
    styles = {"perfect": ("0.45", "--"), "imperfect": ("0.45", ":"), "climatology": ("0.75", "-")}
    for i, (label, f) in enumerate((k, v) for k, v in found.items() if k != "persistence"):
        colour, dashes = styles.get(label, (f"C{i}", "-"))
        days = [float(h) / 24 for h in f["crps"]]
        skill.plot(days, list(f["crps"].values()), dashes, color=colour, label=label)
        if "validation" in f:
            updates, values = zip(*((m, v) for m, v in f["validation"] if v is not None), strict=True)
            learning.plot(updates, values, color=colour, marker=".", label=label)
    skill.set(xlabel="lead, days", ylabel="fair CRPS, % of climatology", title="Mean over variables")
    learning.set(xlabel="updates of training", ylabel="validation score", title="Learning", yscale="log")
    skill.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, forecast, verify, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=list(STUDIES))
    parser.add_argument("--out", type=Path, default=Path("runs/study"))
    parser.add_argument("--minutes", type=float, default=60, help="of training for each side")
    parser.add_argument("--updates", type=int, help="of training for each side, in place of minutes")
    parser.add_argument("--members", type=int, default=50)
    parser.add_argument("--starts", type=int, help="about so many in place of the config's")
    parser.add_argument("--sides", nargs="+", help="these only")
    options = parser.parse_args(arguments)
    known = list(STUDIES[options.study])
    options.sides = options.sides or known
    if unknown := set(options.sides) - set(known):
        parser.error(f"--sides {min(unknown)}: the sides of {options.study} are {', '.join(known)}")
    archive = configs.load(f"planet_{options.study}", (f"root={options.out / 'archive'}",))
    ingest(archive)
    for side in options.sides:
        run(side, options.out, options)
    found = summary(verify(options.out, options), options.out)
    (options.out / "study.json").write_text(json.dumps(found, indent=1))
    (options.out / "study.md").write_text(table(found))
    picture(found, options.out / "study.png")
    stdout.print((options.out / "study.md").read_text(), highlight=False)


if __name__ == "__main__":
    main()
