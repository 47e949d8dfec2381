"""The page docs/losses.md, from the registry: python -m forecast.losses.catalogue > docs/losses.md"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import groupby

from forecast.losses import registry
from forecast.losses.registry import Entry

COLUMNS = ("name", "formula", "source", "status", "takes", "extra", "use in a weather ensemble")

INTRODUCTION = """# Losses

Made by `python -m forecast.losses.catalogue > docs/losses.md` from what each loss says of itself: change it there.

{count} losses: {statuses}.

*Verified* means read in the official code or the paper's own text, *derived* follows by algebra from what was,
*third-party* was read in other people's code or notes only. What is *from memory* was built without a source at hand,
lives in `forecast.losses.experimental` and warns once when it is used.

## One convention

Each loss is a pure function and a thin module, registered under a short name:

```python
import torch

from forecast import losses
from forecast.losses.imbalanced import dice
from forecast.losses.regression import mse

forecast, truth = torch.randn(2, 100, 3), torch.randn(2, 100, 3)  # (B, G, V)
area = torch.rand(100, 1)
loss = mse(forecast, truth, weight=area)  # sum(w * error) / sum(w)
same = losses.build({"name": "mse"})(forecast, truth, weight=area)

logits, rained = torch.randn(2, 100), torch.rand(2, 100) > 0.8
loss = dice(logits, rained.float(), weight=area[:, 0], reduction="none")  # one number a sample
```

- Data are positional, settings are keywords. `weight`, `mask`, `generator` and `index` belong to a call, all else to
  the module. A config names a loss and its settings, `{"name": "huber", "delta": 0.5}`; a wrong name or setting raises
  a `ForecastError` that names the nearest right one.
- `reduction` is `mean`, `sum` or `none`; the mean is weighted, sum(w * loss) / sum(w). Where nothing is left to count
  the loss is a zero with a graph, so that every process has a gradient.
- What `mask` leaves out is not looked at, NaN included. Without a mask, a NaN in the truth makes the loss NaN.
- Ensembles are (B, M, *), the members on `ensemble_dim=1`; the truth is (B, *). One member raises, unless
  `allow_deterministic=True`.
- Classes and events come as logits (`from_logits`); labels are class numbers, `ignore_index=-100` leaves out, or
  probabilities.
- All is computed in float32 at least, under autocast too.
- Losses with a memory keep it in buffers, which checkpoints hold, and have `reset_state()`.

## Two warnings

- **The fair CRPS is degenerate.** Members y, ..., y, z score 0 for every z: with all members but one right, the last
  one is free. Do not train with it alone.
- **The standard CRPS collapses the spread of small ensembles.** Its expectation for members of the true distribution is
  (1 + 1/M) of the least possible: too little spread scores better, the more so the fewer the members.

`almost_fair_crps` mixes both, alpha * fair + (1 - alpha) * standard; `alpha = 0.95` is the default, here and in other
ensemble scores that have the choice.

```python
members, truth = torch.randn(2, 8, 100, 3), torch.randn(2, 100, 3)
score = losses.build({"name": "almost_fair_crps", "alpha": 0.95})(members, truth)
right = truth[:, None].repeat(1, 8, 1, 1)
right[:, 7] += 30.0
assert losses.fair_crps(right, truth).abs().max() < 1e-4
assert losses.almost_fair_crps(right, truth).min() > 0.01
```

## Several at once

`combined` adds losses of the same inputs and returns the total with its detached parts; `transformed` takes an ensemble
score behind a transform (differences along edges, smoothing, spectra, time aggregates).

```python
terms = {"error": {"name": "mse"}, "tails": {"name": "log_cosh", "scale": 2.0}}
loss = losses.build({"name": "combined", "terms": terms, "factors": {"tails": 0.1}})
total, parts = loss(forecast, truth, weight=area)
```

How a config trains a forecaster with any of them: [terms.md](terms.md).

## What a loss takes

| takes | inputs |
|---|---|
| ensemble | members (B, M, *), truth (B, *) |
| field | forecast, truth (B, *) |
| event | logits (B, *), labels 0 or 1 |
| maps | as field or event, with rows and columns last, (B, *, H, W) |
| classes | logits (B, K, *), class numbers (B, *) |
| latent | features of one view or two |
| teacher | student, teacher, and the truth where asked for |
| parameters | weights of a network, or what depends on them |
| other | as its docstring says |
"""


def render() -> str:
    """The page, which depends on the registry alone and not on the order of imports."""
    entries = sorted(registry.entries(), key=lambda entry: (entry.family.count("."), entry.family))
    count = Counter(entry.status for entry in entries)
    statuses = ", ".join(f"{count[name]} {name}" for name in ("verified", "derived", "third-party", "from memory"))
    parts = [INTRODUCTION.replace("{count}", str(len(entries))).replace("{statuses}", statuses)]
    parts += [_family(name, list(group)) for name, group in groupby(entries, key=lambda entry: entry.family)]
    return "\n".join(parts)


def _family(name: str, entries: Sequence[Entry]) -> str:
    """Heading, what the family's file says of itself, and a row for each loss."""
    summary = (inspect.getdoc(importlib.import_module(f"forecast.losses.{name}")) or "").split("\n\n")[0]
    lines = [f"## {name.replace('.', ': ').replace('_', ' ')}", "", f"`forecast.losses.{name}`: {_plain(summary)}", ""]
    lines += [_row(COLUMNS), _row(["---"] * len(COLUMNS)), *(_row(_cells(entry)) for entry in entries)]
    return "\n".join(lines) + "\n"


def _cells(entry: Entry) -> list[str]:
    extra = f"`forecast[{entry.extra}]`" if entry.extra else ""
    return [f"`{entry.name}`", f"`{entry.formula}`", entry.source, entry.status, entry.takes, extra, entry.use]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _plain(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    sys.stdout.write(render())
