"""Block-wise local learning: each block of layers has its own loss (MAN, Su et al. 2024; AugLocal, Ma et al. 2024)."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from forecast.core import technique_sections as sections
from forecast.core.errors import ForecastError
from forecast.models.graph_forecaster import GraphForecaster
from forecast.training.curriculum import Curriculum
from forecast.training.optimizers import Optimizers
from forecast.training.techniques.base import Advance, Evaluate, Now, Run, Technique, Terms


class Auxiliary(nn.Module):
    """What leads from the end of a block to states: some layers, then a decoder of its own."""

    def __init__(self, layers: list[nn.Module], decoder: nn.Module) -> None:
        super().__init__()
        self.layers, self.decoder = nn.ModuleList(layers), decoder

    def forward(self, latent: Tensor, condition: Tensor, points: Tensor, nodes: Tensor) -> Tensor:
        """(B * M, G, V) increments from the latent (B * M, N, D)."""
        for layer in self.layers:
            latent = layer(latent, condition)
        decoder: Any = self.decoder
        out: Tensor = decoder(*decoder.ask(points), latent + nodes.repeat_interleave(len(latent) // len(nodes), 0))[0]
        return out


class LocalLearning(Technique[sections.LocalLearning]):
    """Blocks of the processor learn from the score of states that auxiliary networks make of their latents.

    A block's gradient is taken as soon as its latent is there, whose graph is then dropped: memory holds one block
    at a time. The encoder and the noise embedding learn with the first block, the decoder with the last, which alone
    has the loss of the run. `momentum`: the auxiliary layers follow the next block's by averages (decay 0.999 in the
    official code of MAN) and do not learn themselves. `augmented`: they are layers of their own, made like later ones
    (AugLocal chooses these evenly over the network). One block is plain training. Auxiliary networks have an optimiser
    like the run's, and are not needed to forecast.

    Raises:
        ForecastError: another kind of forecaster than a graph transformer, more blocks than layers, rollouts of several
            steps, recomputed activations, a compiled network, variables with gaps.
    """

    def __init__(self, section: sections.LocalLearning, run: Run) -> None:
        super().__init__(section, run)
        _check(section, run)
        network: Any = run.model.network
        count, blocks = len(network.layers), section.blocks
        self._ends = [count * (k + 1) // blocks - 1 for k in range(blocks - 1)]
        self._auxiliary = nn.ModuleList(self._auxiliary_of(network, end) for end in self._ends).to(run.device)
        self._optimizer = Optimizers(self._auxiliary, run.config.training) if self._ends else None
        self._given: tuple[Tensor, Tensor] | None = None
        self._points_nodes: tuple[Tensor, Tensor] | None = None
        self._remember()

    def _auxiliary_of(self, network: Any, end: int) -> Auxiliary:
        later = list(network.layers[end + 1 :])
        chosen = later[: self.section.layers]
        if self.section.auxiliary == "augmented" and self.section.layers:
            chosen = [later[len(later) * k // self.section.layers] for k in range(self.section.layers)]
        layers = [copy.deepcopy(layer) for layer in chosen]
        if self.section.auxiliary == "momentum":
            layers = [layer.requires_grad_(False) for layer in layers]
        return Auxiliary(layers, copy.deepcopy(network.decoder))

    def _remember(self) -> None:
        self.kept = {f"weights.{name}": p for name, p in self._auxiliary.named_parameters()}
        if self._optimizer is not None:
            self.kept |= self._optimizer.moments(self._auxiliary)

    def loaded(self) -> None:
        """Auxiliary networks and their optimiser go on."""
        held = self.kept
        with torch.no_grad():
            for name, p in self._auxiliary.named_parameters():
                p.copy_(held[f"weights.{name}"])
        if self._optimizer is not None:
            self._optimizer.load(self._auxiliary, held)
        self._remember()

    def gradients(self, now: Now, evaluate: Evaluate) -> Terms:
        """Of each block by its own loss."""
        if self._optimizer is None:
            return evaluate()
        self._optimizer.zero_grad()
        with self._cut():
            return evaluate()

    @torch.no_grad()
    def step(self, now: Now, lr: float, advance: Advance) -> None:
        """The optimiser's, then that of the auxiliary networks; averages follow."""
        advance(lr)
        if self._optimizer is None:
            return
        nn.utils.clip_grad_norm_(self._auxiliary.parameters(), self.run.config.training.clip_norm)
        self._optimizer.step(lr)
        network: Any = self.run.model.network
        if self.section.auxiliary == "momentum":
            for end, auxiliary in zip(self._ends, self._auxiliary, strict=True):
                theirs = network.layers[end + 1 : end + 1 + self.section.layers].parameters()
                for p, new in zip(auxiliary.layers.parameters(), theirs, strict=True):  # type: ignore[union-attr]
                    p.lerp_(new, 1 - self.section.decay)
        self._remember()

    @contextmanager
    def _cut(self) -> Iterator[None]:
        """Within the block a pass of the network takes the gradient of each block as it goes."""
        model: Any = self.run.model
        network, plain = model.network, model._advance

        def advance(past: list[Tensor], *rest: Any) -> Any:
            newest = past[-1]
            self._given = (newest if model.truncation is None else model.truncation(newest), rest[-1])
            return plain(past, *rest)

        with ExitStack() as stack:
            model._advance = advance
            stack.callback(lambda: delattr(model, "_advance"))
            hooks = [network.encoder.register_forward_hook(self._encoded)]
            for number, layer in enumerate(network.layers):
                hooks.append(layer.register_forward_pre_hook(self._enter(number)))
                if number in self._ends:
                    hooks.append(layer.register_forward_hook(self._leave(self._ends.index(number))))
            for hook in hooks:
                stack.callback(hook.remove)
            yield

    def _encoded(self, module: nn.Module, inputs: Any, output: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        self._points_nodes = output
        return tuple(part.detach() for part in output)

    def _enter(self, number: int) -> Any:
        """The first layer reads what the encoder made; later blocks get no gradient to the noise embedding."""

        def hook(module: nn.Module, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            latent, condition = inputs
            assert self._points_nodes is not None
            if number == 0:
                nodes = self._points_nodes[1]
                return nodes.repeat_interleave(len(latent) // len(nodes), 0), condition
            return latent, (condition.detach() if number > self._ends[0] else condition)

        return hook

    def _leave(self, block: int) -> Any:
        """At the end of a block: its loss and gradient; the next one gets the latent alone."""

        def hook(module: nn.Module, inputs: tuple[Tensor, Tensor], latent: Tensor) -> Tensor:
            assert self._points_nodes is not None and self._given is not None
            model: Any = self.run.model
            points, nodes = self._points_nodes if block == 0 else (part.detach() for part in self._points_nodes)
            reference, truth = self._given
            increment = self._auxiliary[block](latent, inputs[1], points, nodes).unflatten(0, (len(truth), -1))
            score = model._score(model.added(reference, increment), truth)
            (score.mean(dim=0) * model.weights).sum().backward()
            return latent.detach()

        return hook


def _check(section: sections.LocalLearning, run: Run) -> None:
    model, training = run.model, run.config.training
    layers = len(model.network.layers) if isinstance(model, GraphForecaster) else 0
    for wrong, what in (
        (not layers, "needs a graph transformer"),
        (section.blocks > layers, f"has {section.blocks} blocks for {layers} layers"),
        (Curriculum(training.stages).rollouts() != [1], "trains rollouts of one step only"),
        (
            model.section.activation_checkpointing != "none",
            "drops activations itself: set activation_checkpointing to none",
        ),
        (training.compile, "does not combine with compile"),
        (bool(model.fields.masked), "does not know variables with gaps"),
    ):
        if wrong:
            raise ForecastError(f"training.techniques: `local_learning` {what}")
