"""What terms of the latent, of a sparse code of it, and of attention offer."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from forecast import losses
from forecast.core.errors import ForecastError
from forecast.models.attention import attention_of
from forecast.models.companions import PairCritic, PairHeads, Prototypes, SparseCode, mlp
from forecast.models.offers import About, Offer, Sizes, Step


class OfLatent(Offer):
    """Rows (R, D), mesh nodes being samples: `first` and `second` of two members, two noisy views of one state."""

    taught = Offer.taught | {"retained_old", "retained_rebuilt", "forgotten_old", "forgotten_rebuilt"}
    passes = frozenset({"mixed", "mixed_codes", "reference", "reference_prototype"})

    @classmethod
    def companion(cls, about: About, sizes: Sizes) -> nn.Module | None:
        if about.wants("query_prototype"):
            return Prototypes(20, sizes.latent)
        if about.wants("first_key"):
            return PairHeads(sizes.latent)
        if about.wants("network"):
            return mlp(sizes.latent, sizes.latent)
        return PairCritic(sizes.latent) if about.wants("scores") else None

    @classmethod
    def context(cls, about: About, sizes: Sizes) -> dict[str, Any]:
        return {"width": sizes.latent, "clusters": 16}

    @property
    def weight(self) -> None:
        return None

    def _latent(self, member: int, step: Step | None = None) -> Tensor:
        if member >= self._step.members.shape[1]:
            where = f"loss.terms.{self._about.name}"
            raise ForecastError(f"{where}: two views of the latent need two members, at every stage of the training")
        return self._rows((step or self._step).features.latent[:, member].float())

    def _view(self, member: int) -> Tensor:
        """Rows of a member, through the companion's heads if it has any."""
        rows = self._latent(member)
        return self._learnt(rows) if self._about.wants("first_key") else rows

    @cached_property
    def _first(self) -> Tensor:
        return self._view(0)

    @cached_property
    def _second(self) -> Tensor:
        return self._view(1)

    @property
    def first(self) -> Tensor:
        return self._first

    @property
    def second(self) -> Tensor:
        return self._second

    features = codes = anchor = logits = query = student = first
    augmented = positive_pair = prior_logits = second

    @property
    def first_key(self) -> Tensor:
        key: Tensor = self._learnt.key(self.first)
        return key

    @property
    def second_key(self) -> Tensor:
        key: Tensor = self._learnt.key(self.second)
        return key

    @cached_property
    def negative_pair(self) -> Tensor:
        """The second view of other nodes."""
        rows = len(self.second)
        return self.second.roll(1 + int(self._uniform() * (rows - 1)), dims=0)

    @property
    def views(self) -> Tensor:
        """(R, M, D) of all members."""
        return self._rows(self._step.features.latent.float().movedim(1, 2))

    @property
    def common(self) -> Tensor:
        """What all members share."""
        return self._rows(self._step.features.latent.float().mean(dim=1))

    @property
    def salient(self) -> Tensor:
        """What the first member has of its own."""
        return self.first - self.common

    @property
    def index(self) -> Tensor:
        return self._rows(self._index(self._step.features.latent.shape[2]))

    @property
    def teacher(self) -> Tensor:
        return self._latent(0, self._teacher.step)

    # moments of the views, (1, D)

    def _mean(self, rows: Tensor) -> Tensor:
        return rows.mean(dim=0, keepdim=True)

    def _logvar(self, rows: Tensor) -> Tensor:
        return rows.var(dim=0, keepdim=True).clamp_min(1e-6).log()

    mean = first_mean = property(lambda self: self._mean(self.first))
    logvar = first_logvar = property(lambda self: self._logvar(self.first))
    prior_mean = second_mean = property(lambda self: self._mean(self.second))
    prior_logvar = second_logvar = property(lambda self: self._logvar(self.second))

    # companions

    @property
    def scores(self) -> Tensor:
        """(R, R) of a learnt critic of both views."""
        scores: Tensor = self._learnt(self.first, self.second)
        return scores

    @property
    def network(self) -> nn.Module:
        """Learns to rebuild latents, or their score."""
        network: nn.Module = self._learnt
        return network

    @property
    def inputs(self) -> Tensor:
        """Latents as data, which get no gradient."""
        return self.first.detach()

    # another pass

    @cached_property
    def share(self) -> Tensor:
        """Of the first view in a mixture: one number, or one a row."""
        drawn = self._uniform()
        return drawn if self._about.wants("order") else drawn.expand(len(self._latent(0)))

    @cached_property
    def _samples(self) -> Tensor:
        """(B,) the sample that each is mixed with."""
        samples, device = len(self._step.truth), self._step.truth.device
        if self._about.wants("order"):
            return self._uniform(samples).argsort()
        return torch.arange(samples, device=device)

    @property
    def order(self) -> Tensor:
        """(R,) the row that each is mixed with."""
        nodes = self._step.features.latent.shape[2]
        numbers = self._samples[:, None] * nodes + torch.arange(nodes, device=self._samples.device)
        rows = self._draw(numbers.numel())
        place = torch.zeros_like(numbers.flatten()).index_put((rows,), torch.arange(len(rows)).to(rows))
        return place[numbers.flatten()[rows]]

    @property
    def mixed(self) -> Tensor:
        """Latent of states and noise mixed of two samples' (or of one state, and two members' noise)."""
        step, other, _ = self._step, self._samples, self.second
        share = float(self.share.flatten()[0])
        past, forcings = ([share * x + (1 - share) * x[other] for x in given] for given in (step.past, [step.forcings]))
        noise = share * step.noise[:, :1] + (1 - share) * step.noise[other, 1:2]
        noise = noise / math.hypot(share, 1 - share)
        return self._rows(step.run([state[:, :1] for state in past], forcings[0], noise)[1].latent[:, 0].float())

    mixed_codes = mixed

    @cached_property
    def reference(self) -> Tensor:
        """Latent of the mean state, with the forcings of the hour and season."""
        step = self._step
        past = [torch.zeros_like(state[:, :1]) for state in step.past]
        return self._rows(step.run(past, step.forcings, step.noise[:, :1])[1].latent[:, 0].float())

    @property
    def query_prototype(self) -> Tensor:
        return losses.prototypes.nearest_prototypes(self.query, self._learnt.rows)[0]

    @property
    def reference_prototype(self) -> Tensor:
        return losses.prototypes.nearest_prototypes(self.reference, self._learnt.rows)[0]

    # what is to be forgotten

    def _of_set(self, forgotten: bool, step: Step) -> Tensor:
        return step.features.latent[:, 0].float()[self._forgotten == forgotten].flatten(0, 1)

    retained = property(lambda self: self._of_set(False, self._step))
    forgotten = property(lambda self: self._of_set(True, self._step))
    retained_old = property(lambda self: self._of_set(False, self._teacher.step))
    forgotten_old = property(lambda self: self._of_set(True, self._teacher.step))
    retained_rebuilt = property(lambda self: rebuilt(self.retained, self.retained_old))
    forgotten_rebuilt = property(lambda self: rebuilt(self.forgotten, self.forgotten_old))


class OfCode(OfLatent):
    """A sparse code of the latent, which learns from it and gives it no gradient; terms of it share one code."""

    @classmethod
    def companion(cls, about: About, sizes: Sizes) -> nn.Module | None:
        return SparseCode(sizes.latent)

    @property
    def target(self) -> Tensor:
        return self._latent(0).detach()

    truth = target

    @cached_property
    def _coded(self) -> tuple[Tensor, Tensor]:
        coded: tuple[Tensor, Tensor] = self._learnt(self.target)
        return coded

    @property
    def features(self) -> Tensor:
        return self._coded[0]

    @property
    def reconstruction(self) -> Tensor:
        return self._coded[1]

    forecast = prediction = reconstruction

    @property
    def decoder(self) -> Tensor:
        decoder: Tensor = self._learnt.decoder
        return decoder

    @property
    def dead(self) -> Tensor:
        dead: Tensor = self._learnt.use.dead(self._learnt.idle)
        return dead

    @property
    def density(self) -> Tensor:
        density: Tensor = self._learnt.use.density
        return density


class OfAttention(Offer):
    """Attention (L, B, H, T, S) of the processor's layers to the first member's step, at some of the nodes."""

    passes = frozenset({"attention"})

    @classmethod
    def context(cls, about: About, sizes: Sizes) -> dict[str, Any]:
        return {"layers": sizes.layers, "heads": sizes.heads}

    @property
    def weight(self) -> None:
        return None

    @cached_property
    def attention(self) -> Tensor:
        step = self._step
        with attention_of(self._network, targets=64) as layers:
            step.run([state[:, :1] for state in step.past], step.forcings, step.noise[:, :1])
        return torch.stack(layers)


def rebuilt(rows: Tensor, old: Tensor, rank: int = 8) -> Tensor:
    """Rows (R, D) by the linear autoencoder of rank `rank` that fits the old model's rows best: their components."""
    if not len(rows):
        return rows
    centre = old.mean(dim=0)
    axes = torch.linalg.svd(old - centre, full_matrices=False).Vh[:rank]
    return centre + (rows - centre) @ axes.T @ axes
