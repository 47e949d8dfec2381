"""Fine-tuning without gradients, a byte for each direction (Zelikman et al. 2023, Just one byte per gradient)."""

from __future__ import annotations

import torch
from torch import Tensor

from forecast.core import technique_sections as sections
from forecast.models import noise
from forecast.training.techniques.base import Advance, Evaluate, Now, Technique, Terms
from forecast.training.techniques.weights import moved

_MOST = torch.finfo(torch.float8_e5m2).max


class ZerothOrder(Technique[sections.ZerothOrder]):
    """w <- w - lr mean_k q((L(w + e z_k) - L(w - e z_k)) / 2e) z_k, z_k normal and keyed by update and direction.

    The slope along z is exact where L is linear or quadratic (SPSA, Spall 1992). q rounds it to a float of 8 bits
    (5 of them exponent, so within an eighth): whoever knows the seed needs this byte alone to make the same step. No
    gradients, moments or activations are held: the memory of a forecast and one copy of the weights. The step needs
    small learning rates (1e-6 for networks of billions of weights, from memory of MeZO, Malladi et al. 2023, with
    e = 1e-3), so this is for fine-tuning. `slopes` in `kept` are the bytes of the last update.
    """

    @torch.no_grad()
    def gradients(self, now: Now, evaluate: Evaluate) -> Terms:
        """Two passes for each direction; no `.grad`."""
        weights, e = list(self.run.parameters().values()), self.section.difference
        slopes, measured = list[Tensor](), list[Terms]()
        for k in range(self.section.directions):
            sides = []
            for sign in (e, -e):
                with moved(weights, [z * sign for z in self._direction(now.update, k)]):
                    measured.append(evaluate(backward=False))
                sides.append(measured[-1]["loss"])
            slopes.append((sides[0] - sides[1]) / (2 * e))
        self.kept["slopes"] = encode(torch.stack(slopes))
        return {name: torch.stack([terms[name] for terms in measured]).mean() for name in measured[0]}

    @torch.no_grad()
    def step(self, now: Now, lr: float, advance: Advance) -> None:
        """What the bytes say."""
        slopes = decode(self.kept["slopes"]).tolist()
        for k, slope in enumerate(slopes):
            for p, z in zip(self.run.parameters().values(), self._direction(now.update, k), strict=True):
                p.sub_(z, alpha=lr * slope / len(slopes))

    def _direction(self, update: int, k: int) -> list[Tensor]:
        return [
            noise.draw([self.key(update, k, name)], p.shape, p.device)[0].to(p.dtype)
            for name, p in self.run.parameters().items()
        ]


def encode(slopes: Tensor) -> Tensor:
    """(K,) bytes."""
    return slopes.float().clamp(-_MOST, _MOST).to(torch.float8_e5m2).view(torch.uint8)


def decode(bytes_: Tensor) -> Tensor:
    """(K,) numbers from bytes."""
    return bytes_.view(torch.float8_e5m2).double()
