"""Learning from labels of unequal worth, and from none: weights by a teacher's error, and sliced score matching."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from forecast.losses.common import Loss, reduce, require, same_shape, wide
from forecast.losses.pairs import blank, positive
from forecast.losses.registry import register


@wide
def bias_weights(errors: Tensor, *, temperature: float = 1.0, mask: Tensor | None = None) -> Tensor:
    """(B,) weights exp(-error / temperature) of samples, with a mean of 1 and no gradient; hot: all 1.

    Args:
        errors: (B,) of a teacher's forecast of each sample's label. mask: (B,); what it leaves out has weight 0.

    Raises:
        ForecastError: a temperature that is not positive, errors that are not (B,).
    """
    positive(temperature=temperature)
    require(errors.ndim == 1, "errors", tuple(errors.shape), "must be (B,)")
    counts = torch.ones_like(errors, dtype=torch.bool) if mask is None else mask.bool()
    logits = (-errors.detach() / temperature).masked_fill(~counts, -torch.inf)
    if not bool(counts.any()):
        return torch.zeros_like(errors)
    return torch.softmax(logits, 0) * counts.sum()


@wide
def bias_aware(
    forecast: Tensor,
    truth: Tensor,
    errors: Tensor,
    forecast_energy: Tensor | None = None,
    truth_energy: Tensor | None = None,
    *,
    temperature: float = 1.0,
    balance: float = 0.999,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Mean absolute error of cheap labels, weighted by how well a teacher trusts them; with a scalar beside the field.

    w_i (mean |f - y| + (1 - balance) / balance |e - u|), w of `bias_weights`. In the paper f are forces, e an energy,
    and the balance 0.999.

    Args:
        forecast, truth: (B, *). errors: (B,) of the teacher. forecast_energy, truth_energy: (B,), both or none.
        weight, mask: (B,).

    Returns:
        (B,) reduced.

    Raises:
        ForecastError: shapes that do not match, one of the energies alone, settings out of range.
    """
    require(0 < balance <= 1, "balance", balance, "must lie in (0, 1]")
    same_shape(forecast=forecast, truth=truth)
    require(errors.shape == truth.shape[:1], "errors", tuple(errors.shape), f"must be ({len(truth)},)")
    share = bias_weights(errors, temperature=temperature, mask=mask)
    forecast, truth = blank(mask, forecast, truth)
    value = (forecast - truth)[:, None].abs().flatten(1).mean(1)
    require((forecast_energy is None) == (truth_energy is None), "truth_energy", None, "give both energies, or none")
    if forecast_energy is not None and truth_energy is not None:
        same_shape(errors=errors, forecast_energy=forecast_energy, truth_energy=truth_energy)
        energy, wanted = blank(mask, forecast_energy, truth_energy)
        value = value + (1 - balance) / balance * (energy - wanted).abs()
    return reduce(share * value, reduction, weight, mask)


@register(
    "bias_aware",
    formula="w_i (mean |f - y| + (1 - b) / b |e - u|), w = exp(-error / temperature) with mean 1",
    source="Bukharin et al. 2023, Machine Learning Force Fields with Data Cost Aware Training, arXiv:2306.03109, "
    "official trainer.py",
    use="pretraining on an old or coarse reanalysis, whose worst samples count less",
    status="verified",
    takes="other",
)
class BiasAwareWeightedLoss(Loss, of=bias_aware):
    """`bias_aware` with its settings fixed."""


@wide
def sliced_score_matching(
    network: Callable[[Tensor], Tensor],
    inputs: Tensor,
    *,
    temperature: float = 1.0,
    slices: int = 3,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """1/2 |F(x)|^2 + kT mean_v v' (dF/dx) v over `slices` normal v, F a force: kT times the score of the states.

    Needs states alone, no labels. Smallest for F = kT grad log p, -x kT / s^2 of Gaussian states. Differentiated twice
    in training.

    Args:
        network: F, maps (B, *) to (B, *), sample by sample. inputs: (B, *). temperature: kT.
        weight, mask: (B,).

    Returns:
        (B,) reduced.

    Raises:
        ForecastError: a network that changes the shape, a temperature that is not positive, slices below 1.
    """
    positive(temperature=temperature, slices=slices)
    (inputs,) = blank(mask, inputs)
    with torch.enable_grad():
        x = inputs if inputs.requires_grad else inputs.detach().requires_grad_()
        force = network(x)
        require(force.shape == x.shape, "network", tuple(force.shape), f"must keep the shape {tuple(x.shape)}")
        value = force.flatten(1).square().sum(1) / 2
        for _ in range(slices):
            v = torch.empty_like(x).normal_(generator=generator)
            (pulled,) = torch.autograd.grad(force, x, v, create_graph=True)
            value = value + temperature / slices * (pulled * v).flatten(1).sum(1)
    return reduce(value, reduction, weight, mask)


@register(
    "sliced_score_matching",
    formula="1/2 |F(x)|^2 + kT mean_v v' (dF/dx) v",
    source="Song et al. 2019, Sliced score matching, arXiv:1905.07088; Bukharin et al. 2023, Machine Learning Force "
    "Fields with Data Cost Aware Training, official trainer.py",
    use="learns from states alone which way the climate lies, for perturbations and priors",
    status="verified",
    takes="other",
)
class SlicedScoreMatchingLoss(Loss, of=sliced_score_matching):
    """`sliced_score_matching` with its settings fixed."""
