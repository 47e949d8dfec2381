#!/usr/bin/env python
"""Print the table of all scores for docs/verification.md: `python scripts/list_scores.py`."""

from __future__ import annotations

from forecast.verification.scores import METRICS

BEST = {"low": "0", "one": "1", "high": "high", "none": "-"}


def main() -> None:
    """The table, a row a score."""
    print("| score | definition | units | best | reference |\n|---|---|---|---|---|")
    for metric in METRICS:
        text = " ".join((metric.__doc__ or "").split("\n\n")[0].split()).replace("|", "\\|")
        print(f"| `{metric.name}` | {text} | {metric.units} | {BEST[metric.better]} | {metric.reference} |")


if __name__ == "__main__":
    main()
