"""What each training technique does on the sample planet, with equal time and several seeds: one table.

    python scripts/table_techniques.py                            # 24 s of training a run, 3 seeds: 40 min of a core
    python scripts/table_techniques.py --quick                    # 2 s, one seed: shows that all run, no more
    python scripts/table_techniques.py --techniques sam reweighting --minutes 20

Every run has one year of the planet, a small network of the demo's kind and batches of four, one step ahead, with the
learning rates in CASES, and trains for the same CPU time of one thread: how many updates that is follows from what an
update takes, measured first, all cases in turn. Score: mean fair CRPS of rollouts from another year over variables and
four steps, in standard deviations, of the averaged weights at the end (lower is better). Seed by seed, so that a table
of all cases is there after the first.

Each run is a process of its own and leaves a result.json; a second call makes what is missing, and a run that was
stopped goes on from its checkpoint. Copies of the command side by side share the work. Writes table.json and table.md
(quick.json, quick.md) into --out after each run.
"""

from __future__ import annotations

import argparse
import fcntl
import itertools
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scipy.stats import t as student  # noqa: E402

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


CASES: dict[str, Case] = {
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
    "robust_self_training": Case([{"name": "robust_self_training", "archives": ["ANALYSIS"]}]),
    "generations": Case([{"name": "generations", "every": 50}]),
}
PERIODS = ("source.years=2", "forecast.starts={at: [2002-02-01T00]}",
           "data.train=[2001-01-01T00, 2001-12-31T18]", "data.validation=[2002-01-01T00, 2002-12-31T18]")  # fmt: skip
NETWORK = ("model.width=32", "model.filters=8", "model.layers=2", "training.batch_size=4")
PROBE = (4, 12)
"""updates that are left out of, and taken into, the time of an update"""
ROUNDS = 2
"""of probes, of which the fastest counts"""


class Lab:
    """Where the runs are, and those that are not there yet are made."""

    def __init__(self, out: Path, minutes: float) -> None:
        self.out, self.minutes = out.resolve(), minutes

    def config(self, name: str, seed: int, updates: int, folder: Path) -> Config:
        """One run."""
        case, archive = CASES[name], self.out / "archive"
        sections = json.dumps(case.techniques).replace("ANALYSIS", str(archive / "analysis.zarr"))
        stages = [{"updates": updates, "lr": case.lr, "warmup": min(20, updates // 4), "members": 2}]
        stores = (f"store.path={archive / 'truth.zarr'}", f"store.analysis={archive / 'analysis.zarr'}")
        return configs.load("demo", (
            f"root={folder}", f"seed={seed}", *stores, *PERIODS, *NETWORK, f"training.stages={json.dumps(stages)}",
            f"training.techniques={sections}", f"training.validate_every={updates}", "training.checkpoint_every=100",
            "training.validation_starts=8", "training.validation_steps=4", "training.monitors=[jsonl]",
        ))  # fmt: skip

    def archive(self) -> None:
        """Two years of the planet, if they are not there."""
        _apart(ingest, self.out / "archive.log", configs.load("demo", (f"root={self.out / 'archive'}", *PERIODS)))

    def make(self, kind: str, name: str, seed: int, updates: int, wait: bool = False) -> None:
        """A run in a process of its own, if it is not there; what another copy of this script is at is left to it."""
        folder = self.out / kind / name.replace(", ", "-") / f"{seed}-{updates}"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                return
            if not (folder / "result.json").exists():
                _apart(one, folder / "log", self.config(name, seed, updates, folder), folder / "result.json")

    def result(self, kind: str, name: str, seed: int, updates: int) -> dict[str, Any] | None:
        """Of a run, if it is there."""
        told = self.out / kind / name.replace(", ", "-") / f"{seed}-{updates}" / "result.json"
        return dict(json.loads(told.read_text())) if told.exists() else None

    def updates(self, names: Sequence[str]) -> dict[str, int]:
        """How many each case has in its time."""
        for wait, turn, name in itertools.product((False, True), range(ROUNDS), names):
            self.make("probes", name, turn + 1, sum(PROBE), wait)
        took: dict[str, float] = {}
        for turn, name in itertools.product(range(ROUNDS), names):
            found = self.result("probes", name, turn + 1, sum(PROBE))
            assert found is not None
            took[name] = min(found["median"], took.get(name, found["median"]))
        return {name: max(sum(PROBE), round(60 * self.minutes / took[name])) for name in names}

    def rows(self, updates: dict[str, int], seeds: int) -> dict[str, list[dict[str, Any]]]:
        """What is there of each case, as many seeds as come before the first that is missing."""
        found = {name: [self.result("runs", name, seed, updates[name]) for seed in range(1, seeds + 1)]
                 for name in updates}  # fmt: skip
        rows = {name: [run for run in itertools.takewhile(bool, runs) if run] for name, runs in found.items()}
        return {name: runs for name, runs in rows.items() if runs}


def _apart(work: Any, log: Path, *arguments: Any) -> None:
    """`work` in a process of its own, which says what it has to say in `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    process = multiprocessing.get_context("fork").Process(target=_logged, args=(work, log, *arguments))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{log}: failed\n{log.read_text()[-2000:]}")


def _logged(work: Any, log: Path, *arguments: Any) -> None:
    with log.open("a") as to:
        os.dup2(to.fileno(), 1)
        os.dup2(to.fileno(), 2)
        work(*arguments)


def one(config: Config, told: Path) -> None:
    """A run in this process, which goes on if it was stopped; `told` gets its score and what it cost."""
    at, noted, before = list[float](), Monitor.update, _memory("VmRSS")
    setattr(Monitor, "update", lambda *told: (at.append(time.process_time()), noted(*told)))  # noqa: B010
    begun = time.process_time()
    metrics = train(config, resume=True) / "metrics.jsonl"
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    score = [line["validation"]["score"] for line in lines if "validation" in line][-1]
    kept = at[min(PROBE[0], len(at) - 1) :]
    took = [b - a for a, b in itertools.pairwise(kept)] or [0.0]
    costs = {"first": at[0] - begun, "mean": statistics.mean(took), "median": statistics.median(took)}
    peak = _memory("VmHWM") - before
    new = told.with_suffix(".new")
    new.write_text(json.dumps({"score": score, "updates": config.training.stages[0].updates, "peak": peak, **costs}))
    new.rename(told)


def _memory(line: str) -> float:
    """MB of this process."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(found.split()[1]) for found in status if found.startswith(line)) / 1024


def table(rows: dict[str, list[dict[str, Any]]], about: str) -> str:
    """Markdown, of runs by technique, a run for each seed."""
    plain = rows["plain"]
    text = [about, "",
            "| technique | time of an update | start | memory | updates | their time | score, mean ± spread of seeds |"
            " change, mean ± spread | verdict |",
            "|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for name, runs in rows.items():
        scores = [run["score"] for run in runs]
        change = [100 * (run["score"] / its["score"] - 1) for run, its in zip(runs, plain, strict=False)]
        cells = (
            f"{name}{'' if len(runs) == len(plain) else f' ({len(runs)} of {len(plain)} seeds)'}",
            f"x {_mean(runs, 'mean') / _mean(plain, 'mean'):.2f}", f"{_mean(runs, 'first'):.1f} s",
            f"x {_mean(runs, 'peak') / _mean(plain, 'peak'):.2f}", runs[0]["updates"],
            f"{_mean(runs, 'mean') * runs[0]['updates']:.0f} s",
            f"{statistics.mean(scores):.4f} ± {_spread(scores):.4f}",
            *(("", "") if name == "plain" else
              (f"{statistics.mean(change):+.1f} ± {_spread(change):.1f} %", verdict(change))),
        )  # fmt: skip
        text.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join([*text, ""])


def verdict(change: Sequence[float]) -> str:
    """Of the changes of the score, seed by seed: Student's t at 95 %."""
    if len(change) < 2:
        return "one seed"
    mean, error = statistics.mean(change), statistics.stdev(change) / len(change) ** 0.5
    if abs(mean) <= student.ppf(0.975, len(change) - 1) * error:
        return "no clear change"
    return "helps" if mean < 0 else "does not help: worse"


def _mean(runs: Sequence[dict[str, Any]], what: str) -> float:
    return statistics.mean(run[what] for run in runs)


def _spread(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def main() -> None:
    """Run what is missing, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/techniques"))
    parser.add_argument("--minutes", type=float, help="of training for each run (0.4)")
    parser.add_argument("--seeds", type=int, help="3")
    parser.add_argument("--techniques", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--quick", action="store_true", help="two seconds a run, one seed")
    options = parser.parse_args()
    quick = options.quick
    lab = Lab(options.out, options.minutes or (2 / 60 if quick else 0.4))
    seeds, kept = options.seeds or (1 if quick else 3), lab.out / ("quick" if quick else "table")
    lab.archive()
    names = list(dict.fromkeys(["plain", *options.techniques]))
    updates = lab.updates(names)
    about = f"{60 * lab.minutes:g} s of training for each run{', quick: scores say nothing' if quick else ''}."
    for wait, seed, name in itertools.product((False, True), range(1, seeds + 1), names):
        lab.make("runs", name, seed, updates[name], wait)
        if "plain" in (rows := lab.rows(updates, seeds)):
            kept.with_suffix(".json").write_text(json.dumps(rows, indent=1))
            kept.with_suffix(".md").write_text(table(rows, about))
    stdout.print(kept.with_suffix(".md").read_text(), highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
