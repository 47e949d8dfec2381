import pytest
import torch
from torch.distributions import LowRankMultivariateNormal, MultivariateNormal, Normal, kl_divergence

from forecast.core.model_sections import DivergenceSection
from forecast.models.latent import Gaussian, divergence, marginal_kl

PLAIN = DivergenceSection(beta=1.0)


def gaussian(seed, members=2, points=5, channels=3, rank=0):
    g = torch.Generator().manual_seed(seed)
    patterns = torch.randn(2, members, rank, points, channels, generator=g) if rank else None
    shape = (2, members, points, channels)
    return Gaussian(torch.randn(shape, generator=g), 0.5 * torch.randn(shape, generator=g), patterns)


def normal(x):
    return Normal(x.mean, (0.5 * x.logvar).exp())


AREAS = torch.tensor([1.0, 3.0, 2.0, 2.0, 1.0])


def test_divergence_is_torchs_weighted_by_area():
    q, p = gaussian(0), gaussian(1)
    each = kl_divergence(normal(q), normal(p))
    torch.testing.assert_close(marginal_kl(q, p), each)
    wanted = torch.einsum("bmpk,p->bmk", each, AREAS / AREAS.sum()).mean()
    torch.testing.assert_close(divergence(q, p, AREAS, PLAIN), wanted)


def test_members_may_share_a_prior():
    q, shared = gaussian(0), gaussian(1, members=1)
    each = kl_divergence(normal(q), normal(shared))
    wanted = torch.einsum("bmpk,p->bmk", each, AREAS / AREAS.sum()).mean()
    torch.testing.assert_close(divergence(q, shared, AREAS, PLAIN), wanted)


@pytest.mark.parametrize("rank", [0, 2])
def test_posterior_that_is_the_prior_costs_nothing(rank):
    q = gaussian(0, rank=rank)
    assert divergence(q, q, AREAS, PLAIN).abs() < 1e-6
    assert marginal_kl(q, q).abs().max() < 1e-6


def joint(x):
    """The dense normal distribution of all points and channels."""
    factor = x.patterns.flatten(3).transpose(2, 3)
    covariance = factor @ factor.transpose(2, 3) + torch.diag_embed(x.logvar.exp().flatten(2))
    return MultivariateNormal(x.mean.flatten(2), covariance)


def test_low_rank_divergence_is_that_of_the_dense_covariance():
    q, p = gaussian(0, rank=2), gaussian(1, rank=2)
    wanted = kl_divergence(joint(q), joint(p)).mean() / 15
    torch.testing.assert_close(divergence(q, p, AREAS, PLAIN), wanted, rtol=1e-4, atol=1e-5)
    white = Gaussian.white(q.mean)
    identity = LowRankMultivariateNormal(torch.zeros(15), torch.zeros(15, 1), torch.ones(15))
    torch.testing.assert_close(
        divergence(q, white, AREAS, PLAIN), kl_divergence(joint(q), identity).mean() / 15, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("rank", [0, 2])
def test_draws_have_the_moments(rank):
    x = gaussian(0, rank=rank)
    noise = torch.randn(2, 2, 20_000, 15 + rank, generator=torch.Generator().manual_seed(2)).movedim(2, 0)
    drawn = torch.stack([x.draw(n) for n in noise])
    torch.testing.assert_close(drawn.mean(0), x.mean, rtol=0, atol=0.05)
    torch.testing.assert_close(drawn.var(0), x.variance, rtol=0.08, atol=0)


def test_free_bits_hold_back_the_gradient():
    q, p = gaussian(0), gaussian(1)
    for x in (q, p):
        x.mean.requires_grad_()
    floor = divergence(q, p, AREAS, DivergenceSection(free_bits=100.0))
    assert floor.item() == pytest.approx(100.0)
    floor.backward()
    assert not q.mean.grad.any()
    low = divergence(gaussian(0, rank=1), gaussian(1, rank=1), AREAS, DivergenceSection(free_bits=100.0))
    assert low.item() == pytest.approx(100.0)


@pytest.mark.parametrize("rank", [0, 2])
def test_balance_shares_out_the_gradient(rank):
    def gradients(balance):
        q, p = gaussian(0, rank=rank), gaussian(1, rank=rank)
        for x in (q, p):
            x.mean.requires_grad_()
        kl = divergence(q, p, AREAS, DivergenceSection(balance=balance))
        kl.backward()
        return kl.detach(), q.mean.grad, p.mean.grad

    value, to_q, to_p = gradients(None)
    tilted, less, more = gradients(0.8)
    torch.testing.assert_close(tilted, value)
    torch.testing.assert_close(less, 0.2 * to_q)
    torch.testing.assert_close(more, 0.8 * to_p)
