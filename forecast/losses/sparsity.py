"""Sparsity: convex envelopes that prune groups of weights, and losses that keep features of sparse codes in use."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from forecast.core.errors import ForecastError
from forecast.losses.common import Loss, empty, leave_out, reduce, require, same_shape, wide
from forecast.losses.registry import register


@wide
def group_sparse_envelope(weights: Tensor | Sequence[Tensor], *, k: int, by_size: bool = False) -> Tensor:
    """Half the squared k-support norm of the groups' norms: what is convex and nearest to "at most k groups".

    With the norms g_1 >= g_2 >= ...: (sum_{i<k-r} g_i^2 + (r + 1) t^2) / 2, t = sum_{i>=k-r} g_i / (r + 1), for
    the r in 0..k-1 with g_{k-r-1} > t >= g_{k-r}. Never below |w|^2 / 2, and equal to it where at most k groups
    are not zero. k = 1 is |g|_1^2 / 2; k = all groups is weight decay.

    Args:
        weights: (J, *) one tensor, or several; each row (first dimension) is a group. k: groups at no extra cost.
        by_size: count a group's norm sqrt(its size) times (our choice of weights, the paper's are not known).

    Returns:
        A number. No weights at all: 0.

    Raises:
        ForecastError: k outside 1..J.
    """
    tensors = _tensors(weights)
    if not any(tensor.numel() for tensor in tensors):
        return empty(*tensors)
    norms = torch.cat([_norms(tensor) * (_row_size(tensor) ** 0.5 if by_size else 1.0) for tensor in tensors])
    require(1 <= k <= norms.numel(), "k", k, f"must lie in 1..{norms.numel()}, the number of groups")
    ordered = norms.sort(descending=True).values
    split, mean = _split(ordered, k)
    return (ordered[:split].square().sum() + (k - split) * mean.square()) / 2


def _split(ordered: Tensor, k: int) -> tuple[int, Tensor]:
    """k - r - 1, how many norms stay apart, and t, the mean of the others over r + 1."""
    head = torch.cat([ordered.new_zeros(1), ordered.cumsum(0)])
    rest = (head[-1] - head[:k]).flip(0)  # by r from 0: the sum over all but the largest k - 1 - r
    means = rest / torch.arange(1, k + 1, dtype=ordered.dtype, device=ordered.device)
    with torch.no_grad():
        before = torch.cat([ordered.new_full((1,), torch.inf), ordered])[:k].flip(
            0
        )  # g_{k-r-1}, infinite for r = k - 1
        fits = (before > means) & (means >= ordered[:k].flip(0) - 1e-12 * ordered[0])
        r = int(fits.nonzero()[0]) if bool(fits.any()) else k - 1
    return k - 1 - r, means[r]


@wide
def group_sparse_prox(weights: Tensor, *, k: int, strength: float, iterations: int = 60) -> Tensor:
    """Proximal map of strength * `group_sparse_envelope`: argmin_x |x - w|^2 / 2 + strength * envelope(x).

    Rows are scaled by theta / (theta + strength) with theta = clip(c |row| - strength, 0, 1), c such that the thetas
    sum to k (bisection): some rows become exactly zero, the largest k are shrunk least.

    Raises:
        ForecastError: k outside 1..J, or a negative strength.
    """
    norms = _norms(weights)
    require(1 <= k <= norms.numel(), "k", k, f"must lie in 1..{norms.numel()}, the number of groups")
    require(strength >= 0, "strength", strength, "must not be negative")
    if strength == 0:
        return weights
    low, high = torch.zeros_like(norms[0]), (1 + strength) / norms[norms > 0].min() if bool((norms > 0).any()) else 1.0
    theta = (norms > 0).to(norms.dtype)
    if int(theta.sum()) > k:
        for _ in range(iterations):
            middle = (low + high) / 2
            theta = (middle * norms - strength).clamp(0, 1)
            low, high = (middle, high) if float(theta.sum()) < k else (low, middle)
    return weights * (theta / (theta + strength)).view(-1, *[1] * (weights.ndim - 1))


@wide
def aux_k(
    target: Tensor,
    reconstruction: Tensor,
    features: Tensor,
    dead: Tensor,
    decoder: Tensor,
    *,
    k: int = 256,
    coefficient: float = 1 / 32,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """What a sparse autoencoder leaves unexplained, rebuilt from its k most active dead features.

    coefficient * mean_d (e - e')^2, e = sg[target - reconstruction], e' = relu(top k dead features) @ decoder.

    Args:
        target, reconstruction: (B, D). features: (B, F) before the activation. dead: (F,) bool. decoder: (F, D).
        k, coefficient: of the official code (k 256 to 512).

    Returns:
        The loss, by sample (B,) before reduction. No dead feature: 0. A sample with NaN counts 0.

    Raises:
        ForecastError: shapes that do not match, or k below 1.
    """
    same_shape(target=target, reconstruction=reconstruction)
    require(k >= 1, "k", k, "must be at least 1")
    shape = (features.shape[-1], target.shape[-1])
    require(decoder.shape == shape, "decoder", tuple(decoder.shape), f"must have the shape (F, D), {shape}")
    require(
        dead.shape == shape[:1] and dead.dtype == torch.bool, "dead", tuple(dead.shape), f"must be {shape[0]} bools"
    )
    left = (target - reconstruction).detach()
    left, features = leave_out(mask, left.shape[:-1], left, features)
    sound = left.isfinite().all(-1) & features.isfinite().all(-1)
    if not bool(dead.any()):
        return reduce(empty(features, decoder).expand(sound.shape), reduction, weight, mask)
    left, features = left.masked_fill(~sound[:, None], 0.0), features.masked_fill(~sound[:, None], 0.0)
    best = features.masked_fill(~dead, -torch.inf).topk(min(k, int(dead.sum())), dim=-1)
    explained = torch.einsum("bk,bkd->bd", best.values.relu(), decoder[best.indices])
    return reduce(coefficient * (left - explained).square().mean(-1), reduction, weight, mask)


class FeatureUse(nn.Module):
    """How long each feature of a sparse code has been silent, and how often it is active; state in buffers.

    Args:
        features: F. decay: of the running share of samples in which a feature is active.
    """

    idle: Tensor
    density: Tensor

    def __init__(self, features: int, decay: float = 0.99) -> None:
        super().__init__()
        require(0 <= decay < 1, "decay", decay, "must lie in [0, 1)")
        self.decay = decay
        self.register_buffer("idle", torch.zeros(features, dtype=torch.long))
        self.register_buffer("density", torch.zeros(features))

    @torch.no_grad()
    def forward(self, activations: Tensor) -> None:
        """Take in a batch of activations (B, F): active is what is not zero."""
        require(activations.shape[-1] == len(self.idle), "activations", tuple(activations.shape), "must be (B, F)")
        active = activations.flatten(0, -2) != 0
        self.idle.copy_(torch.where(active.any(0), 0, self.idle + len(active)))
        self.density.lerp_(active.float().mean(0), 1 - self.decay)

    def dead(self, after: int) -> Tensor:
        """(F,) whether a feature has been silent for the last `after` samples or more."""
        return self.idle >= after

    def reset_state(self) -> None:
        """Forget what was seen."""
        self.idle.zero_()
        self.density.zero_()


def _tensors(weights: Tensor | Sequence[Tensor]) -> list[Tensor]:
    tensors = [weights] if isinstance(weights, Tensor) else list(weights)
    for tensor in tensors:
        if not tensor.is_floating_point() or tensor.ndim == 0:
            raise ForecastError(
                f"weights: a tensor {tensor.dtype}, {tuple(tensor.shape)}; rows of real numbers are needed"
            )
    return [tensor.to(torch.promote_types(tensor.dtype, torch.float32)) for tensor in tensors]


def _norms(tensor: Tensor) -> Tensor:
    """(J,) Euclidean norm of each row, with gradient 0 at a row of zeros."""
    square = tensor.flatten(1).square().sum(1) if tensor.ndim > 1 else tensor.square()
    return torch.where(square > 0, square.clamp_min(torch.finfo(square.dtype).tiny).sqrt(), 0.0)


def _row_size(tensor: Tensor) -> int:
    return max(1, tensor[0].numel()) if len(tensor) else 1


@register(
    "group_sparse_envelope",
    formula="(sum_{i<k-r} g_i^2 + (r+1) t^2) / 2 of sorted group norms g: half the squared k-support norm",
    source="Argyriou et al. 2012, Sparse prediction with the k-support norm; Refael et al. 2024 (WGSEF), unweighted",
    use="prune heads or channels of a student forecaster, at most k of them",
    status="derived",
    takes="parameters",
)
class GroupSparseEnvelope(Loss, of=group_sparse_envelope):
    """`group_sparse_envelope` with its settings fixed."""


@register(
    "aux_k",
    formula="c mean (sg[x - x'] - relu(top-k dead features) W)^2",
    source="Gao et al. 2024, Scaling and evaluating sparse autoencoders, arXiv:2406.04093; Ayonrinde 2024",
    use="sparse dictionary of a forecaster's latent state, to read what it has learnt",
    status="verified",
    takes="latent",
)
class AuxKLoss(Loss, of=aux_k):
    """`aux_k` with its settings fixed."""
