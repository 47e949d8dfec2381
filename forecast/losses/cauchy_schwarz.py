"""Cauchy-Schwarz divergence of samples, conditional and of dependence, and the information bottleneck made of them."""

from __future__ import annotations

import torch
from torch import Tensor

from forecast.losses.common import Loss, empty, reduce, require, same_shape, wide, without_masked
from forecast.losses.pairs import by_rows, centred, check_features, positive, shares, squared_distances
from forecast.losses.registry import register

_SUBSET = 1000  # samples that a median distance is taken from
_FLAT = 1e-12  # product of self-informations below which a variable does not vary

Bandwidth = float | str


def median_bandwidth(*sets: Tensor) -> float:
    """Median distance of pairs of different samples, from at most 1000 evenly spaced ones; 1 where they are all one.

    (The official code's median is that of squared distances, times 10.)
    """
    samples = torch.cat([part.detach() for part in sets])
    samples = samples[:: max(1, len(samples) // _SUBSET)][:_SUBSET]
    apart = torch.pdist(samples)
    median = float(apart.median()) if len(apart) else 0.0
    return median or 1.0


def _width(bandwidth: Bandwidth, *sets: Tensor) -> float:
    if bandwidth == "median":
        return median_bandwidth(*sets)
    require(not isinstance(bandwidth, str), "bandwidth", bandwidth, "must be a number or median")
    positive(bandwidth=float(bandwidth))
    return float(bandwidth)


def _kernel(first: Tensor, second: Tensor, width: float) -> Tensor:
    """log of the Gaussian kernel of all pairs."""
    return squared_distances(first, second) / (-2 * width**2)


@wide
def cauchy_schwarz(
    first: Tensor,
    second: Tensor,
    *,
    bandwidth: Bandwidth = 1.0,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """-2 log mean K(x, y) + log mean K(x, x) + log mean K(y, y), K Gaussian: a divergence of two sets of samples.

    Not negative, symmetric, 0 for equal sets; no probability density is needed. Of Gaussian samples it tends to the
    closed form (`gaussian_cauchy_schwarz`) with half the squared bandwidth added to each variance. One number.

    Args:
        first: (N, D). second: (M, D). bandwidth: of the kernel, or "median" of the distances of all samples.
        weight, mask: (N,) of the samples of both sets, which then have one size.

    Returns:
        A scalar, in natural logarithms (the official code has log2); 0 if a set is empty. Memory is linear.

    Raises:
        ForecastError: shapes that do not match, a bandwidth that is not positive.
    """
    check_features(first=first, second=second)
    if weight is not None or mask is not None:
        same_shape(first=first, second=second)
        share, first, second = shares(weight, mask, first, second)
        parts = (share, share)
    else:
        parts = (shares(None, None, first)[0], shares(None, None, second)[0])
    if not len(first) or not len(second):
        return empty(first, second)
    width = _width(bandwidth, first, second)
    x, y = centred(first, second)
    p, q = (part.log() for part in parts)
    cross = _log_potential(x, p, y, q, width)
    return _log_potential(x, p, x, p, width) + _log_potential(y, q, y, q, width) - 2 * cross


def _log_potential(x: Tensor, log_p: Tensor, y: Tensor, log_q: Tensor, width: float) -> Tensor:
    """log sum_ij p_i q_j K(x_i, y_j)."""

    def rows_value(rows: slice, x: Tensor, y: Tensor) -> Tensor:
        return (_kernel(x[rows], y, width) + log_q).logsumexp(1) + log_p[rows]

    return by_rows(rows_value, len(x), len(y), x, y).logsumexp(0)


@register(
    "cauchy_schwarz",
    formula="-2 log mean K(x, y) + log mean K(x, x) + log mean K(y, y)",
    source="Yu et al. 2024, Cauchy-Schwarz Divergence Information Bottleneck for Regression, official loss_cs.py",
    use="latents, or members and analyses, of one distribution, with no form assumed for it",
    status="verified",
    takes="latent",
)
class CauchySchwarzLoss(Loss, of=cauchy_schwarz):
    """`cauchy_schwarz` with its settings fixed."""


@wide
def gaussian_cauchy_schwarz(
    first_mean: Tensor,
    first_logvar: Tensor,
    second_mean: Tensor,
    second_logvar: Tensor,
    *,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Cauchy-Schwarz divergence of diagonal Gaussians: sum_d log((v + w) / (2 sqrt(v w))) + (m - n)^2 / (v + w).

    Args:
        first_mean, first_logvar, second_mean, second_logvar: (B, *, D). weight, mask: broadcastable to (B, *).

    Returns:
        (B, *) reduced.

    Raises:
        ForecastError: shapes that differ.
    """
    same_shape(first_mean=first_mean, first_logvar=first_logvar, second_mean=second_mean, second_logvar=second_logvar)
    inner = None if mask is None else mask[..., None]
    first_mean, first_logvar, second_mean, second_logvar = (
        without_masked(x, inner) for x in (first_mean, first_logvar, second_mean, second_logvar)
    )
    half = (first_logvar - second_logvar) / 2
    log_total = torch.logaddexp(first_logvar, second_logvar)
    shape = torch.logaddexp(half, -half) - torch.log(half.new_tensor(2.0))  # log cosh of half the difference
    away = (first_mean - second_mean).square() * (-log_total).exp()
    return reduce((shape + away).sum(-1), reduction, weight, mask)


@register(
    "gaussian_cauchy_schwarz",
    formula="sum_d log((v + w) / (2 sqrt(v w))) + (m - n)^2 / (v + w)",
    source="integral of the definition for Gaussians; Yu et al. 2024, Cauchy-Schwarz Divergence Information Bottleneck",
    use="prior against posterior of a latent ensemble, symmetric and milder than the KL where they are far apart",
    status="derived",
    takes="latent",
)
class GaussianCauchySchwarzLoss(Loss, of=gaussian_cauchy_schwarz):
    """`gaussian_cauchy_schwarz` with its settings fixed."""


@wide
def conditional_cauchy_schwarz(
    condition: Tensor,
    truth: Tensor,
    forecast: Tensor,
    *,
    bandwidth: float = 1.0,
    legacy: bool = False,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Cauchy-Schwarz divergence of p(truth | condition) and p(forecast | condition), from paired samples.

    log A(y, y) + log A(z, z) - 2 log A(z, y), A(a, b) = sum_j [sum_i K_ji L(a_j, b_i)] / (sum_i K_ji)^2, K the kernel
    of the conditions and L of the values. `legacy` divides by sum_i K_ji^2, as the official code does where the paper
    has the square of the sum. Inputs should be standardised. One number.

    Args:
        condition: (N, C). truth, forecast: (N, D). weight, mask: (N,) of the samples.

    Returns:
        A scalar in natural logarithms; 0 for no samples. Memory is linear.

    Raises:
        ForecastError: shapes that do not match, a bandwidth that is not positive.
    """
    width = _width(bandwidth)
    check_features(condition=condition)
    check_features(truth=truth, forecast=forecast)
    same_shape(truth=truth, forecast=forecast)
    require(len(condition) == len(truth), "condition", tuple(condition.shape), f"must have {len(truth)} samples")
    share, x, y, z = shares(weight, mask, condition, truth, forecast)
    if not len(x):
        return empty(x, y, z)
    log_p = share.log()

    def rows_value(rows: slice, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        near = _kernel(x[rows], x, width)
        norm = (2 * near + log_p).logsumexp(1) if legacy else 2 * (near + log_p).logsumexp(1)
        near = near + log_p
        terms = [_kernel(a[rows], b, width) for a, b in ((y, y), (z, z), (z, y))]
        return torch.stack([(near + term).logsumexp(1) - norm + log_p[rows] for term in terms], 1)

    (x,), (y, z) = centred(x), centred(y, z)
    own, other, cross = by_rows(rows_value, len(x), 4 * len(x), x, y, z).logsumexp(0)
    return own + other - 2 * cross


@register(
    "conditional_cauchy_schwarz",
    formula="log A(y, y) + log A(z, z) - 2 log A(z, y), A(a, b) = sum_j sum_i K_ji L(a_j, b_i) / (sum_i K_ji)^2",
    source="Yu et al. 2024, Cauchy-Schwarz Divergence Information Bottleneck for Regression; normalised as in the "
    "paper, not as in the official loss_cs.py",
    use="forecasts as uncertain as the truth is, given the same predictors",
    status="verified",
    takes="other",
)
class ConditionalCauchySchwarzLoss(Loss, of=conditional_cauchy_schwarz):
    """`conditional_cauchy_schwarz` with its settings fixed."""


@wide
def quadratic_information(
    first: Tensor,
    second: Tensor,
    *,
    bandwidth: Bandwidth = 1.0,
    normalize: bool = False,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """CS-QMI: the Cauchy-Schwarz divergence of the joint distribution of paired samples from the product of the two.

    log mean K_ij L_ij + log(mean K mean L) - 2 log mean_i (mean_j K_ij mean_k L_ik). Not negative, 0 if either is
    constant. `normalize`: over sqrt(QMI(x, x) QMI(y, y)), at most about 1. One number.

    Args:
        first: (N, D). second: (N, E). bandwidth: of both kernels, or "median" of each's distances.
        weight, mask: (N,) of the samples.

    Returns:
        A scalar in natural logarithms; 0 for no samples. Memory is linear.

    Raises:
        ForecastError: other numbers of samples, a bandwidth that is not positive.
    """
    check_features(first=first)
    check_features(second=second)
    require(len(first) == len(second), "second", tuple(second.shape), f"must have {len(first)} samples")
    share, x, y = shares(weight, mask, first, second)
    if not len(x):
        return empty(x, y)
    widths = _width(bandwidth, x), _width(bandwidth, y)
    (x,), (y,) = centred(x), centred(y)
    value = _information(x, y, widths, share.log())
    if not normalize:
        return value
    own = _information(x, x, (widths[0],) * 2, share.log()) * _information(y, y, (widths[1],) * 2, share.log())
    return value / own.clamp_min(_FLAT).sqrt()


def _information(x: Tensor, y: Tensor, widths: tuple[float, float], log_p: Tensor) -> Tensor:
    def rows_value(rows: slice, x: Tensor, y: Tensor) -> Tensor:
        of_x, of_y = _kernel(x[rows], x, widths[0]) + log_p, _kernel(y[rows], y, widths[1])
        joint, one, two = (part.logsumexp(1) for part in (of_x + of_y, of_x, of_y + log_p))
        return torch.stack([joint, one, two, one + two], 1) + log_p[rows, None]

    joint, one, two, cross = by_rows(rows_value, len(x), 3 * len(x), x, y).logsumexp(0)
    return joint + one + two - 2 * cross


@register(
    "quadratic_information",
    formula="log mean K_ij L_ij + log(mean K mean L) - 2 log mean_i (mean_j K_ij mean_k L_ik)",
    source="Yu et al. 2024, Cauchy-Schwarz Divergence Information Bottleneck for Regression, official loss_cs.py",
    use="how much of the state a latent keeps: a penalty that compresses it",
    status="verified",
    takes="latent",
)
class QuadraticInformationLoss(Loss, of=quadratic_information):
    """`quadratic_information` with its settings fixed."""


@wide
def information_bottleneck(
    inputs: Tensor,
    latent: Tensor,
    truth: Tensor,
    forecast: Tensor,
    *,
    beta: float = 0.01,
    bandwidth: float = 1.0,
    legacy: bool = False,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """CS-IB: `conditional_cauchy_schwarz` of the forecast + beta normalised `quadratic_information` of the latent.

    The official code sweeps beta over 0 and 1e-4 .. 1 with a bandwidth of 1 on standardised data.

    Args:
        inputs: (N, C). latent: (N, L). truth, forecast: (N, D). weight, mask: (N,) of the samples.

    Returns:
        A scalar; 0 for no samples. Memory is linear.

    Raises:
        ForecastError: shapes that do not match, a negative beta, a bandwidth that is not positive.
    """
    require(beta >= 0, "beta", beta, "must not be negative")
    at_call = {"weight": weight, "mask": mask}
    error = conditional_cauchy_schwarz(inputs, truth, forecast, bandwidth=bandwidth, legacy=legacy, **at_call)
    return error + beta * quadratic_information(inputs, latent, bandwidth=bandwidth, normalize=True, **at_call)


@register(
    "information_bottleneck",
    formula="CS(p(y | x), p(z | x)) + beta QMI(x, t) / sqrt(QMI(x, x) QMI(t, t))",
    source="Yu et al. 2024, Cauchy-Schwarz Divergence Information Bottleneck for Regression, official loss_cs.py",
    use="a latent that keeps of the state only what the forecast needs",
    status="verified",
    takes="other",
)
class InformationBottleneckLoss(Loss, of=information_bottleneck):
    """`information_bottleneck` with its settings fixed."""
