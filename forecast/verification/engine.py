"""Fields in, sums out: one pass over every (start, lead), all forecasts side by side, on a few threads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from forecast.core.progress import bar
from forecast.verification.baselines import Climatology
from forecast.verification.climate import Climate
from forecast.verification.parts import Parts
from forecast.verification.plan import Plan
from forecast.verification.scorer import Missing, Scorer
from forecast.verification.sources import Source
from forecast.verification.states import States
from forecast.verification.sums import Sums

SHARES = 32
"""runs of starts that are kept, or given to a worker, as one"""


@dataclass
class Engine:
    """Scores sources against the truth.

    Attributes:
        plan: which fields.
        truth: states on the same grid. analyses: states that the forecasts started from.
        sources: forecasts and baselines.
        climatology: gives the climate of each valid time; None leaves scores out that need it.
        scorer: turns fields into sums.
    """

    plan: Plan
    truth: States
    analyses: States
    sources: Sequence[Source]
    climatology: Climatology | None
    scorer: Scorer
    missing_truth: int = field(default=0, init=False)
    missing_forecast: dict[str, int] = field(default_factory=dict, init=False)
    missing_fields: dict[str, int] = field(default_factory=dict, init=False)

    def run(self, workers: int = 2, parts: Parts | None = None) -> dict[str, Sums]:
        """Score everything; sums by label. The result does not depend on `workers` or order, to the last bit.

        With `parts`, what they hold is not scored again, and what is scored goes there, a share of starts at a time.
        """
        plan = self.plan
        sums, shares = self.zeros(plan.starts), self.shares() if parts else [np.arange(len(plan.starts))]
        with bar("scoring", len(plan.cases)) as progress, ThreadPoolExecutor(workers) as pool:
            for k, share in enumerate(shares):
                cases = [case for case in plan.cases if share[0] <= case[0] <= share[-1]]
                found = parts.load(k, sums, share) if parts else None
                if found is None:
                    found = []
                    for some in pool.map(lambda case: list(self.score(case, sums)), cases):
                        found += some
                        progress.advance()
                    if parts:
                        parts.save(k, sums, share, found)
                self.count(found)
        return {label: s.compact() for label, s in sums.items()}

    def shares(self) -> list[np.ndarray]:
        """Positions of starts, in runs that are scored as one."""
        starts = len(self.plan.starts)
        return np.array_split(np.arange(starts), min(starts, SHARES))

    def zeros(self, starts: np.ndarray) -> dict[str, Sums]:
        """Empty sums of some starts (S,), by label."""
        plan = self.plan
        return {
            s.label: self.scorer.zeros(s.label, s.members, plan.variables, starts, plan.leads) for s in self.sources
        }

    def count(self, found: Sequence[tuple[str, Missing]]) -> None:
        """Add the missing values that `score` found."""
        for k, (label, missing) in enumerate(found):
            self.missing_truth += missing.truth if k % len(self.sources) == 0 else 0
            self.missing_forecast[label] = self.missing_forecast.get(label, 0) + missing.forecast
            self.missing_fields[label] = self.missing_fields.get(label, 0) + missing.fields

    def score(self, case: tuple[int, int], sums: dict[str, Sums]) -> Iterator[tuple[str, Missing]]:
        """Fill the slots of one (start, lead), variable by variable, source by source."""
        start, lead = self.plan.starts[case[0]], self.plan.leads[case[1]]
        truth, analysis, first = self.truth.get(start + lead), self.analyses.get(start), None
        if self.truth.has(start):
            first = self.truth.get(start)
        ensemble = self.climatology.read_all(start + lead) if self.climatology else None
        for v, name in enumerate(self.plan.variables):
            climate = Climate(np.ascontiguousarray(ensemble[:, v])) if ensemble is not None else None
            for source in self.sources:
                own = climate is not None and source is self.climatology
                members = climate.members if own and climate else source.read(name, start, lead)
                initial = (analysis[v], analysis[v] if first is None else first[v])
                yield (
                    source.label,
                    self.scorer.add(sums[source.label], name, start, lead, members, truth[v], climate, initial),
                )
