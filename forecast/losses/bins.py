"""Losses over ordered bins of a quantity, such as rain amounts: earth mover's distance, RPS, soft labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from forecast.core.errors import ForecastError
from forecast.losses.common import Loss, normal_cdf, reduce, require, same_shape, wide
from forecast.losses.registry import register
from forecast.losses.targets import TINY, broadcast, classes


@wide
def ordered_bin_emd(
    logits: Tensor,
    labels: Tensor,
    *,
    positions: Sequence[float] | None = None,
    power: float = 1.0,
    class_dim: int = 1,
    from_logits: bool = True,
    ignore_index: int = -100,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Earth mover's distance between forecast and observed bins, sum_k |P_k - O_k|^power (x_(k+1) - x_k).

    P and O are cumulative probabilities, x the bins' positions. Power 1: Wasserstein distance, in the units of x;
    power 2 and unit steps: ranked probability score, which is smoother.

    Args:
        logits: (B, K, *). labels: (B, *) bin numbers, or (B, K, *) probabilities.
        positions: (K,) rising representative values of the bins, e.g. mm; None: 0, 1, 2, ... power: at least 1.

    Raises:
        ForecastError: shapes that do not match, a label out of range, positions that do not rise, a power below 1.
    """
    require(power >= 1, "power", power, "must be at least 1")
    given = classes(logits, labels, class_dim=class_dim, ignore_index=ignore_index, mask=mask, from_logits=from_logits)
    gap = (given.logits.softmax(-1) - given.one_hot()).cumsum(-1)[..., :-1]
    count = logits.shape[class_dim]
    steps = _rising("positions", range(count) if positions is None else positions, count, gap).diff()
    size = gap.abs() if power == 1 else gap.square() if power == 2 else gap.abs().clamp_min(TINY) ** power
    return reduce((size * steps).sum(-1), reduction, weight, given.mask)


def _rising(name: str, values: Sequence[float], count: int, like: Tensor) -> Tensor:
    x = torch.as_tensor(values, dtype=like.dtype, device=like.device)
    require(len(x) == count and bool((x.diff() > 0).all()), name, list(values), f"{count} rising values")
    return x


@wide
def earth_mover(
    logits: Tensor,
    labels: Tensor,
    embeddings: Tensor | None = None,
    *,
    vectors: Sequence[Sequence[float]] | Tensor | None = None,
    dynamic: bool = True,
    class_dim: int = 1,
    ignore_index: int = -100,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """EMO: half of cross entropy plus the expected cosine cost d = sum_k q_k (1 - cos(E_y, E_k)), brought to its size.

    With one true class the cost is the earth mover's distance itself, within [0, 2]; it is nothing to learn from if
    all embeddings are equal. Total: (CE + stopgrad(CE / d) d) / 2.

    Args:
        logits: (B, K, *). labels: (B, *) integers. embeddings: (K, D) one row a class; takes no gradient.
        vectors: the same as a setting. With neither, all classes are equally unlike: d = 1 - q_y.
        dynamic: scale d to the cross entropy as the official code does; False: (CE + d) / 2.

    Raises:
        ForecastError: shapes that do not match, or a label out of range.
    """
    given = classes(logits, labels, class_dim=class_dim, ignore_index=ignore_index, mask=mask)
    rows = _directions(vectors if embeddings is None else embeddings, given.logits)
    log_q = given.logits.log_softmax(-1)
    entropy = -given.pick(log_q)
    distance = 1 - ((log_q.exp() @ rows) * rows[given.number()]).sum(-1)
    scale = (entropy / distance.clamp_min(TINY)).detach() if dynamic else 1.0
    return reduce((entropy + scale * distance) / 2, reduction, weight, given.mask)


def _directions(rows: Sequence[Sequence[float]] | Tensor | None, like: Tensor) -> Tensor:
    """(K, D) rows of length one."""
    count = like.shape[-1]
    if rows is None:
        return torch.eye(count, dtype=like.dtype, device=like.device)
    vectors = torch.as_tensor(rows, dtype=like.dtype, device=like.device).detach()
    if vectors.ndim != 2 or len(vectors) != count:
        raise ForecastError(f"embeddings of shape {tuple(vectors.shape)}: must be (K, D) with K = {count}")
    return torch.nn.functional.normalize(vectors, eps=TINY)


@wide
def gaussian_soft_label_kl(
    logits: Tensor,
    target_mean: Tensor,
    target_std: Tensor,
    *,
    edges: Sequence[float],
    adjust: bool = True,
    class_dim: int = 1,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """KL(t || softmax(logits)) with t the bins' shares of a Gaussian around the observation; see `gaussian_bins`.

    Args:
        logits: (B, K, *). target_mean, target_std: (B, *), e.g. an observation and its error; no gradient.
        edges: (K + 1,) rising bounds of the bins. adjust: keep the mean, see `gaussian_bins`.

    Raises:
        ForecastError: shapes that do not match, edges that do not rise, a negative deviation.
    """
    require(-logits.ndim <= class_dim < logits.ndim, "class_dim", class_dim, f"logits have {logits.ndim} dimensions")
    count = logits.shape[class_dim]
    require(len(edges) == count + 1, "edges", list(edges), f"{count + 1} bounds for {count} bins")
    last = logits.movedim(class_dim, -1)
    if last.shape[:-1] != target_mean.shape:
        raise ForecastError(
            f"target_mean of shape {tuple(target_mean.shape)} must have the logits' shape without "
            f"class_dim={class_dim}, {tuple(last.shape[:-1])}"
        )
    if mask is not None:
        mask = broadcast(mask, "mask", target_mean.shape).bool()
        last = last.masked_fill(~mask[..., None], 0.0)
        target_mean, target_std = (x.masked_fill(~mask, 0.0) for x in (target_mean, target_std))
    share = gaussian_bins(target_mean.detach(), target_std.detach(), edges, adjust)
    value = (torch.xlogy(share, share) - share * last.log_softmax(-1)).sum(-1)
    return reduce(value, reduction, weight, mask)


def gaussian_bins(mean: Tensor, std: Tensor, edges: Sequence[float], adjust: bool = True) -> Tensor:
    """(B, *, K) share of each bin in Gaussians cut off at the outer edges, summing to 1.

    Args:
        mean, std: (B, *); a mean outside the edges counts as one at the edge; deviation 0 gives one bin all
            (two bins half each for a mean on the edge between them).
        edges: (K + 1,) rising; the outer ones may be infinite.
        adjust: replace the shares s by a s + b so that the mean of the bins' centres is `mean`; needs finite edges.
            Shares that would come out negative (deviation small against the bin, mean near an end) stay as they are.

    Raises:
        ForecastError: shapes that do not match, edges that do not rise, infinite edges with `adjust`, a negative
            deviation.
    """
    same_shape(target_mean=mean, target_std=std)
    bounds = _rising("edges", edges, len(edges), mean)
    require(len(edges) >= 2, "edges", list(edges), "at least 2")
    if bool((std < 0).any()):
        raise ForecastError(f"target_std: {float(std.min()):g} must not be negative")
    mean = torch.minimum(torch.maximum(mean, bounds[0]), bounds[-1])[..., None]  # NaN stays
    z = (bounds - mean) / std[..., None].clamp_min(TINY)
    below = normal_cdf(z)
    above = normal_cdf(-z)  # differences of the smaller tail keep their digits
    share = torch.where(z[..., :-1] > 0, -above.diff(dim=-1), below.diff(dim=-1))
    share = share / share.sum(-1, keepdim=True)
    if not adjust:
        return share
    require(bool(bounds.isfinite().all()), "edges", list(edges), "must be finite, or adjust=False")
    return _with_mean(share, mean, (bounds[1:] + bounds[:-1]) / 2, std)


def _with_mean(share: Tensor, mean: Tensor, centres: Tensor, std: Tensor) -> Tensor:
    """a * share + b that sums to 1 and has this mean, where that is possible."""
    count, middle = len(centres), centres.mean()
    now = (share * centres).sum(-1, keepdim=True)
    # a + K b = 1 and a now + K b middle = mean
    a = (mean - middle) / torch.where((now - middle).abs() < TINY, torch.ones_like(now), now - middle)
    moved = a * share + (1 - a) / count
    keep = ((now - middle).abs() < TINY) | (moved < 0).any(-1, keepdim=True) | (std[..., None] == 0)
    return torch.where(keep, share, moved)


@register(
    "ordered_bin_emd",
    formula="sum_k |P_k - O_k|^power (x_(k+1) - x_k), P and O cumulative",
    source="Hou et al. 2016, Squared Earth Mover's Distance-based Loss; power 2: Epstein 1969 (RPS)",
    use="binned rain, wind or temperature: a miss by one bin costs less than by five, in mm or K",
    status="verified",
    takes="classes",
)
class OrderedBinEMDLoss(Loss, of=ordered_bin_emd):
    """`ordered_bin_emd` with its settings fixed."""


@register(
    "earth_mover",
    formula="(CE + stopgrad(CE / d) d) / 2, d = sum_k q_k (1 - cos(E_y, E_k))",
    source="EMO: Earth Mover Distance Optimization for Auto-Regressive Language Modeling; official code",
    use="classes with likenesses but no order, such as weather regimes or cloud types",
    status="verified",
    takes="classes",
)
class EarthMoverLoss(Loss, of=earth_mover):
    """`earth_mover` with its settings fixed."""


@register(
    "gaussian_soft_label_kl",
    formula="KL(t || softmax f), t_k = Phi(upper) - Phi(lower), adjusted to keep the mean",
    source="Teaching Large Language Models to Regress Accurate Image Quality Scores (DeQA-Score); official code",
    use="binned rain or wind with the observation's error as the label's width",
    status="verified",
    takes="other",
)
class GaussianSoftLabelKLLoss(Loss, of=gaussian_soft_label_kl):
    """`gaussian_soft_label_kl` with its settings fixed."""
