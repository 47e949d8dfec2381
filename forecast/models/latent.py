"""Gaussian random fields of a variational forecaster: their parameters, draws, divergences and moments.

Dimensions beside the usual: P points of the latent grid, K channels (input states x prognostic variables), R patterns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import LowRankMultivariateNormal, kl_divergence

from forecast.core.model_sections import DivergenceSection
from forecast.losses.variational import gaussian_kl

BOUND = 10.0
"""of log variances, as in `losses.variational.gaussian_kl`"""


@dataclass(frozen=True)
class Gaussian:
    """Normal distributions of fields, one for each sample and member.

    Attributes:
        mean, logvar: (B, M or 1, P, K) of each point and channel by itself.
        patterns: (B, M or 1, R, P, K) fields that one normal number each multiplies: covariance beside the diagonal.
    """

    mean: Tensor
    logvar: Tensor
    patterns: Tensor | None = None

    @classmethod
    def white(cls, like: Tensor) -> Gaussian:
        """N(0, 1) everywhere, in the shape of `like`."""
        return cls(torch.zeros_like(like), torch.zeros_like(like))

    @property
    def variance(self) -> Tensor:
        """(B, M or 1, P, K) of each point and channel, all in all."""
        own = self.logvar.exp()
        return own if self.patterns is None else own + self.patterns.square().sum(dim=2)

    def draw(self, noise: Tensor) -> Tensor:
        """(B, M, P, K) from standard normals (B, M, P * K + R)."""
        size = self.mean.shape[2] * self.mean.shape[3]
        white = noise[..., :size].unflatten(-1, self.mean.shape[2:])
        drawn = torch.addcmul(self.mean, (0.5 * self.logvar).exp(), white)
        if self.patterns is None:
            return drawn
        patterns = self.patterns.expand(-1, noise.shape[1], -1, -1, -1)
        return drawn + torch.einsum("bmr,bmrpk->bmpk", noise[..., size:], patterns)

    def of_members(self, which: slice) -> Gaussian:
        """The distributions of some members; members that share one keep it."""
        if self.mean.shape[1] == 1:
            return self
        patterns = None if self.patterns is None else self.patterns[:, which]
        return Gaussian(self.mean[:, which], self.logvar[:, which], patterns)

    def detach(self) -> Gaussian:
        """The same numbers without gradient."""
        patterns = None if self.patterns is None else self.patterns.detach()
        return Gaussian(self.mean.detach(), self.logvar.detach(), patterns)


def divergence(q: Gaussian, p: Gaussian, areas: Tensor, section: DivergenceSection) -> Tensor:
    """KL(q || p) in nats per latent dimension, a scalar: the mean over samples, members, points and channels.

    Fields of independent points weigh these by `areas` (P,); free bits then are those of each channel. With patterns
    a field is one normal variable, free bits are those of all its dimensions, and points count alike.
    """
    if q.patterns is not None or p.patterns is not None:
        return _low_rank(q, p, section)
    p = Gaussian(p.mean.expand_as(q.mean), p.logvar.expand_as(q.logvar))
    weight = areas.expand(*q.mean.shape[:2], -1).flatten()
    rows = [x.flatten(0, 2) for x in (q.mean, q.logvar, p.mean, p.logvar)]
    floors = {"free_bits": section.free_bits, "balance": section.balance}
    return gaussian_kl(*rows, weight=weight, **floors) / q.mean.shape[-1]


def _low_rank(q: Gaussian, p: Gaussian, section: DivergenceSection) -> Tensor:
    def kl(a: Gaussian, b: Gaussian) -> Tensor:
        size = a.mean.shape[2] * a.mean.shape[3]
        return (kl_divergence(_joint(a), _joint(b)).mean() / size).clamp_min(section.free_bits)

    if section.balance is None:
        return kl(q, p)
    return section.balance * kl(q.detach(), p) + (1 - section.balance) * kl(q, p.detach())


def _joint(x: Gaussian) -> LowRankMultivariateNormal:
    flat = x.logvar.flatten(2)
    factor = flat.new_zeros(*flat.shape, 1) if x.patterns is None else x.patterns.flatten(3).transpose(2, 3)
    return LowRankMultivariateNormal(x.mean.flatten(2), factor, flat.exp(), validate_args=False)


def marginal_kl(q: Gaussian, p: Gaussian) -> Tensor:
    """(B, M or 1, P, K) KL(q || p) of each point and channel by itself, in nats."""
    ratio = (q.variance + (q.mean - p.mean).square()) / p.variance
    return 0.5 * (p.variance.log() - q.variance.log() + ratio - 1)
