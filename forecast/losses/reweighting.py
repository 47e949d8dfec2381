"""Losses that choose their own weights: a temperature for each sample, and weights from the samples' losses."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from forecast.core.errors import ForecastError
from forecast.losses.common import Loss, reduce, require, wide
from forecast.losses.registry import register
from forecast.losses.targets import Classes, broadcast, classes, positive

_RHO = 8.0  # of the paper, for thousands of negatives


@wide
def robust_temperature(
    logits: Tensor,
    labels: Tensor,
    temperature: Tensor,
    *,
    rho: float | None = None,
    class_dim: int = 1,
    ignore_index: int = -100,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """t log mean_k exp((f_k - f_y) / t) + t rho over the wrong classes k, for a temperature t that is learnt.

    It is the worst mean over mixtures of wrong classes within KL distance rho of the uniform one. Convex in t, with
    slope rho - KL(w || uniform), w = softmax((f_k - f_y) / t): a step down raises t where KL > rho. As KL is at most
    log(K - 1), a rho above that always drives t to its least value.

    Args:
        logits: (B, K, *). labels: (B, *) integers. temperature: (B, *) positive, e.g. from `RobustTemperatureLoss`.
        rho: None: the smaller of 8 (the paper's) and half of log(K - 1) (ours).

    Raises:
        ForecastError: shapes that do not match, one class, a label out of range, a temperature that is not positive.
    """
    given = classes(logits, labels, class_dim=class_dim, ignore_index=ignore_index, mask=mask)
    gaps = _gaps(given)
    if temperature.shape != gaps.shape[:-1]:
        raise ForecastError(f"temperature of shape {tuple(temperature.shape)} must be {tuple(gaps.shape[:-1])}")
    temperature = positive(temperature, given)
    value = temperature * (_log_mean(gaps, temperature) + _radius(rho, gaps))
    return reduce(value, reduction, weight, given.mask)


def _gaps(given: Classes) -> Tensor:
    """(B, *, K - 1) f_k - f_y of the wrong classes."""
    f, own = given.logits, given.number()[..., None]
    require(f.shape[-1] > 1, "logits", f"{f.shape[-1]} class", "at least 2 are needed")
    wrong = torch.ones_like(f, dtype=torch.bool).scatter(-1, own, False)
    return f[wrong].reshape(*f.shape[:-1], f.shape[-1] - 1) - f.gather(-1, own)


def _log_mean(gaps: Tensor, temperature: Tensor) -> Tensor:
    return torch.logsumexp(gaps / temperature[..., None], -1) - math.log(gaps.shape[-1])


def _radius(rho: float | None, gaps: Tensor) -> float:
    require(rho is None or rho >= 0, "rho", rho, "must not be negative")
    return min(_RHO, math.log(gaps.shape[-1]) / 2) if rho is None else rho


Strategy = Literal["linear_upper", "quadratic", "extremes"]


@wide
def loss_reweighting(
    losses: Tensor,
    *,
    strategy: Strategy = "linear_upper",
    delta: float = 1.0,
    temperature: float = 1.0,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Losses of samples times `loss_weights` of themselves.

    Args:
        losses: (B, *) of another loss with reduction="none". strategy, delta, temperature: see `loss_weights`.

    Raises:
        ForecastError: an unknown strategy, delta or temperature not positive.
    """
    if mask is not None:
        mask = broadcast(mask, "mask", losses.shape).bool()
        losses = losses.masked_fill(~mask, 0.0)
    own = loss_weights(losses, strategy=strategy, delta=delta, temperature=temperature, mask=mask)
    return reduce(own * losses, reduction, weight, mask)


@torch.no_grad()
def loss_weights(
    losses: Tensor,
    *,
    strategy: Strategy = "linear_upper",
    delta: float = 1.0,
    temperature: float = 1.0,
    mask: Tensor | None = None,
) -> Tensor:
    """Weights softmax(s / r) with mean one over the elements kept; they take no gradient.

    h = 2 delta (l - (max + min) / 2) / (max - min) lies in [-delta, delta]; all losses equal: h = 0. linear_upper:
    s = min(h + delta, delta), easy samples weigh less; quadratic: s = 1 - h^2 / delta^2, both ends weigh less;
    extremes: s = |h|, both ends weigh more. With data-parallel training it goes over the rank's own samples.

    Args:
        losses: any shape. delta: positive. temperature: r, positive; as it grows the weights become equal.
        mask: True where a sample counts; the others get weight 0.

    Raises:
        ForecastError: an unknown strategy, delta or temperature not positive.
    """
    require(delta > 0, "delta", delta, "must be positive")
    require(temperature > 0, "temperature", temperature, "must be positive")
    strategies = ("linear_upper", "quadratic", "extremes")
    require(strategy in strategies, "strategy", repr(strategy), f"must be one of {', '.join(strategies)}")
    if losses.numel() == 0 or (mask is not None and not bool(mask.any())):
        return torch.zeros_like(losses)
    kept = losses if mask is None else losses[mask]
    low, high = kept.min(), kept.max()
    h = 2 * delta * (kept - (high + low) / 2) / torch.where(high > low, high - low, torch.ones_like(high))
    if strategy == "linear_upper":
        s = (h + delta).clamp(max=delta)
    else:
        s = 1 - h.square() / delta**2 if strategy == "quadratic" else h.abs()
    share = (s / temperature).flatten().softmax(0).reshape(kept.shape) * kept.numel()
    return share if mask is None else torch.zeros_like(losses).masked_scatter(mask, share)


@register(
    "robust_temperature",
    formula="t log mean_k exp((f_k - f_y) / t) + t rho, t = t_min + (t_max - t_min) sigmoid(net(features))",
    source="To Cool or not to Cool? Temperature Network Meets Large Foundation Models via DRO; official code",
    use="binned heads: a sharper softmax in clear cases and a softer one in doubtful ones, learnt",
    status="verified",
    takes="other",
)
class RobustTemperatureLoss(nn.Module):
    """`robust_temperature` with a small network that makes the temperature from features, which get no gradient.

    With `samples`, the mean of exp((f_k - f_y) / t) in the gradient is a moving average of each sample's, kept as a
    logarithm in the buffer `log_means` and so safe from overflow: the right one where each call sees few of the
    wrong classes. Then `index` numbers the samples. The state belongs to this process.

    Args:
        features: width of the features. width: of the network (256 in the paper). least, most: bounds of t (least
            as in the paper; most is ours). rho: as in `robust_temperature`. samples: how many samples there are, or
            None. momentum: weight of the newest value in the moving average.

    Raises:
        ForecastError: bounds that are not 0 < least < most; in a call, an index that is missing or out of range.
    """

    log_means: Tensor

    def __init__(
        self,
        features: int,
        *,
        width: int = 256,
        least: float = 0.01,
        most: float = 1.0,
        rho: float | None = None,
        samples: int | None = None,
        momentum: float = 0.8,
        class_dim: int = 1,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        require(0 < least < most, "least", least, f"must lie between 0 and most={most}")
        require(0 < momentum <= 1, "momentum", momentum, "must lie in (0, 1]")
        self.least, self.most, self.rho, self.momentum = least, most, rho, momentum
        self.class_dim, self.reduction = class_dim, reduction
        self.net = nn.Sequential(nn.Linear(features, width), nn.ReLU(), nn.Linear(width, 1))
        self.register_buffer("log_means", torch.full((samples or 0,), -math.inf))

    def reset_state(self) -> None:
        """Forget all moving averages."""
        self.log_means.fill_(-math.inf)

    def temperature(self, features: Tensor) -> Tensor:
        """(B, *) temperatures from (B, *, features)."""
        return self.least + (self.most - self.least) * self.net(features.detach())[..., 0].float().sigmoid()

    def forward(
        self,
        logits: Tensor,
        labels: Tensor,
        features: Tensor,
        *,
        index: Tensor | None = None,
        weight: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """The loss of (B, K, *) logits, (B, *) integers, (B, *, features); `index` has the labels' shape."""
        options = {"class_dim": self.class_dim, "reduction": self.reduction, "weight": weight, "mask": mask}
        temperature = self.temperature(features)
        if not len(self.log_means):
            return robust_temperature(logits, labels, temperature, rho=self.rho, **options)
        if index is None or index.shape != labels.shape:
            raise ForecastError("index: must number the samples, with the shape of the labels")
        if index.numel() and not (int(index.min()) >= 0 and int(index.max()) < len(self.log_means)):
            raise ForecastError(f"index: must lie in 0 to {len(self.log_means) - 1}")
        return self._averaged(logits, labels, temperature, index, weight, mask)

    @wide
    def _averaged(
        self,
        logits: Tensor,
        labels: Tensor,
        temperature: Tensor,
        index: Tensor,
        weight: Tensor | None,
        mask: Tensor | None,
    ) -> Tensor:
        given = classes(logits, labels, class_dim=self.class_dim, mask=mask)
        gaps = _gaps(given)
        now = _log_mean(gaps, temperature)
        average = self._updated(now.detach(), index, given.mask)
        ratio = (now - average).exp()  # at most 1 / momentum; its gradient is that of the mean over the average
        value = temperature * (average + ratio - ratio.detach() + _radius(self.rho, gaps))
        return reduce(value, self.reduction, weight, given.mask)

    @torch.no_grad()
    def _updated(self, now: Tensor, index: Tensor, mask: Tensor | None) -> Tensor:
        """Logarithm of the moving averages with this call's means in them; stored in training."""
        old = self.log_means[index].to(now.dtype)
        if self.momentum < 1:
            mixed = torch.logaddexp(old + math.log(1 - self.momentum), now + math.log(self.momentum))
        else:
            mixed = now
        new = torch.where(old.isinf(), now, mixed)
        if self.training:
            place, kept = (index, new) if mask is None else (index[mask], new[mask])
            self.log_means[place] = kept.to(self.log_means.dtype)
        return new


@register(
    "loss_reweighting",
    formula="mean w l, w = B softmax(s(l) / r), s by strategy",
    source="Dynamic Loss-Based Sample Reweighting for Improved Large Language Model Pretraining",
    use="less weight on quiet days, or on corrupt samples, chosen by the losses of the batch",
    status="third-party",
    takes="other",
)
class ReweightedLoss(Loss, of=loss_reweighting):
    """`loss_reweighting` with its settings fixed."""
