"""Scores in spectral space: CRPS of coefficients, AMSE without the double penalty, distances of spectra."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from forecast.losses.common import Loss, check_ensemble, reduce, require, same_shape, wide
from forecast.losses.harmonics import Spectral
from forecast.losses.multivariate import energy_score
from forecast.losses.registry import register


@wide
def spectral_crps(
    members: Tensor,
    truth: Tensor,
    *,
    transform: Spectral,
    alpha: float = 0.95,
    amplitude: bool = False,
    ensemble_dim: int = 1,
    allow_deterministic: bool = False,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Almost fair CRPS of each spectral coefficient, distances being those of complex numbers.

    Args:
        members: (B, M, ..., G, V). truth: (B, ..., G, V). NaN propagates.
        transform: Fourier (`fft`) or SphericalHarmonics (`harmonics`); a coefficient that stands for its conjugate too
            counts twice.
        alpha: 1 is the fair score, 0 the standard one; anemoi's default is 1.
        amplitude: score |c| alone and leave the phase free: the right strength of waves, wherever they are.
        weight: broadcastable to truth; its mean over the grid is used. mask: must be True everywhere.

    Returns:
        With reduction none: (B, ..., K, V).

    Raises:
        ForecastError: too few members, shapes that do not match, a field that does not fit the grid, a mask with gaps.
    """
    check_ensemble(members, truth, ensemble_dim, allow_deterministic)
    if mask is not None:
        transform.mask(mask)
    x, y = (transform.coefficients(field) for field in (members.movedim(ensemble_dim, 1), truth))
    x, y = (c.abs().unsqueeze(-1) if amplitude else torch.view_as_real(c) for c in (x, y))
    settings: dict[str, Any] = {"alpha": alpha, "allow_deterministic": allow_deterministic}
    score = energy_score(x, y, over=(-1,), reduction="none", **settings)
    return reduce(score, reduction, _modes(transform, weight, score))


def _modes(transform: Spectral, weight: Tensor | None, score: Tensor) -> Tensor:
    """Weight of coefficients (..., K, V)."""
    total = transform.multiplicity.to(score.dtype)[:, None]
    return total if weight is None else total * transform.weight(weight)


@register(
    "spectral_crps",
    formula="almost fair CRPS of complex coefficients, |c_j - c_y| and |c_j - c_k|, weighted by multiplicity",
    source="anemoi, SpectralCRPSLoss; makani",
    use="members with the right variability at every scale; the amplitude variant leaves positions free",
    status="verified",
    takes="ensemble",
)
class SpectralCRPSLoss(Loss, of=spectral_crps):
    """`spectral_crps` with its settings fixed."""


def spectra(transform: Spectral, forecast: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Power of forecast and truth and the real part of their cross power per total wavenumber, (..., N, V) each."""
    a, b = transform.coefficients(forecast), transform.coefficients(truth)
    twice = transform.multiplicity.to(a.real.dtype)[:, None]

    def binned(product: Tensor) -> Tensor:
        sums = product.new_zeros(*product.shape[:-2], transform.degrees, product.shape[-1])
        return sums.index_add(-2, transform.degree, product * twice)

    power = [binned(c.real.square() + c.imag.square()) for c in (a, b)]
    return power[0], power[1], binned(a.real * b.real + a.imag * b.imag)


@wide
def amse(
    forecast: Tensor,
    truth: Tensor,
    *,
    transform: Spectral,
    eps: float = 1e-12,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Adjusted mean squared error: (sqrt(P_a) - sqrt(P_b))^2 + 2 max(P_a, P_b) (1 - coherence), summed over degrees.

    P_a, P_b power of forecast and truth per total wavenumber, coherence their cross power over sqrt(P_a P_b). With
    sqrt(P_a P_b) in place of the maximum it would be the mean squared error, which rewards smoothing.

    Args:
        forecast, truth: (B, ..., G, V). NaN propagates.
        transform: Fourier or SphericalHarmonics. eps: added to powers under a root.
        weight: broadcastable to truth; its mean over the grid is used. mask: must be True everywhere.

    Returns:
        With reduction none: (B, ..., 1, V).

    Raises:
        ForecastError: shapes that differ, a field that does not fit the grid, a mask with gaps.
    """
    score = _per_degree(forecast, truth, transform, mask, eps).sum(-2, keepdim=True)
    return reduce(score, reduction, None if weight is None else transform.weight(weight))


def _per_degree(forecast: Tensor, truth: Tensor, transform: Spectral, mask: Tensor | None, eps: float) -> Tensor:
    same_shape(forecast=forecast, truth=truth)
    if mask is not None:
        transform.mask(mask)
    a, b, cross = spectra(transform, forecast, truth)
    root_a, root_b = (a + eps).sqrt(), (b + eps).sqrt()
    incoherent = 1 - (cross + eps) / (root_a * root_b)
    return (root_a - root_b).square() + 2 * torch.maximum(a, b) * incoherent


@register(
    "amse",
    formula="sum_n (sqrt(P_a) - sqrt(P_b))^2 + 2 max(P_a, P_b) (1 - coherence)",
    source="Subich et al. 2025, arXiv 2501.19374, eq 6; makani and anemoi, SpectralAMSELoss",
    use="deterministic fields that keep their small scales: no reward for smoothing",
    status="verified",
    takes="field",
)
class AMSELoss(Loss, of=amse):
    """`amse` with its settings fixed."""


@wide
def log_spectral_distance(
    forecast: Tensor,
    truth: Tensor,
    *,
    transform: Spectral,
    per_degree: bool = True,
    eps: float = 1e-8,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Root mean square over degrees of log(P_a + eps) - log(P_b + eps); blind to phases: use beside another loss.

    Args:
        forecast, truth: (B, ..., G, V). NaN propagates.
        per_degree: compare powers per total wavenumber; else those of each coefficient, as anemoi does.
        Others as `amse`.

    Returns:
        With reduction none: (B, ..., 1, V).

    Raises:
        ForecastError: shapes that differ, a field that does not fit the grid, a mask with gaps.
    """
    same_shape(forecast=forecast, truth=truth)
    require(eps > 0, "eps", eps, "must be positive")
    if mask is not None:
        transform.mask(mask)
    if per_degree:
        a, b, _ = spectra(transform, forecast, truth)
    else:
        a, b = (transform.coefficients(field).abs().square() for field in (forecast, truth))
    square = ((a + eps).log() - (b + eps).log()).square().mean(-2, keepdim=True)
    root = torch.where(square > 0, square, 1.0).sqrt()
    return reduce(
        torch.where(square > 0, root, square), reduction, None if weight is None else transform.weight(weight)
    )


@register(
    "log_spectral_distance",
    formula="sqrt(mean_n (log P_a - log P_b)^2)",
    source="anemoi, LogSpectralDistance (there for each coefficient)",
    use="the right energy at every scale; a term against blur beside a pointwise score",
    status="verified",
    takes="field",
)
class LogSpectralDistanceLoss(Loss, of=log_spectral_distance):
    """`log_spectral_distance` with its settings fixed."""


@wide
def fourier_correlation(
    forecast: Tensor,
    truth: Tensor,
    *,
    transform: Spectral,
    eps: float = 1e-12,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """1 - Re(c_a conj(c_b)) / (|c_a| |c_b|) of each coefficient: phases alone; arguments as `amse`.

    Returns:
        With reduction none: (B, ..., K, V).
    """
    same_shape(forecast=forecast, truth=truth)
    if mask is not None:
        transform.mask(mask)
    a, b = transform.coefficients(forecast), transform.coefficients(truth)
    cross = a.real * b.real + a.imag * b.imag + eps
    power = [c.real.square() + c.imag.square() + eps for c in (a, b)]
    score = 1 - cross / (power[0] * power[1]).sqrt()
    return reduce(score, reduction, _modes(transform, weight, score))


@register(
    "fourier_correlation",
    formula="1 - Re(c_a conj(c_b)) / (|c_a| |c_b|), a mean over coefficients",
    source="anemoi, FourierCorrelationLoss; after Yan et al. 2024, arXiv 2410.23159, who correlate the whole spectrum",
    use="positions of waves, whatever their strength; beside an amplitude loss",
    status="verified",
    takes="field",
)
class FourierCorrelationLoss(Loss, of=fourier_correlation):
    """`fourier_correlation` with its settings fixed."""
