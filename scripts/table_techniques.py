"""What each training technique does on the sample planet, with equal time and three seeds: one table.

    python scripts/table_techniques.py                            # 20 minutes a run: about 50 hours; goes on if stopped
    python scripts/table_techniques.py --quick --techniques sam   # a budget of seconds: shows that it runs, no more
    python scripts/table_techniques.py --techniques sam reweighting --minutes 5

Every run has the planet's archive, network and batches of the demo (one step, learning rates as given in RUNS) and
trains for the same CPU time: how many updates that is follows from what an update takes, measured first on one thread.
Each run is a process of its own, which tells its peak memory. Score: mean fair CRPS of validation rollouts over
variables and four steps, in standard deviations, of the averaged weights at the end (lower is better).
Writes techniques.json and techniques.md into --out.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from forecast.core import config as configs  # noqa: E402
from forecast.core.config import Config  # noqa: E402
from forecast.core.progress import stdout  # noqa: E402
from forecast.training.monitor import Monitor  # noqa: E402
from pipelines.ingest import ingest  # noqa: E402
from pipelines.train import train  # noqa: E402


class Case(NamedTuple):
    """A technique as the table has it: its sections, and the learning rate where it wants another."""

    techniques: list[dict[str, Any]]
    lr: float = 5e-3


RUNS: dict[str, Case] = {
    "plain": Case([]),
    "adahessian": Case([{"name": "adahessian"}], 0.15),
    "gradient_noise": Case([{"name": "gradient_noise"}]),
    "normalised_descent": Case([{"name": "normalised_descent"}], 0.05),
    "sam": Case([{"name": "sam"}]),
    "sam, groups": Case([{"name": "sam", "groups": [["z"], ["u", "v"], ["t", "2t"]]}]),
    "zeroth_order": Case([{"name": "zeroth_order"}], 1e-5),
    "local_learning, momentum": Case([{"name": "local_learning"}]),
    "local_learning, augmented": Case([{"name": "local_learning", "auxiliary": "augmented"}]),
    "reweighting": Case([{"name": "reweighting"}]),
    "multi_sample_dropout": Case([{"name": "multi_sample_dropout"}]),
    "instance_noise": Case([{"name": "instance_noise"}]),
    "hard_regions": Case([{"name": "hard_regions"}]),
    "cluster_batches": Case([{"name": "cluster_batches"}]),
    "archive_bandit": Case([{"name": "archive_bandit", "archives": ["ANALYSIS"]}]),
    "generations": Case([{"name": "generations"}]),
}
APART = "population, date_selection, adaptation and unlearning build on other runs and are not in this table."
PROBE = (4, 16)
"""updates that are left out of, and taken into, the time of an update"""


def config_of(name: str, seed: int, updates: int, options: argparse.Namespace, folder: Path) -> Config:
    """One run."""
    case, archive = RUNS[name], (options.out / "archive").resolve()
    sections = json.dumps(case.techniques).replace("ANALYSIS", str(archive / "analysis.zarr"))
    stages = [{"updates": updates, "lr": case.lr, "warmup": min(20, updates // 4), "members": 2}]
    small = ("model.mesh_refinement=2", "model.width=32", "training.validation_starts=2") if options.quick else ()
    return configs.load("demo", (
        f"root={folder}", f"seed={seed}", f"store.path={archive / 'truth.zarr'}", *small, *_period(options),
        f"store.analysis={archive / 'analysis.zarr'}", f"training.stages={json.dumps(stages)}",
        f"training.techniques={sections}", f"training.validate_every={updates}", "training.checkpoint_every=200",
    ))  # fmt: skip


def _period(options: argparse.Namespace) -> tuple[str, ...]:
    if not options.quick:
        return ()
    years = ("data.train=[2001-01-01T00, 2001-12-31T18]", "data.validation=[2002-01-01T00, 2002-12-31T18]")
    return ("source.years=2", *years, "forecast.starts={at: [2002-02-01T00]}")


def one(name: str, seed: int, updates: int, options: argparse.Namespace, folder: Path) -> None:
    """A run in this process, which goes on if it was stopped; `result.json` tells of it."""
    at, noted = list[float](), Monitor.update
    setattr(Monitor, "update", lambda *told: (at.append(time.process_time()), noted(*told)))  # noqa: B010
    metrics = train(config_of(name, seed, updates, options, folder), resume=True) / "metrics.jsonl"
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    score = [line["validation"]["score"] for line in lines if "validation" in line][-1]
    took = [b - a for a, b in itertools.pairwise(at[PROBE[0] :])] or [0.0]
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024
    result = {"score": score, "updates": updates, "peak": peak, "update": statistics.median(took)}
    (folder / "result.json").write_text(json.dumps(result))


def result(name: str, seed: int, updates: int, options: argparse.Namespace, kind: str) -> dict[str, Any]:
    """Of a run in a process of its own, made if it is not there."""
    folder = options.out / kind / name.replace(", ", "-") / f"{seed}-{updates}"
    if not (folder / "result.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        told = {"one": name, "seed": seed, "updates": updates, "folder": folder, "out": options.out}
        command = [sys.executable, __file__, *(f"--{key}={value}" for key, value in told.items())]
        command += ["--quick"] if options.quick else []
        with (folder / "log").open("w") as log:
            subprocess.run(command, check=True, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return dict(json.loads((folder / "result.json").read_text()))


def row(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """A technique's runs: as many updates as the time allows, a run for each seed."""
    probe = result(name, 1, sum(PROBE), options, "probes")
    updates = max(sum(PROBE), round(60 * options.minutes / probe["update"]))
    runs = [result(name, seed, updates, options, "runs") for seed in range(1, options.seeds + 1)]
    return {"updates": updates, "update": probe["update"], "peak": probe["peak"], "scores": [r["score"] for r in runs]}


def table(rows: dict[str, dict[str, Any]], options: argparse.Namespace) -> str:
    """Markdown."""
    plain = rows["plain"]
    base, noise = statistics.mean(plain["scores"]), _spread(plain["scores"])
    text = [f"{options.minutes:g} minutes of training for each run, {options.seeds} seeds"
            f"{', quick: nothing follows from the scores' if options.quick else ''}. {APART}", "",
            "| technique | time of an update | memory | updates | score, mean ± spread of seeds | change | verdict |",
            "|---|---|---|---|---|---|---|"]  # fmt: skip
    for name, found in rows.items():
        mean, spread = statistics.mean(found["scores"]), _spread(found["scores"])
        change = mean - base
        clear = abs(change) > 2 * (noise**2 / options.seeds + spread**2 / options.seeds) ** 0.5
        said = "" if name == "plain" else "no clear change" if not clear else "helps" if change < 0 else "does not help"
        cost = (f"x {found[key] / plain[key]:.2f}" for key in ("update", "peak"))
        cells = (name, *cost, found["updates"], f"{mean:.4f} ± {spread:.4f}", f"{100 * change / base:+.1f} %", said)
        text.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join([*text, ""])


def _spread(scores: Sequence[float]) -> float:
    return statistics.stdev(scores) if len(scores) > 1 else 0.0


def main() -> None:
    """Run what is missing, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/techniques"))
    parser.add_argument("--minutes", type=float, help="of training for each run (20; with --quick 0.1)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--techniques", nargs="+", choices=list(RUNS), default=list(RUNS))
    parser.add_argument("--quick", action="store_true", help="two years, a small network, seconds a run")
    for hidden, kind in (("one", str), ("seed", int), ("updates", int), ("folder", Path)):
        parser.add_argument(f"--{hidden}", type=kind, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        return one(options.one, options.seed, options.updates, options, options.folder)
    options.out = options.out.with_name(options.out.name + "-quick") if options.quick else options.out
    options.minutes = options.minutes or (0.1 if options.quick else 20.0)
    ingest(configs.load("demo", (f"root={(options.out / 'archive').resolve()}", *_period(options))))
    names = dict.fromkeys(["plain", *options.techniques])
    rows: dict[str, dict[str, Any]] = {}
    for name in names:
        rows[name] = row(name, options)
        (options.out / "techniques.json").write_text(json.dumps(rows, indent=1))
        (options.out / "techniques.md").write_text(table(rows, options))
    stdout.print((options.out / "techniques.md").read_text(), highlight=False)
    return None


if __name__ == "__main__":
    main()
