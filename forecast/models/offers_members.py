"""What terms of members and of whole rollouts offer."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor, nn

from forecast.models.companions import Leads
from forecast.models.offers import About, Offer, Sizes, Step, as_maps, coarse_cells

LONE = ("forecast", "student")
"""inputs that are one forecast, so that each member is one"""


class OfMembers(Offer):
    """States of the members (B, M, G, V) and the truth (B, G, V), normalised; or what follows from them."""

    taught = Offer.taught | {"tough", "tolerant", "errors", "samples", "teacher_score", "student_score", "log_ratio",
                             "generated", "fake"}  # fmt: skip

    @classmethod
    def companion(cls, about: About, sizes: Sizes) -> nn.Module | None:
        return nn.Linear(sizes.hidden, 1) if _ranks_points(about) else None

    @property
    def weight(self) -> Tensor | None:
        about = self._about
        if about.term.loss == "multivariate_dawid_sebastiani":
            return self._area[0]  # of all variables together
        if _ranks_points(about):
            return self._area[:, self._points]
        if about.takes == "maps" or about.wants("errors", "losses", "generated"):
            return None  # of samples, which count alike
        if self._by_point:
            return self._rows(self._area)
        if about.wants("samples"):
            return self._area[:, None].expand(-1, self._step.members.shape[1], -1).flatten()
        if self._in_bags:
            return self._weights.sum(dim=1)[:, None, None] * len(self._weights)
        return super().weight

    @property
    def _by_point(self) -> bool:
        return self._about.wants("condition", "latent")

    @property
    def _in_bags(self) -> bool:
        return self._about.wants("prediction") and "index" in self._about.optional

    @property
    def members(self) -> Tensor:
        return self._step.members

    @property
    def references(self) -> Tensor:
        """What the members are a sample like: the truth, or a teacher's members."""
        return self._teacher.step.members if self._teachers else self._step.truth[:, None]

    @property
    def truth(self) -> Tensor:
        truth, about = self._step.truth, self._about
        if self._by_point:
            return self._rows(truth)
        if about.takes == "maps":
            return self._maps(self._each(truth))
        return self._each(truth) if about.wants(*LONE) and not about.wants("variance") else truth

    @property
    def target(self) -> Tensor:
        """The truth's mean over the cells of a coarser grid, (cells, B * M, V); or the score of some points, (B, R)."""
        if not self._in_bags:
            return (self._step.score.detach() * self._weights).sum(dim=-1)[:, self._points]
        truth, weight = self._each(self._step.truth).transpose(0, 1), self._weights.sum(dim=1)[:, None, None]
        sums, areas = (
            x.new_zeros(int(self.index.max()) + 1, *x.shape[1:]).index_add(0, self.index, x)
            for x in (truth * weight, weight)
        )
        return sums / areas

    @property
    def forecast(self) -> Tensor:
        """Each member (B * M, G, V), or the mean where its variance is asked for too."""
        if self._by_point:
            return self._rows(self._step.members[:, 0])
        if self._about.takes == "maps":
            return self._maps(self.student)
        return self.mean if self._about.wants("variance") else self.student

    @property
    def prediction(self) -> Tensor:
        """All members (G, B * M, V); or what a companion takes the points' score to be."""
        if self._in_bags:
            return self.student.transpose(0, 1)
        hidden = self._step.features.hidden.float().mean(dim=1)[:, self._points]
        scores: Tensor = self._learnt(hidden)[..., 0]
        return scores

    @property
    def _points(self) -> Tensor:
        return self._draw(self._step.truth.shape[1])

    @cached_property
    def index(self) -> Tensor:
        """(G,) number of the coarse cell that each point lies in."""
        return torch.from_numpy(coarse_cells(self._about.grid)).to(self._step.truth.device)

    # the ensemble as a distribution at each point

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        variance, mean = torch.var_mean(self._step.members, dim=1)
        return mean, variance

    @property
    def mean(self) -> Tensor:
        return self._pairs(self._moments[0])

    @property
    def variance(self) -> Tensor:
        return self._moments[1]

    @property
    def sigma(self) -> Tensor:
        return self._moments[1].clamp_min(1e-8).sqrt()

    @property
    def std(self) -> Tensor:
        return self._pairs(self.sigma)

    @cached_property
    def quantiles(self) -> Tensor:
        return self._step.members.sort(dim=1).values

    @property
    def lower(self) -> Tensor:
        return self.quantiles[:, 0]

    @property
    def upper(self) -> Tensor:
        return self.quantiles[:, -1]

    @property
    def target_mean(self) -> Tensor:
        return self._pairs(self._step.truth)

    @property
    def target_std(self) -> Tensor:
        return torch.full_like(self.target_mean, self._about.term.error)

    def _pairs(self, field: Tensor) -> Tensor:
        """(B, 2, G, V) of each point and another, as far along for all, where a loss compares places."""
        if not self._about.wants("target_std"):
            return field
        return torch.stack([field, field.roll(self._shift, dims=1)], dim=1)

    @cached_property
    def _shift(self) -> int:
        return 1 + int(self._uniform() * (self._step.truth.shape[1] - 1))

    # points as samples

    @property
    def condition(self) -> Tensor:
        """(R, P) the state that the step starts from."""
        return self._rows(self._step.past[-1][:, 0])

    inputs = condition

    @property
    def latent(self) -> Tensor:
        """(R, D) features of the first member."""
        return self._rows(self._step.features.hidden[:, 0].float())

    # samples

    @property
    def losses(self) -> Tensor:
        """(B,) score of each sample."""
        return (self._step.score * self._weights).sum(dim=(1, 2))

    @property
    def errors(self) -> Tensor:
        """(B * M,) mean absolute error of the teacher's ensemble mean."""
        error = (self._teacher.step.members.mean(dim=1) - self._step.truth).abs()
        return (error * self._weights).sum(dim=(1, 2)).repeat_interleave(self._step.members.shape[1])

    # teachers

    @property
    def student(self) -> Tensor:
        return self._step.members.flatten(0, 1)

    @property
    def teacher(self) -> Tensor:
        if self._about.wants("generated"):
            unknown = self._forgotten[:, None, None] if self._about.term.forget else torch.zeros((), dtype=torch.bool)
            mean, variance = _normal(self._teacher.step)
            return self._denoised(mean.where(~unknown, 0.0), variance.where(~unknown, 1.0))
        return self.tough

    @property
    def tough(self) -> Tensor:
        return self._teachers[0].step.members.flatten(0, 1)

    @property
    def tolerant(self) -> Tensor:
        """Members of the second teacher; of a single one its ensemble mean, which is smoother."""
        if len(self._teachers) > 1:
            return self._teachers[1].step.members.flatten(0, 1)
        return self._each(self._teacher.step.members.mean(dim=1))

    # distribution matching, the ensembles taken as normal at each point

    @property
    def samples(self) -> Tensor:
        """(B * M * G, V)."""
        return self._step.members.flatten(0, 2)

    @property
    def student_score(self) -> Tensor:
        mean, variance = _normal(self._step)
        return ((mean[:, None] - self._step.members) / variance[:, None]).flatten(0, 2)

    @property
    def teacher_score(self) -> Tensor:
        mean, variance = _normal(self._teacher.step)
        return ((mean[:, None] - self._step.members) / variance[:, None]).flatten(0, 2)

    @property
    def log_ratio(self) -> Tensor:
        each = [self._log_density(step) for step in (self._teacher.step, self._step)]
        return (each[0] - each[1]).flatten()

    def _log_density(self, step: Step) -> Tensor:
        mean, variance = (x[:, None] for x in _normal(step))
        return -0.5 * (variance.log() + (self._step.members.detach() - mean).square() / variance).sum(dim=-1)

    @property
    def generated(self) -> Tensor:
        return self.student

    @property
    def fake(self) -> Tensor:
        return self._denoised(*_normal(self._step))

    @cached_property
    def _noised(self) -> Tensor:
        members = self._step.members
        return members + torch.empty_like(members).normal_(generator=self.generator) * self._about.term.error

    def _denoised(self, mean: Tensor, variance: Tensor) -> Tensor:
        """(B * M, G, V) what is expected of members under noise where states are normal."""
        share = variance / (variance + self._about.term.error**2)
        return (mean[:, None] + share[:, None] * (self._noised - mean[:, None])).flatten(0, 1)

    def _each(self, field: Tensor) -> Tensor:
        """(B * M, G, V): the field beside each member."""
        return field.repeat_interleave(self._step.members.shape[1], dim=0)

    def _maps(self, field: Tensor) -> Tensor:
        return as_maps(field.transpose(-1, -2), self._about)


class OfRollout(OfMembers):
    """All lead times of a rollout together: members (B, M, S, G, V), truth (B, S, G, V)."""

    taught = frozenset()

    @classmethod
    def companion(cls, about: About, sizes: Sizes) -> nn.Module | None:
        return Leads(sizes.hidden, sizes.latent, sizes.variables) if about.wants("latents") else None

    @property
    def members(self) -> Tensor:
        return torch.stack([step.members for step in self._steps], dim=2)

    @property
    def truth(self) -> Tensor:
        return torch.stack([step.truth for step in self._steps], dim=1)

    @property
    def references(self) -> Tensor:
        return self.truth[:, None]

    @property
    def weight(self) -> Tensor | None:
        return None if self._about.wants("latents") else self._weights / self._weights.mean()

    @property
    def forecast(self) -> Tensor:
        return self.members.mean(dim=1)

    @cached_property
    def _at_once(self) -> tuple[Tensor, Tensor]:
        first = self._steps[0].features
        found: tuple[Tensor, Tensor] = self._learnt(
            first.hidden.float().mean(dim=1), _pooled(self._steps[0]), len(self._steps)
        )
        return found

    @property
    def student(self) -> Tensor:
        """(B, S, G, V) fields that a companion predicts from the first step's features for all leads at once."""
        return self._at_once[0]

    @property
    def latents(self) -> Tensor:
        """(B, S, D) that it predicts too."""
        return self._at_once[1]

    @property
    def teacher(self) -> Tensor:
        """(B, S, D) mean latents of the rollout."""
        return torch.stack([_pooled(step) for step in self._steps], dim=1).detach()


def _ranks_points(about: About) -> bool:
    return about.wants("prediction") and "index" not in about.optional


def _pooled(step: Step) -> Tensor:
    return step.features.latent.float().mean(dim=(1, 2))


def _normal(step: Step) -> tuple[Tensor, Tensor]:
    """(B, G, V) mean and variance of an ensemble, without gradient."""
    variance, mean = torch.var_mean(step.members.detach(), dim=1)
    return mean, variance.clamp_min(1e-4)
