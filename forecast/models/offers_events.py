"""What terms of events, and of explicit distributions, offer."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from forecast import losses
from forecast.core.variables import minimum
from forecast.models.companions import DistributionHead, Prototypes, Temperature
from forecast.models.events import EventHead
from forecast.models.normaliser import Normaliser
from forecast.models.offers import About, Offer, Sizes, Step, as_maps

BY_ROW = ("features", "inputs", "student", "teacher", "student_logits", "prior_logits", "attribution", "pairs",
          "synthetic", "temperature")  # fmt: skip
"""inputs that make a sample of every grid point, (R, ...)"""


class OfEvent(Offer):
    """Logits of the event's head and labels of the truth, as fields (B, *, G), maps (B, *, H, W) or rows (R, *)."""

    taught = Offer.taught | {"class_means", "student_logits", "teacher_logits", "prior_logits", "reference"}

    @classmethod
    def companion(cls, about: About, sizes: Sizes) -> nn.Module | None:
        classes = about.event_head.read.out_features
        if about.wants("prototypes", "offsets"):
            return Prototypes(classes, sizes.hidden, about.wants("normals"))
        if about.wants("synthetic"):
            return Prototypes(8 * classes, sizes.hidden)
        if about.wants("auxiliary", "rewards"):
            return nn.Linear(sizes.hidden, classes if about.wants("auxiliary") else 1)
        return Temperature() if about.wants("temperature") else None

    @classmethod
    def context(cls, about: About, sizes: Sizes) -> dict[str, Any]:
        head = about.event_head
        return {"features": sizes.hidden, "classes": head.read.out_features, **head.bounds(about.fields)}

    @property
    def _head(self) -> EventHead:
        return self._about.event_head

    @property
    def _is_rows(self) -> bool:
        return self._about.takes == "rows" or self._about.wants(*BY_ROW)

    @property
    def weight(self) -> Tensor | None:
        if self._about.takes == "maps" or self._about.wants("forget_logits", "synthetic"):
            return None  # which are scored whole, so that no point has a weight
        if not self._is_rows:
            return self._area[0]
        several = not self._head.bins and not self._head.alone and self._about.wants("labels")
        return self._rows(self._area)[:, None] if several else self._rows(self._area)

    def _logits(self, head: EventHead, step: Step) -> Tensor:
        logits = head(step.features.hidden)
        if self._about.wants("student", "teacher") and head.alone:
            logits = logits[:, None]
        return self._shaped(logits)

    def _shaped(self, field: Tensor) -> Tensor:
        """As the loss takes it, from (B, G) or (B, K, G)."""
        if self._about.takes == "maps":
            return as_maps(field, self._about)
        return self._rows(field.movedim(1, -1) if field.ndim == 3 else field) if self._is_rows else field

    @property
    def logits(self) -> Tensor:
        if self._about.term.loss == "group_progressive_guidance":
            return self._at_bit_widths
        return self._logits(self._head, self._step)

    scores = forecast = prediction = logits

    @property
    def labels(self) -> Tensor:
        return self._shaped(self._head.labels(self._step.truth))

    label = outcome = truth = target = labels

    @property
    def index(self) -> Tensor:
        return self._shaped(self._index(self._step.truth.shape[1]))

    @property
    def features(self) -> Tensor:
        """(R, D) means over the members."""
        return self._features_of(self._step)

    def _features_of(self, step: Step) -> Tensor:
        return self._rows(step.features.hidden.float().mean(dim=1))

    @property
    def network(self) -> Callable[[Tensor], Tensor]:
        """The head: from features to logits."""
        return self._head.read

    inputs = features

    @property
    def _at_bit_widths(self) -> Tensor:
        """(3, R, K) logits of the head as it is, and with weights of 8 and 4 bits."""
        read = self._head.read
        rounded = [read.weight, *(_rounded(read.weight, bits) for bits in (8, 4))]
        return torch.stack([functional.linear(self.features, weight, read.bias) for weight in rounded])

    # what learns with the term

    @property
    def prototypes(self) -> Tensor:
        rows: Tensor = self._learnt.rows
        return rows

    offsets = prototypes

    @property
    def normals(self) -> Tensor:
        normals: Tensor = self._learnt.normals
        return normals

    @property
    def auxiliary(self) -> Tensor:
        logits: Tensor = self._learnt(self.features)
        return logits

    @property
    def rewards(self) -> Tensor:
        return self.auxiliary[:, 0]

    @property
    def temperature(self) -> Tensor:
        temperature: Tensor = self._learnt()
        return temperature

    @cached_property
    def pairs(self) -> Tensor:
        """(R, 2) every row and another."""
        rows = torch.arange(len(self.features), device=self._step.truth.device)
        return torch.stack([rows, rows.roll(len(rows) // 2)], dim=1)

    @property
    def preferred(self) -> Tensor:
        """(R,) 1 where the truth of the first of a pair is higher, 0 where lower."""
        values = self._rows(self._step.truth[..., self._head.column])[self.pairs]
        return 0.5 + 0.5 * (values[:, 0] - values[:, 1]).sign()

    @property
    def real(self) -> list[Tensor]:
        """Gradient of the head's cross-entropy on the batch, in its weights."""
        return self._slopes(self.features.detach(), self.labels, False)

    @property
    def synthetic(self) -> list[Tensor]:
        """The same on learnt features, eight a class."""
        rows = self._learnt.rows
        return self._slopes(rows, torch.arange(len(rows), device=rows.device) % self._head.read.out_features, True)

    def _slopes(self, features: Tensor, labels: Tensor, create_graph: bool) -> list[Tensor]:
        weight = self._head.read.weight.detach().requires_grad_()
        loss = functional.cross_entropy(functional.linear(features, weight, self._head.read.bias.detach()), labels)
        return list(torch.autograd.grad(loss, [weight], create_graph=create_graph))

    # the truth with its error, and what is to be forgotten

    @property
    def target_mean(self) -> Tensor:
        return self._step.truth[..., self._head.column]

    @property
    def target_std(self) -> Tensor:
        return torch.full_like(self.target_mean, self._about.term.error)

    @property
    def forget_logits(self) -> Tensor:
        """(F, G, K) of the samples in the period to forget."""
        return self._head(self._step.features.hidden).movedim(1, -1)[self._forgotten]

    good_logits = forget_logits

    @property
    def forget_labels(self) -> Tensor:
        return self._head.labels(self._step.truth)[self._forgotten]

    @property
    def good_labels(self) -> Tensor:
        """The class of the climatological mean: what one would say who knows nothing of these samples."""
        normalise = Normaliser(self._about.fields, self._about.fields.variables)
        mean = normalise(torch.tensor(self._about.fields.column("mean", self._about.fields.variables)).float())
        return self._head.labels(mean.to(self._step.truth).expand_as(self._step.truth))[self._forgotten]

    # teachers

    @property
    def student(self) -> Tensor:
        of_features = self._about.wants("class_means", "student_logits")
        return self.features if of_features else self._logits(self._head, self._step)

    @property
    def teacher(self) -> Tensor:
        if self._about.wants("class_means", "student_logits"):
            return self._features_of(self._teacher.step)
        return self._logits(self._taught_head, self._teacher.step)

    @property
    def _taught_head(self) -> EventHead:
        assert self._teacher.head is not None
        return self._teacher.head

    prior_logits = teacher

    @property
    def class_means(self) -> Tensor:
        classes = self._head.read.out_features
        return losses.distillation.class_mean_features(self.teacher, self.labels, classes)

    @property
    def student_logits(self) -> Tensor:
        """The student's features through the teacher's head."""
        logits: Tensor = self._taught_head.read(self.features)
        return logits

    @property
    def teacher_logits(self) -> Tensor:
        logits: Tensor = self._taught_head.read(self.teacher)
        return logits

    @property
    def attribution(self) -> Tensor:
        """(R, D) gradient times input: what each feature adds to the logit of the labelled class."""
        return self._attributed(self._head, self.features)

    @property
    def reference(self) -> Tensor:
        return self._attributed(self._taught_head, self._features_of(self._teacher.step)).abs().detach()

    def _attributed(self, head: EventHead, features: Tensor) -> Tensor:
        return features * head.read.weight[self.labels.long() * int(head.bins)]


class OfDistribution(Offer):
    """Parameters of an explicit distribution of one variable, from a head of the term's own: (B, G).

    A head gives what the loss asks for by name: mean, location; sigma, std, variance, scale, rate, shift, and the shape
    of a gamma, which are positive; quantiles (B, Q, G) in rising order; lower and upper bounds. The variable is in
    units of its normalisation; one that cannot be negative (rain) keeps its zero.
    """

    @classmethod
    def companion(cls, about: About, sizes: Sizes) -> nn.Module | None:
        levels = len(about.term.options.get("levels", ()))
        return DistributionHead(sizes.hidden, levels if about.wants("quantiles") else len(_asked(about)))

    @property
    def weight(self) -> Tensor | None:
        return self._area[0]

    @cached_property
    def _column(self) -> int:
        assert self._about.term.variable is not None
        return self._about.fields.variables.index(self._about.term.variable)

    @property
    def truth(self) -> Tensor:
        values = self._step.truth[..., self._column]
        normalise = Normaliser(self._about.fields, self._about.fields.variables)
        floor = minimum(str(self._about.term.variable))
        if floor is None:
            return values
        return values + float((normalise.offset[self._column] - floor) / normalise.scale[self._column])

    @cached_property
    def _read(self) -> Tensor:
        out: Tensor = self._learnt(self._step.features.hidden.float().mean(dim=1))
        return out

    def _parameter(self, name: str) -> Tensor:
        raw = self._read[:, _asked(self._about).index(name)]
        if name in ("mean", "location", "lower"):
            return raw
        if name == "shape" and self._about.wants("location"):
            return 0.5 * raw.tanh()
        return functional.softplus(raw) + 1e-3 if name != "upper" else self.lower + functional.softplus(raw)

    @property
    def quantiles(self) -> Tensor:
        steps = torch.cat([self._read[:, :1], functional.softplus(self._read[:, 1:])], dim=1)
        return steps.cumsum(dim=1)

    mean = property(lambda self: self._parameter("mean"))
    location = property(lambda self: self._parameter("location"))
    sigma = property(lambda self: self._parameter("sigma"))
    variance = property(lambda self: self._parameter("variance"))
    scale = property(lambda self: self._parameter("scale"))
    rate = property(lambda self: self._parameter("rate"))
    shape = property(lambda self: self._parameter("shape"))
    shift = property(lambda self: self._parameter("shift"))
    lower = property(lambda self: self._parameter("lower"))
    upper = property(lambda self: self._parameter("upper"))
    forecast = mean


def _asked(about: About) -> list[str]:
    return ["mean" if name == "forecast" else name for name in about.needed if name != "truth"]


def _rounded(weight: Tensor, bits: int) -> Tensor:
    """Weights of so many bits; the gradient passes as if they were whole."""
    step = weight.detach().abs().amax() / (2 ** (bits - 1) - 1)
    return weight + ((weight / step.clamp_min(1e-12)).round() * step - weight).detach()
