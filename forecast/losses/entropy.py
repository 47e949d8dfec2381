"""Entropy of codes against a memory of earlier ones, and what keeps the codes' geometry while it grows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from forecast.losses.common import Loss, empty, reduce, require, same_shape, wide
from forecast.losses.pairs import by_rows, centred, check_features, kept, positive, shares, spread, squared_distances
from forecast.losses.registry import register


@wide
def manifold_entropy(
    features: Tensor,
    memory: Tensor,
    *,
    strength: float = 5e-4,
    limit: float = 4.0,
    eps: float = 1e-12,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """-strength log(mean_i min_j |z_i - b_j|^2 / D): a reward for codes that lie far from all that came before.

    The mean is cut at `limit`, the largest it can be for codes in (-1, 1), since the reward has no bound of its own;
    `eps` keeps duplicates finite. The strength is that of the official command. One number for the set.

    Args:
        features: (N, D) codes. memory: (S, D) earlier ones, no gradient. weight, mask: (N,) of the samples.

    Returns:
        A scalar; 0 for no samples or an empty memory. Memory use is linear.

    Raises:
        ForecastError: shapes that do not match, settings that are not positive.
    """
    positive(limit=limit, eps=eps)
    require(strength >= 0, "strength", strength, "must not be negative")
    check_features(features=features, memory=memory)
    share, features = shares(weight, mask, features)
    if not len(features) or not len(memory):
        return empty(features)

    def rows_value(rows: slice, z: Tensor, b: Tensor) -> Tensor:
        return squared_distances(z[rows], b).amin(1)

    z, b = centred(features, memory.detach().to(features.dtype))
    apart = share @ by_rows(rows_value, len(z), len(b), z, b) / features.shape[1]
    return -strength * (apart + eps).clamp_max(limit).log()


@register(
    "manifold_entropy",
    formula="-strength log(mean_i min_j |z_i - b_j|^2 / D), b a memory of earlier codes",
    source="Liu et al. 2023, Combating Mode Collapse via Offline Manifold Entropy Estimation, arXiv:2208.12055, "
    "official train.py",
    use="members of a generative ensemble that do not collapse onto one another",
    status="verified",
    takes="latent",
)
class ManifoldEntropyLoss(nn.Module):
    """`manifold_entropy` with a memory of the last `size` codes, a buffer that fills in training mode.

    The strength rises linearly over the first `ramp` training calls (the official code: over 100 epochs). The official
    memory starts with random codes; this one starts empty, and the first call gives 0.
    """

    stateful = True

    def __init__(
        self,
        width: int,
        size: int = 1024,
        strength: float = 5e-4,
        ramp: int = 0,
        limit: float = 4.0,
        eps: float = 1e-12,
    ) -> None:
        super().__init__()
        positive(width=width, size=size)
        require(ramp >= 0, "ramp", ramp, "must not be negative")
        self.strength, self.ramp, self.limit, self.eps = strength, ramp, limit, eps
        self.memory: Tensor
        self.calls: Tensor
        self.stored: Tensor
        self.register_buffer("memory", torch.zeros(size, width))
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.register_buffer("stored", torch.zeros((), dtype=torch.long))

    def reset_state(self) -> None:
        """Forget all codes, and start the ramp anew."""
        for state in (self.memory, self.calls, self.stored):
            state.zero_()

    def forward(self, features: Tensor, **at_call: Tensor | None) -> Tensor:
        """The loss of (N, D) codes against the memory, which they then join."""
        size, stored = len(self.memory), int(self.stored)
        if self.training:
            self.calls += 1
        share = min(1.0, int(self.calls) / self.ramp) if self.ramp else 1.0
        known = self.memory[max(0, size - stored) :].clone()
        settings = {"strength": share * self.strength, "limit": self.limit, "eps": self.eps}
        value = manifold_entropy(features, known, **settings, **at_call)
        if self.training:
            self._join(features.detach(), at_call.get("mask"))
        return value

    @torch.no_grad()
    def _join(self, codes: Tensor, mask: Tensor | None) -> None:
        (codes,) = kept(mask, codes)
        codes = codes[-len(self.memory) :].to(self.memory.dtype)
        self.memory.copy_(torch.cat([self.memory, codes])[len(codes) :])
        self.stored.copy_((self.stored + len(codes)).clamp_max(len(self.memory)))


@wide
def dlle(
    codes: Tensor,
    augmented: Tensor,
    *,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Mean squared difference of a sample's code from that of its augmentation, which has no gradient.

    Args:
        codes, augmented: (N, D). weight, mask: (N,).

    Returns:
        (N,) means over D, reduced.

    Raises:
        ForecastError: shapes that differ.
    """
    same_shape(codes=codes, augmented=augmented)
    check_features(codes=codes)
    codes, augmented = kept(mask, codes, augmented)
    return reduce(spread((codes - augmented.detach()).square().mean(1), mask), reduction, weight, mask)


@register(
    "dlle",
    formula="mean |z - sg(z')|^2 / D, z' of the augmented sample",
    source="Liu et al. 2023, Combating Mode Collapse via Offline Manifold Entropy Estimation, official train.py",
    use="with the manifold entropy: codes spread, but not those of nearly equal states",
    status="verified",
    takes="latent",
)
class DLLELoss(Loss, of=dlle):
    """`dlle` with its settings fixed."""


@wide
def disomap(
    mixed_codes: Tensor,
    first: Tensor,
    second: Tensor,
    share: Tensor,
    *,
    noise: float = 0.05,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Mean squared difference of a mixed sample's code from the noisy mix of the codes, which has no gradient.

    Args:
        mixed_codes: (N, D) codes of share * a + (1 - share) * b. first, second: (N, D) codes of a and b.
        share: (N,), drawn by the caller (normally distributed in the official code). noise: standard deviation.

    Returns:
        (N,) means over D, reduced.

    Raises:
        ForecastError: shapes that differ, negative noise.
    """
    require(noise >= 0, "noise", noise, "must not be negative")
    same_shape(mixed_codes=mixed_codes, first=first, second=second)
    check_features(mixed_codes=mixed_codes)
    require(share.shape == first.shape[:1], "share", tuple(share.shape), f"must be ({len(first)},)")
    wanted = share[:, None] * first + (1 - share[:, None]) * second
    wanted = (wanted + noise * torch.empty_like(wanted).normal_(generator=generator)).detach()
    mixed_codes, wanted = kept(mask, mixed_codes, wanted)
    return reduce(spread((mixed_codes - wanted).square().mean(1), mask), reduction, weight, mask)


@register(
    "disomap",
    formula="mean |D(a x + (1 - a) y) - sg(a D(x) + (1 - a) D(y) + noise)|^2 / D",
    source="Liu et al. 2023, Combating Mode Collapse via Offline Manifold Entropy Estimation, official train.py",
    use="with the manifold entropy: codes of mixed states lie between those of the states",
    status="verified",
    takes="latent",
)
class DIsoMapLoss(Loss, of=disomap):
    """`disomap` with its settings fixed."""
