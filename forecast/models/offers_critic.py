"""What terms of a critic offer: a small network that judges the states of single points, and learns beside."""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor, nn

from forecast.losses.experimental.energy import refine
from forecast.models.companions import Critic, Marginals
from forecast.models.offers import About, Offer, Sizes

NOISE = 0.5
"""standard deviation of the noise that samples of an energy are refined from"""


class OfCritic(Offer):
    """Values and logits that a critic gives to points of the truth and of the first member, (R,) or (R, 2K).

    A loss of `real` and `made` teaches the critic, one of `made` alone the forecaster. Terms of one event share a
    critic, so that one teaches it and another listens; so do those of none.
    """

    @classmethod
    def companion(cls, about: About, sizes: Sizes) -> nn.Module | None:
        if about.wants("marginal"):
            return Marginals(sizes.variables)
        by_class = about.wants("real_labels", "made_labels")
        return Critic(sizes.variables, about.event_head.read.out_features if by_class else 1)

    @property
    def weight(self) -> Tensor | None:
        return None if self._about.wants("marginal") else self._rows(self._area)

    @property
    def _truth(self) -> Tensor:
        return self._rows(self._step.truth)

    @property
    def _made(self) -> Tensor:
        return self._rows(self._step.members[:, 0])

    def _judged(self, states: Tensor) -> Tensor:
        out: Tensor = self._learnt(states)
        return out[:, 1:] if self._about.wants("real_labels", "made_labels") else out[:, 0]

    @property
    def real(self) -> Tensor:
        return self._judged(self._truth)

    @property
    def made(self) -> Tensor:
        if self._about.wants("real"):
            return self._judged(self._made.detach())
        return self._frozen(self._made)

    def _frozen(self, states: Tensor) -> Tensor:
        """The judgement, with a gradient for the states and none for the critic."""
        fixed = {name: p.detach() for name, p in self._learnt.named_parameters()}
        out: Tensor = torch.func.functional_call(self._learnt, fixed, (states,))
        return out[:, 1:] if self._about.wants("made_labels") else out[:, 0]

    @property
    def real_labels(self) -> Tensor:
        """The class of the truth, of which the member shall be too."""
        return self._rows(self._about.event_head.labels(self._step.truth))

    made_labels = real_labels

    # a penalty on slopes

    @cached_property
    def inputs(self) -> Tensor:
        """Mixtures of both."""
        share = self._uniform(len(self._truth), 1)
        return (share * self._truth + (1 - share) * self._made.detach()).requires_grad_()

    @property
    def outputs(self) -> Tensor:
        return self._judged(self.inputs)

    # an energy: the value as the log density of real states, but for a constant; noise is the ensemble as a normal

    @cached_property
    def _noise(self) -> tuple[Tensor, Tensor]:
        variance, mean = torch.var_mean(self._step.members.detach(), dim=1)
        return self._rows(mean), self._rows(variance).clamp_min(1e-4).sqrt()

    @cached_property
    def _drawn_noise(self) -> Tensor:
        mean, sigma = self._noise
        return mean + sigma * torch.empty_like(mean).normal_(generator=self.generator)

    def _log_noise(self, states: Tensor) -> Tensor:
        mean, sigma = self._noise
        return -(0.5 * ((states - mean) / sigma).square() + sigma.log() + 0.5 * math.log(2 * math.pi)).sum(dim=-1)

    data_log_model = positive = real
    data_log_noise = property(lambda self: self._log_noise(self._truth))
    noise_log_model = property(lambda self: self._judged(self._drawn_noise))
    noise_log_prob = property(lambda self: self._log_noise(self._drawn_noise))

    @property
    def negative(self) -> Tensor:
        """Of samples that Langevin steps make of the noisy truth, from the first member on."""
        noise = torch.empty_like(self._truth).normal_(generator=self.generator)
        noisy = math.sqrt(1 - NOISE**2) * self._truth + NOISE * noise
        found = refine(
            lambda x: self._learnt(x)[:, 0], noisy, self._made, sigma=NOISE, steps=5, generator=self.generator
        )
        return self._judged(found)

    # marginals of any variables

    @cached_property
    def _subset(self) -> tuple[Tensor, Tensor]:
        """(R, V) which variables are known, and (R,) one that is not: a place of a random ordering."""
        rows, variables = self._truth.shape
        order = self._uniform(rows, variables).argsort(dim=1)
        place = (self._uniform(rows, 1) * variables).long()
        return (order < place).float(), (order == place).float().argmax(dim=1)

    @cached_property
    def _conditional(self) -> tuple[Tensor, Tensor]:
        """(R,) log p of the known, and of one more given them."""
        known, one = self._subset
        log_p, mean, log_deviation = self._learnt(self._truth, known)
        z = (self._truth - mean) * (-log_deviation).exp()
        log_q = -0.5 * z.square() - log_deviation - 0.5 * math.log(2 * math.pi)
        return log_p, log_q.gather(1, one[:, None])[:, 0]

    def _log_p(self, known: Tensor) -> Tensor:
        found: Tensor = self._learnt(self._truth, known)[0]
        return found

    marginal = property(lambda self: self._conditional[0])
    conditional = property(lambda self: self._conditional[1])
    nothing = property(lambda self: self._log_p(torch.zeros_like(self._truth)))
    everything = property(lambda self: self._log_p(torch.ones_like(self._truth)))

    @property
    def joint(self) -> Tensor:
        known, one = self._subset
        return self._log_p(known.scatter(1, one[:, None], 1.0))
