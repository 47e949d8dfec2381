"""Where techniques are tried: a quadratic with weights w and a run around it, and whole tiny runs."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file
from torch import Tensor, nn

from forecast.core import config as configs
from forecast.core.technique_sections import AnyTechnique
from forecast.training.curriculum import Update
from forecast.training.mesh import Mesh
from forecast.training.techniques.base import Now, Technique
from forecast.training.techniques.compose import TECHNIQUES
from tests import tiny


class Quadratic(nn.Module):
    """L(w) = (w - c) A (w - c) / 2, in double precision."""

    def __init__(self, size: int = 5, seed: int = 3) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        root = torch.randn(size, size, generator=generator, dtype=torch.float64)
        self.A = root @ root.T + torch.eye(size, dtype=torch.float64)
        self.c = torch.randn(size, generator=generator, dtype=torch.float64)
        self.w = nn.Parameter(torch.randn(size, generator=generator, dtype=torch.float64))
        self.passes = 0

    def loss(self) -> Tensor:
        away = self.w - self.c
        return away @ self.A @ away / 2

    def evaluate(self, backward: bool = True, alone: bool = False) -> dict[str, Tensor]:
        """As the Trainer's: adds to `.grad`."""
        self.passes += 1
        loss = self.loss()
        if backward:
            loss.backward()
        return {"loss": loss.detach()}

    def slope(self, at: Tensor | None = None) -> Tensor:
        """The gradient, by hand."""
        return self.A @ ((self.w.detach() if at is None else at) - self.c)


def technique(model: nn.Module, **section: Any) -> Technique[Any]:
    """A technique around any module."""
    run: Any = SimpleNamespace(
        model=model,
        device=torch.device("cpu"),
        mesh=Mesh(),
        config=SimpleNamespace(seed=1, loss=SimpleNamespace(terms={}), model=SimpleNamespace(kind="graph_transformer")),
        parameters=lambda: dict(model.named_parameters()),
    )
    if not hasattr(model, "fields"):
        model.fields = SimpleNamespace(variables=("z_500",))
    made = parsed(section)
    return TECHNIQUES[made.name](made, run)


def parsed(section: dict[str, Any]) -> Any:
    """A section as a config has it."""
    return TypeAdapter(AnyTechnique).validate_python(section)


def now(update: int = 0, lr: float = 0.1, members: int = 2) -> Now:
    """An update of nothing in particular."""
    return Now(update, Update(0, 1, 0, lr), members)


def config(root: Path, archive: Path, *techniques: Any, **training: Any) -> configs.Config:
    """A tiny run with techniques, two stages, five updates."""
    stages = [{"updates": 3, "lr": 3e-3}, {"updates": 2, "rollout": 2, "lr": 1e-3}]
    every = {"validate_every": 3, "checkpoint_every": 2, "stages": stages}
    return tiny.config(root, archive, techniques=list(techniques), **every | training)


def tensors(checkpoint: Path) -> dict[str, Tensor]:
    """All of a checkpoint."""
    files = sorted(checkpoint.glob("*.safetensors"))
    return {f"{file.name}/{name}": t for file in files for name, t in load_file(file).items()}


def notes(checkpoint: Path) -> dict[str, Any]:
    """What techniques have noted."""
    return dict(json.loads((checkpoint / "training.json").read_text())["techniques"])


def same(folder: Path, other: Path) -> bool:
    """Whether two runs ended in the same bits, techniques' own state aside."""
    a, b = (
        {name: t for name, t in tensors(f / "latest").items() if "/technique." not in name} for f in (folder, other)
    )
    return a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


def exactly(folder: Path, other: Path) -> bool:
    """Whether two runs ended in the same bits, techniques' own state as well."""
    a, b = (tensors(f / "latest") for f in (folder, other))
    return (
        a.keys() == b.keys()
        and all(a[k].equal(b[k]) for k in a)
        and notes(folder / "latest") == notes(other / "latest")
    )
