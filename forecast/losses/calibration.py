"""Losses that make probabilities mean what they say: outcome rates as labels, and confidence that tracks success."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from forecast.losses.common import Loss, reduce, require, wide
from forecast.losses.registry import register
from forecast.losses.targets import TINY, broadcast, classes, events, positive

_KNOTS = 257  # of the table that stands for the kernel mean
_KERNEL, _WINDOW = 0.1, 500  # width in probability and neighbours, of the paper


@wide
def correctness_calibration(
    logits: Tensor,
    labels: Tensor,
    temperature: Tensor,
    *,
    class_dim: int = 1,
    ignore_index: int = -100,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """(c - r)^2, c the highest probability of softmax(f / t), r whether the likeliest class is the labelled one.

    A calibrator that makes t, e.g. from the softmax of several versions of a sample, learns to be sure where the
    forecast is right. A temperature never changes which class is the likeliest.

    Args:
        logits: (B, K, *), of a trained head. labels: (B, *) integers.
        temperature: broadcastable to (B, *), positive.

    Raises:
        ForecastError: shapes that do not match, a label out of range, a temperature that is not positive.
    """
    given = classes(logits, labels, class_dim=class_dim, ignore_index=ignore_index, mask=mask)
    sure = (given.logits / positive(temperature, given)[..., None]).softmax(-1).amax(-1)
    right = (given.logits.argmax(-1) == given.number()).to(sure.dtype)
    return reduce((sure - right).square(), reduction, weight, given.mask)


def outcome_rates(
    probabilities: Tensor,
    labels: Tensor,
    weights: Tensor | None = None,
    *,
    method: Literal["bins", "kernel"] = "bins",
    bins: int = 10,
) -> tuple[Tensor, Tensor]:
    """How often events happened at each forecast probability, as a table (points, rates).

    bins: `points` (bins - 1,) divide the probabilities into bins of equal count, `rates` (bins,) are theirs.
    kernel: at `points` (257,), quantiles of the probabilities, `rates` (257,) are means over the 500 nearest in
    rank with Gaussian weights of width 0.1.

    Args:
        probabilities, labels, weights: (N,), N at least 1.
    """
    p, order = probabilities.sort()
    y, count = labels[order], len(p)
    w = torch.ones_like(p) if weights is None else weights[order]
    if method == "bins":
        which = torch.arange(count, device=p.device) * bins // count
        mass, hits = (p.new_zeros(bins).index_add(0, which, x) for x in (w, w * y))
        empty_ = mass <= 0  # fewer samples than bins: the bin below, then the mean of all
        rates = torch.where(empty_, (w * y).sum() / w.sum().clamp_min(TINY), hits / mass.clamp_min(TINY))
        first = (torch.arange(1, bins, device=p.device) * count).div(bins, rounding_mode="floor").clamp(max=count - 1)
        return p[first], rates
    place = torch.linspace(0, count - 1, _KNOTS, device=p.device).round().long()
    window = min(_WINDOW, count)
    start = (place - window // 2).clamp(0, count - window)
    near = start[:, None] + torch.arange(window, device=p.device)
    kernel = (-((p[near] - p[place, None]) / _KERNEL).square() / 2).exp() * w[near]
    return p[place], (kernel * y[near]).sum(1) / kernel.sum(1).clamp_min(TINY)


def look_up(probabilities: Tensor, points: Tensor, rates: Tensor) -> Tensor:
    """Outcome rates at probabilities of any shape: those of the bin, or between the nearest points of a kernel mean."""
    p = probabilities.contiguous()
    if len(rates) == len(points) + 1:
        return rates[torch.searchsorted(points, p, right=True)]
    right = torch.searchsorted(points, p).clamp(1, len(points) - 1)
    low, high = points[right - 1], points[right]
    part = ((p - low) / (high - low).clamp_min(TINY)).clamp(0, 1)
    return rates[right - 1] + part * (rates[right] - rates[right - 1])


@register(
    "correctness_calibration",
    formula="(max softmax(f / t) - [argmax f = y])^2",
    source="Optimizing Calibration by Gaining Aware of Prediction Correctness",
    use="afterwards, on a trained categorical head: temperatures that make confidence follow success",
    status="third-party",
    takes="other",
)
class CorrectnessCalibrationLoss(Loss, of=correctness_calibration):
    """`correctness_calibration` with its settings fixed."""


@register(
    "calibrated_probability",
    formula="binary cross entropy; every n-th epoch against the outcome rate at the forecast probability",
    source="Deep Probability Estimation (CaPE); official code",
    use="probability of rain: each forecast probability is drawn to how often it rained when it was issued",
    status="verified",
    takes="event",
)
class CalibratedProbabilityLoss(nn.Module):
    """Binary cross entropy that every `interval` epochs takes outcome rates for labels (CaPE).

    Training calls store probabilities and labels; `set_epoch` makes a table of outcome rates from those of the epoch
    before. In epochs `interval`, 2 `interval`, ... labels are looked up in the table by the probability forecast now;
    in the others, and before there is a table, they are the labels given. The store keeps the newest `capacity`
    elements, of a call with more an evenly spread part. It belongs to this process.

    Args:
        interval: 6 in the official code; start from a head that is trained. method, bins: see `outcome_rates`.
        capacity: elements of the store.

    Raises:
        ForecastError: settings that are not positive, an unknown method.
    """

    epoch: Tensor
    stored: Tensor
    seen: Tensor
    points: Tensor
    rates: Tensor
    has_table: Tensor

    def __init__(
        self,
        interval: int = 6,
        *,
        method: Literal["bins", "kernel"] = "bins",
        bins: int = 10,
        capacity: int = 65536,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        for name, number in (("interval", interval), ("bins", bins), ("capacity", capacity)):
            require(number >= 1, name, number, "must be at least 1")
        require(method in ("bins", "kernel"), "method", repr(method), "must be bins or kernel")
        self.interval, self.method, self.bins, self.reduction = interval, method, bins, reduction
        points, rates = (bins - 1, bins) if method == "bins" else (_KNOTS, _KNOTS)
        self.register_buffer("epoch", torch.zeros((), dtype=torch.int64))
        self.register_buffer("stored", torch.zeros(3, capacity))  # probability, label, weight
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("points", torch.zeros(points))
        self.register_buffer("rates", torch.zeros(rates))
        self.register_buffer("has_table", torch.zeros((), dtype=torch.bool))

    def reset_state(self) -> None:
        """Forget epoch, store and table."""
        for buffer in self.buffers():
            buffer.zero_()

    @property
    def calibrating(self) -> bool:
        """Whether labels are looked up now."""
        return bool(self.has_table) and int(self.epoch) > 0 and int(self.epoch) % self.interval == 0

    @torch.no_grad()
    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch: make the table from what the last one stored, and empty the store."""
        require(epoch >= 0, "epoch", epoch, "must not be negative")
        self.epoch.fill_(epoch)
        count = min(int(self.seen), self.stored.shape[1])
        if count:
            points, rates = outcome_rates(*self.stored[:, :count], method=self.method, bins=self.bins)
            self.points.copy_(points)
            self.rates.copy_(rates)
            self.has_table.fill_(True)
        self.seen.zero_()

    def forward(
        self, logits: Tensor, labels: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """The loss of logits (B, *) and labels (B, *) in [0, 1]."""
        return self._loss(logits, labels, weight, mask)

    @wide
    def _loss(self, logits: Tensor, labels: Tensor, weight: Tensor | None, mask: Tensor | None) -> Tensor:
        f, y, mask = events(logits, labels, mask)
        p = f.detach().sigmoid().float()
        if self.training:
            self._store(p, y, weight, mask)
            if self.calibrating:
                y = look_up(p, self.points, self.rates).to(f.dtype)
        return reduce(binary_cross_entropy_with_logits(f, y, reduction="none"), self.reduction, weight, mask)

    @torch.no_grad()
    def _store(self, p: Tensor, y: Tensor, weight: Tensor | None, mask: Tensor | None) -> None:
        w = torch.ones_like(p) if weight is None else broadcast(weight, "weight", p.shape).float()
        rows = torch.stack([x.float()[mask] if mask is not None else x.float().flatten() for x in (p, y, w)])
        many, capacity = rows.shape[1], self.stored.shape[1]
        if many > capacity:
            rows = rows[:, torch.linspace(0, many - 1, capacity, device=rows.device).long()]
        place = (int(self.seen) + torch.arange(rows.shape[1], device=rows.device)) % capacity
        self.stored[:, place] = rows
        self.seen += rows.shape[1]
