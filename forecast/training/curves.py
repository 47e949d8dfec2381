"""The curves of a training run as a picture: loss, learning rate, validation scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def plot(metrics: Path, picture: Path) -> None:
    """Draw the curves of a metrics.jsonl into a PNG, replacing it in one go."""
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    updates = [line for line in lines if "loss" in line]
    validations = [line for line in lines if "validation" in line]
    latent = any("latent" in v["validation"] for v in validations)
    figure = Figure(figsize=(11, 10.5 if latent else 7))
    FigureCanvasAgg(figure)
    figure.subplots_adjust(left=0.06, right=0.9, bottom=0.05 if latent else 0.07, top=0.95, hspace=0.28)
    (loss, lr), (crps, ratio), *rest = figure.subplots(3 if latent else 2, 2)
    _loss(loss, updates)
    _line(lr, "learning rate", [u["update"] for u in updates], [u["lr"] for u in updates])
    _by_variable(crps, "validation: fair CRPS, first step / standard deviation", validations, "fair_crps", log=True)
    _by_variable(ratio, "validation: spread-skill ratio, first step", validations, "spread_skill")
    ratio.axhline(1.0, color="0.6", linewidth=0.8)
    if latent:
        _latent(rest[0][0], rest[0][1], validations)
    partial = picture.with_suffix(".partial.png")
    figure.savefig(partial, dpi=100)
    partial.replace(picture)


def _loss(axes: Axes, updates: list[dict[str, Any]]) -> None:
    steps = np.array([u["update"] for u in updates])
    loss = np.array([u["loss"] for u in updates])
    _line(axes, "training loss", steps, loss, log=True, color="0.8")
    width = max(len(loss) // 50, 1)
    if width > 1:
        smooth = np.convolve(loss, np.ones(width) / width, mode="valid")
        axes.plot(steps[width - 1 :], smooth, color="C0")
    for change in [b["update"] for a, b in zip(updates, updates[1:], strict=False) if a["rollout"] != b["rollout"]]:
        axes.axvline(change, color="0.6", linewidth=0.8, linestyle=":")


def _by_variable(axes: Axes, title: str, validations: list[dict[str, Any]], score: str, log: bool = False) -> None:
    steps = [v["update"] for v in validations]
    axes.set_prop_cycle(color=[*matplotlib.colormaps["tab20"].colors])  # type: ignore[attr-defined]
    for variable in validations[0]["validation"][score] if validations else ():
        values = [v["validation"][score][variable][0] for v in validations]
        known = [np.nan if x is None else x for x in values]
        _line(axes, title, steps, known, log=log, label=variable, marker=".")
    if score == "spread_skill" and validations:
        axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1.02), frameon=False)


def _latent(divergence: Axes, scores: Axes, validations: list[dict[str, Any]]) -> None:
    """Whether the latent lives: KL by variable, and the scores of members drawn from prior and posterior."""
    steps = [v["update"] for v in validations]
    if all("kl" in v["validation"] for v in validations):
        _by_variable(divergence, "KL(posterior || prior), nats per dimension", validations, "kl")
        divergence.set_yscale("symlog", linthresh=1e-3)
        divergence.set_ylim(bottom=0)
        active = [v["validation"]["latent"]["active"][0] for v in validations]
        divergence.text(0.02, 0.04, f"active dimensions: {active[-1]:.0%}", transform=divergence.transAxes, fontsize=8)
    for name, label in (("crps_prior", "z from the prior"), ("crps_posterior", "z from the posterior")):
        if all(name in v["validation"] for v in validations):
            means = [np.mean([x[0] for x in v["validation"][name].values()]) for v in validations]
            title = "fair CRPS of one step, mean over normalised variables"
            _line(scores, title, steps, means, log=True, label=label, marker=".")
    scores.legend(fontsize=8, frameon=False)


def _line(axes: Axes, title: str, x: Any, y: Any, log: bool = False, **style: Any) -> None:
    axes.plot(x, y, linewidth=1, **style)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("update")
    if log:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
        axes.tick_params(which="minor", labelsize=7)
