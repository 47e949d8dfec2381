"""The network: encoder, processor and decoder, grid -> mesh -> grid, by attention (after Lang et al. 2026)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch_geometric.data import HeteroData

from forecast.core.model_sections import GraphTransformerSection
from forecast.models import compact, direct, full, recompute
from forecast.models.features import Features, Network
from forecast.models.harmonic import HarmonicLayer, Waves
from forecast.models.noise import ConditionalLayerNorm, NoiseEmbedding


class GraphTransformer(Network):
    """State on the grid and noise on the mesh -> increments on the grid, zero at the start."""

    def __init__(self, section: GraphTransformerSection, graph: HeteroData, inputs: int, outputs: int) -> None:
        super().__init__()
        blocks: Any = {"compact": compact, "full": full, "direct": direct}[section.blocks]
        self.noise_shape = (graph["mesh"].num_nodes, section.noise_channels)
        self.recompute = section.activation_checkpointing in ("layer", "both")
        self.keeps = section.activation_checkpointing == "layer"  # else every step of a rollout would keep its own
        self.encoder = blocks.Encoder(section, graph, inputs)
        self.noise = NoiseEmbedding(section.noise_channels, section.noise_hidden)
        if section.processor == "harmonic":
            waves = Waves(section.truncation, graph["mesh"].x)
            sizes = section.width, int(section.width * section.mlp_ratio), section.filters
            self.layers = nn.ModuleList(
                HarmonicLayer(*sizes, waves, ConditionalLayerNorm(section.width, section.noise_channels))
                for _ in range(section.layers)
            )
        else:
            self.layers = nn.ModuleList(blocks.ProcessorLayer(section, graph) for _ in range(section.layers))
        self.decoder = blocks.Decoder(section, graph, inputs, outputs)
        self.hidden_width, self.latent_width = self.decoder.hidden_width, section.width

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Features]:
        """(B, M, G, outputs) and features from x (B, M or 1, G, inputs) and noise (B, M, N, C).

        Members that share their state (dimension 1) share the encoder's work.
        """
        samples, members = noise.shape[:2]
        points, nodes = self._run(self.encoder, x.flatten(0, 1))
        latent = _per_member(nodes, samples * members)
        condition = self.noise(noise.flatten(0, 1))
        for layer in self.layers:
            latent = self._run(layer, latent, condition)
        latent = latent + _per_member(nodes, samples * members)
        shape = (samples, members)
        out, hidden = self._decode(points, latent, shape)
        return out.unflatten(0, shape), Features(hidden.unflatten(0, shape), latent.unflatten(0, shape))

    def _decode(self, points: Tensor, latent: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Of all members at once, or one after another where memory is to be saved."""
        asked = self._run(self.decoder.ask, points)
        if self.recompute and torch.is_grad_enabled():
            nodes = latent.unflatten(0, shape)
            pieces = [part.unflatten(0, (shape[0], -1)).unbind(1) for part in asked]
            each = [
                self._run(self.decoder, *(piece[m % len(piece)] for piece in pieces), nodes[:, m])
                for m in range(shape[1])
            ]
            out, hidden = (torch.stack(parts, dim=1).flatten(0, 1) for parts in zip(*each, strict=True))
            return out, hidden
        decoded: tuple[Tensor, Tensor] = self.decoder(*asked, latent)
        return decoded

    def _run(self, part: Callable[..., Any], *inputs: Tensor) -> Any:
        """What a part gives; its inside is computed again for the gradient if so configured."""
        if self.recompute and torch.is_grad_enabled():
            if self.keeps:
                kept = recompute.compiled_contexts if torch.compiler.is_compiling() else recompute.contexts
                return checkpoint(part, *inputs, use_reentrant=False, context_fn=kept)
            return checkpoint(part, *inputs, use_reentrant=False)
        return part(*inputs)


def _per_member(x: Tensor, rows: int) -> Tensor:
    """Repeat the rows of samples for their members, where they are not there already."""
    return x if x.shape[0] == rows else x.repeat_interleave(rows // x.shape[0], dim=0)
