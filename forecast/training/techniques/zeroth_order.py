"""Fine-tuning without gradients, a byte for each direction (Zelikman et al. 2023, Just one byte per gradient)."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from forecast.core import technique_sections as sections
from forecast.models import noise
from forecast.training.techniques.base import Advance, Evaluate, Now, Technique, Terms
from forecast.training.techniques.weights import moved

_MOST = torch.finfo(torch.float8_e5m2).max


class ZerothOrder(Technique[sections.ZerothOrder]):
    """w <- w - lr sum_r mean_k q((L_r(w + e z_rk) - L_r(w - e z_rk)) / 2e) z_rk, z normal, keyed by update, r and k.

    Each process r has its part L_r of the loss and directions of its own, and tells the others a byte for each: who
    knows the seed needs no more to make the same step. The slope along z is exact where L is linear or quadratic (SPSA,
    Spall 1992). q rounds it to a float of 8 bits, 5 of them exponent, so within an eighth. No gradients, moments or
    activations are held: the memory of a forecast and one copy of the weights. Steps must be small (1e-6 for networks
    of billions of weights, with e = 1e-3, from memory of MeZO, Malladi et al. 2023): this is for fine-tuning.
    """

    @torch.no_grad()
    def gradients(self, now: Now, evaluate: Evaluate) -> Terms:
        """Two passes for each direction; no `.grad`. `slopes` in `kept` are the bytes of all processes (R, K)."""
        weights, e, mesh = list(self.run.parameters().values()), self.section.difference, self.run.mesh
        slopes, measured = list[Tensor](), list[Terms]()
        for k in range(self.section.directions):
            for sign in (e, -e):
                with moved(weights, [z * sign for z in self._direction(now.update, mesh.rank, k)]):
                    measured.append(evaluate(backward=False, alone=True))
            slopes.append((measured[-2]["loss"] - measured[-1]["loss"]) / (2 * e))
        own = encode(torch.stack(slopes))
        every = [torch.empty_like(own) for _ in range(mesh.size)]
        if mesh.spread:
            dist.all_gather(every, own)
        else:
            every = [own]
        self.kept["slopes"] = torch.stack(every)
        return {name: mesh.sum(torch.stack([m[name] for m in measured]).mean().detach()) for name in measured[0]}

    @torch.no_grad()
    def step(self, now: Now, lr: float, advance: Advance) -> None:
        """What the bytes say."""
        for rank, slopes in enumerate(decode(self.kept["slopes"]).tolist()):
            for k, slope in enumerate(slopes):
                for p, z in zip(self.run.parameters().values(), self._direction(now.update, rank, k), strict=True):
                    p.sub_(z, alpha=lr * slope / len(slopes))

    def _direction(self, update: int, rank: int, k: int) -> list[Tensor]:
        return [
            noise.draw([self.key(update, rank, k, name)], p.shape, p.device)[0].to(p.dtype)
            for name, p in self.run.parameters().items()
        ]


def encode(slopes: Tensor) -> Tensor:
    """Bytes of the same shape."""
    return slopes.float().clamp(-_MOST, _MOST).to(torch.float8_e5m2).view(torch.uint8)


def decode(bytes_: Tensor) -> Tensor:
    """Numbers from bytes."""
    return bytes_.view(torch.float8_e5m2).double()
