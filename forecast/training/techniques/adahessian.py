"""AdaHessian (Yao et al. 2021): Adam whose second moment is that of the Hessian's diagonal."""

from __future__ import annotations

import torch
from torch import Tensor

from forecast.core import technique_sections as sections
from forecast.models import noise
from forecast.training.techniques.base import Advance, Evaluate, Now, Technique, Terms
from forecast.training.techniques.weights import moved


class AdaHessian(Technique[sections.AdaHessian]):
    """w <- w - lr (m / (1 - b1^t) / ((h / (1 - b2^t))^(power / 2) + eps) + decay w), m and h averages of g and D^2.

    D = z * (H z), z of random signs: its mean is the Hessian's diagonal (Hutchinson). H z is the change of the gradient
    between w - e z and w + e z over 2 e, which is exact on a quadratic: the fused operators have no second derivative,
    which the official code takes. D is averaged over the inputs of each output, as the official code does over a
    convolution's kernel, where a weight has three or more axes. Defaults of the official code, whose learning rate is
    0.15. Three passes in place of one, and one more copy of the weights.
    """

    def gradients(self, now: Now, evaluate: Evaluate) -> Terms:
        """The gradient, and D into `kept`."""
        terms = evaluate()
        weights = {name: p for name, p in self.run.parameters().items() if p.grad is not None}
        slopes = {name: p.grad for name, p in weights.items()}
        signs = {name: self._signs(now.update, name, p) for name, p in weights.items()}
        e, sides = self.section.difference, list[dict[str, Tensor]]()
        for sign in (1, -1):
            for p in weights.values():
                p.grad = None
            with moved(list(weights.values()), [z * (sign * e) for z in signs.values()]):
                evaluate()
            sides.append({name: _grad(p) for name, p in weights.items()})
        with torch.no_grad():
            for name, p in weights.items():
                self.kept[f"diagonal.{name}"] = _pooled(signs[name] * (sides[0][name] - sides[1][name]) / (2 * e))
                p.grad = slopes[name]
        return terms

    @torch.no_grad()
    def step(self, now: Now, lr: float, advance: Advance) -> None:
        """In place of the optimiser's."""
        (b1, b2), t = self.section.betas, self.noted.get("steps", 0) + 1
        self.noted["steps"] = t
        for name, p in self.run.parameters().items():
            if p.grad is None:
                continue
            m = self.kept.setdefault(f"exp_avg.{name}", torch.zeros_like(p))
            h = self.kept.setdefault(f"exp_hessian_sq.{name}", torch.zeros_like(p))
            m.lerp_(p.grad, 1 - b1)
            h.lerp_(self.kept.pop(f"diagonal.{name}").square(), 1 - b2)
            size = (h / (1 - b2**t)) ** (self.section.power / 2) + self.section.eps
            p.sub_(lr * (m / (1 - b1**t) / size + self.section.weight_decay * p))

    def _signs(self, update: int, name: str, p: Tensor) -> Tensor:
        drawn = noise.draw([self.key(update, name)], p.shape, p.device)[0]
        return torch.where(drawn < 0, -1.0, 1.0).to(p.dtype)


def _grad(p: Tensor) -> Tensor:
    return torch.zeros_like(p) if p.grad is None else p.grad


def _pooled(diagonal: Tensor) -> Tensor:
    if diagonal.ndim < 3:
        return diagonal
    return diagonal.flatten(2).abs().mean(-1).view(*diagonal.shape[:2], *[1] * (diagonal.ndim - 2)).expand_as(diagonal)
