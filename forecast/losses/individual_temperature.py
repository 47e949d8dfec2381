"""Contrast with a temperature of each sample's own, kept between batches."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from forecast.losses.common import reduce, require, same_shape
from forecast.losses.pairs import NEVER, by_rows, check_features, kept, positive, spread
from forecast.losses.registry import register

Rows = Callable[..., Tensor]


@register(
    "individual_temperature",
    formula="t log u + t rho, u <- (1 - g) u + g mean_j exp((s_ij - s_ii) / t), t descends its gradient",
    source="Qiu et al. 2023, Not All Semantics are Created Equal (iSogCLR), arXiv:2305.11965, official losses.py",
    use="a latent learnt in small batches: dates with many analogues become warm, rare ones cold",
    status="verified",
    takes="latent",
)
class IndividualTemperatureLoss(nn.Module):
    """iSogCLR: distributionally robust contrast of two views, min over t of t log mean_j exp(h_ij / t) + t rho.

    h_ij = s_ij - s_ii are cosines less the positive's, over the negatives j of the batch. The mean over all negatives
    that a sample ever met is a running one, u, so that small batches do; t descends its own gradient
    log u + rho - sum_j w_ij h_ij / t, rho - KL(w || even) where u is the batch's own: t rises where the weights w are
    more peaked than rho allows. Both directions have their own u and t, kept as buffers for each sample.

    The value is t log u + t rho, the mean of both directions; it moves with t, so that it can rise while the features
    improve: watch `nt_xent` beside it. Its gradient is that of the features alone. Buffers change in training mode
    only; each process keeps those of the samples that it sees.

    Args:
        samples: how many there are; `index` lies in 0 .. samples - 1.
        rate: g. rho, low, high, start, clip: defaults of the official code for two kinds of views.
        step: of the descent in t, momentum: of its gradient; 1e-5 and 0.5 there, for t of 0.01.

    Raises:
        ForecastError: settings out of range; at call: shapes that differ, one sample, an index out of range.
    """

    stateful = True

    def __init__(
        self,
        samples: int,
        rho: float = 8.0,
        rate: float = 0.8,
        start: float = 0.01,
        low: float = 0.005,
        high: float = 0.05,
        step: float = 1e-5,
        momentum: float = 0.5,
        clip: float = 5.0,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        positive(samples=samples, low=low, step=step, clip=clip)
        require(low <= start <= high, "start", start, f"must lie in [{low}, {high}]")
        require(0 < rate <= 1, "rate", rate, "must lie in (0, 1]")
        require(0 <= momentum < 1, "momentum", momentum, "must lie in [0, 1)")
        self.rho, self.rate, self.start, self.low, self.high = rho, rate, start, low, high
        self.step, self.momentum, self.clip, self.reduction = step, momentum, clip, reduction
        self.log_mean: Tensor
        self.temperature: Tensor
        self.slope: Tensor
        self.register_buffer("log_mean", torch.full((2, samples), torch.nan))
        self.register_buffer("temperature", torch.full((2, samples), start))
        self.register_buffer("slope", torch.zeros(2, samples))

    def reset_state(self) -> None:
        """All samples are new again."""
        self.log_mean.fill_(torch.nan)
        self.temperature.fill_(self.start)
        self.slope.zero_()

    def forward(
        self, first: Tensor, second: Tensor, index: Tensor, weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """The loss of (B, D) views of the samples `index` (B,), which must differ."""
        same_shape(first=first, second=second)
        require(index.shape == first.shape[:1], "index", tuple(index.shape), f"must be ({len(first)},)")
        wide = torch.promote_types(first.dtype, torch.float32)
        with torch.autocast(first.device.type, enabled=False):
            a, b, own = kept(mask, first.to(wide), second.to(wide), index)
            check_features(2, first=a, second=b)
            wrong = own[(own < 0) | (own >= self.log_mean.shape[1])]
            require(not len(wrong), "index", wrong[:1].tolist(), f"must lie in 0 .. {self.log_mean.shape[1] - 1}")
            a, b = F.normalize(a, dim=1), F.normalize(b, dim=1)
            value = (self._direction(0, a, b, own) + self._direction(1, b, a, own)) / 2
        return reduce(spread(value, mask), self.reduction, weight, mask)

    def _direction(self, side: int, anchors: Tensor, others: Tensor, index: Tensor) -> Tensor:
        temperature = self.temperature[side, index].to(anchors.dtype)
        with torch.no_grad():
            batch = by_rows(_log_mean(temperature), len(anchors), len(others), anchors, others)
            old = self.log_mean[side, index].to(batch.dtype)
            met = torch.logaddexp(old + math.log1p(-self.rate), batch + math.log(self.rate)) if self.rate < 1 else batch
            log_mean = torch.where(old.isnan(), batch, met if self.training else old)
        pull = by_rows(_weighted(temperature, log_mean), len(anchors), len(others), anchors, others)
        if self.training:
            self._descend(side, index, temperature, log_mean, pull.detach())
        value = temperature * (log_mean + self.rho)
        return value + pull - pull.detach()

    @torch.no_grad()
    def _descend(self, side: int, index: Tensor, temperature: Tensor, log_mean: Tensor, pull: Tensor) -> None:
        self.log_mean[side, index] = log_mean.to(self.log_mean.dtype)
        slope = (log_mean + self.rho - pull / temperature).clamp(-self.clip, self.clip).to(self.slope.dtype)
        self.slope[side, index] = self.slope[side, index].lerp(slope, 1 - self.momentum)
        moved = self.temperature[side, index] - self.step * self.slope[side, index]
        self.temperature[side, index] = moved.clamp(self.low, self.high)


def _gaps(rows: slice, anchors: Tensor, others: Tensor) -> Tensor:
    """(rows, B) similarity less that of the positive."""
    scores = anchors[rows] @ others.T
    return scores - scores.diagonal(rows.start)[:, None]


def _log_mean(temperature: Tensor) -> Rows:
    def rows_value(rows: slice, anchors: Tensor, others: Tensor) -> Tensor:
        heat = _gaps(rows, anchors, others) / temperature[rows, None]
        heat.diagonal(rows.start).fill_(NEVER)
        return heat.logsumexp(1) - math.log(max(len(others) - 1, 1))

    return rows_value


def _weighted(temperature: Tensor, log_mean: Tensor) -> Rows:
    """Sum of the gaps with weights exp(h / t) / (n u), which are held fixed."""

    def rows_value(rows: slice, anchors: Tensor, others: Tensor) -> Tensor:
        gaps = _gaps(rows, anchors, others)
        heat = (gaps / temperature[rows, None] - log_mean[rows, None]).detach()
        heat.diagonal(rows.start).fill_(NEVER)
        return (heat.exp() * gaps).sum(1) / max(len(others) - 1, 1)

    return rows_value
