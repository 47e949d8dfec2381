"""Reconstruction losses whose optimum knows the score of the data: contractive and denoising."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from forecast.losses.common import Loss, reduce, require, wide
from forecast.losses.pairs import blank, positive
from forecast.losses.registry import register

Network = Callable[[Tensor], Tensor]


@wide
def contractive_reconstruction(
    network: Network,
    inputs: Tensor,
    *,
    strength: float = 0.1,
    probes: int | None = 1,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """|r(x) - x|^2 + strength |dr/dx|_F^2; small strength s^2: (r(x) - x) / s^2 tends to the score of the data.

    The Frobenius norm is the mean of |J'v|^2 over `probes` random v of +-1 (Hutchinson), or exact with probes None, one
    backward pass for each output. Differentiated twice in training.

    Args:
        network: r, maps (B, *) to (B, *), sample by sample (no batch normalisation). inputs: (B, *).
        weight, mask: (B,).

    Returns:
        (B,) reduced; squares are summed over the rest.

    Raises:
        ForecastError: a network that changes the shape, a negative strength, probes below 1.
    """
    require(strength >= 0, "strength", strength, "must not be negative")
    require(probes is None or probes > 0, "probes", probes, "must be positive, or None")
    (inputs,) = blank(mask, inputs)
    with torch.enable_grad():
        x = inputs if inputs.requires_grad else inputs.detach().requires_grad_()
        out = _same(network, x)
        value = (out - x).flatten(1).square().sum(1)
        for v in _probes(out, probes, generator):
            (pulled,) = torch.autograd.grad(out, x, v, create_graph=True)
            scale = strength if probes is None else strength / probes
            value = value + scale * pulled.flatten(1).square().sum(1)
    return reduce(value, reduction, weight, mask)


def _same(network: Network, x: Tensor) -> Tensor:
    out = network(x)
    require(out.shape == x.shape, "network", tuple(out.shape), f"must keep the shape {tuple(x.shape)}")
    return out


def _probes(like: Tensor, number: int | None, generator: torch.Generator | None) -> list[Tensor]:
    if number is not None:
        return [torch.empty_like(like).bernoulli_(0.5, generator=generator).mul_(2).sub_(1) for _ in range(number)]
    units = torch.eye(like[0].numel() if len(like) else 0, dtype=like.dtype, device=like.device)
    return [unit.view(like.shape[1:]).expand_as(like) for unit in units]


@register(
    "contractive_reconstruction",
    formula="|r(x) - x|^2 + strength |dr/dx|_F^2",
    source="Alain and Bengio 2014, What Regularized Auto-Encoders Learn from the Data Generating Distribution, "
    "arXiv:1211.4246",
    use="a prior of latent states: which way the climate lies from a state",
    status="derived",
    takes="other",
)
class ContractiveReconstructionLoss(Loss, of=contractive_reconstruction):
    """`contractive_reconstruction` with its settings fixed."""


@wide
def denoising_reconstruction(
    network: Network,
    inputs: Tensor,
    *,
    noise: float = 0.1,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """|r(x + noise e) - x|^2, e standard normal. Gaussian data of variance s^2: the best r is x s^2 / (s^2 + noise^2).

    Args:
        network: r, maps (B, *) to (B, *). inputs: (B, *). noise: standard deviation. weight, mask: (B,).

    Returns:
        (B,) reduced; squares are summed over the rest.

    Raises:
        ForecastError: a network that changes the shape, noise that is not positive.
    """
    positive(noise=noise)
    (inputs,) = blank(mask, inputs)
    noisy = inputs + noise * torch.empty_like(inputs).normal_(generator=generator)
    return reduce((_same(network, noisy) - inputs).flatten(1).square().sum(1), reduction, weight, mask)


def reconstruction_score(network: Network, inputs: Tensor, *, noise: float) -> Tensor:
    """(r(x) - x) / noise^2: the score of the data that a denoising (or contractive) autoencoder has learnt."""
    positive(noise=noise)
    return (_same(network, inputs) - inputs) / noise**2


@register(
    "denoising_reconstruction",
    formula="|r(x + s e) - x|^2",
    source="Vincent et al. 2008; Alain and Bengio 2014, What Regularized Auto-Encoders Learn, arXiv:1211.4246",
    use="a prior of latent states; what it takes off a perturbed state is not weather",
    status="derived",
    takes="other",
)
class DenoisingReconstructionLoss(Loss, of=denoising_reconstruction):
    """`denoising_reconstruction` with its settings fixed."""
