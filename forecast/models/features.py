"""What a network tells of itself, and beside its output."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn


class Features(NamedTuple):
    """What the network knows besides its increments: what heads and losses of the latent read.

    Attributes:
        hidden: (B, M, G, D) of the decoder. latent: (B, M, N, D) of the mesh, or patches, after the processor.
    """

    hidden: Tensor
    latent: Tensor


class Network(nn.Module):
    """Base of networks.

    Attributes:
        noise_shape: (N, C) of one member and step. hidden_width: of the features that event heads read.
        latent_width: of the latent; 0 where there is none that losses could take.
    """

    noise_shape: tuple[int, int]
    hidden_width: int
    latent_width: int = 0
