import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import distributions as td

from forecast.core.errors import ForecastError
from forecast.losses import variational as v
from forecast.losses.multivariate import energy_score
from forecast.losses.registry import build
from tests.losses import contract


def latents(seed=0, shape=(4, 3, 2)):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, dtype=torch.float64, generator=generator) for _ in range(4)]


@pytest.mark.parametrize("settings_", [{}, {"free_bits": 1.5}, {"free_bits": 1.0}], ids=["plain", "floor", "lower"])
def test_contract(settings_):
    def loss(*x, **kwargs):
        return v.gaussian_kl(*x, **settings_, **kwargs)

    contract.gradient(loss, latents())
    contract.precision(loss, latents())
    each = loss(*latents(), reduction="none")
    assert each.shape == (4,)
    torch.testing.assert_close(loss(*latents()), each.mean())
    torch.testing.assert_close(loss(*latents(), reduction="sum"), each.sum())
    nothing = loss(*(x[:0].requires_grad_() for x in latents()))
    nothing.backward()
    assert nothing.item() == 0
    kept = torch.tensor([True, False, True, True])
    broken = [x.index_fill(0, torch.tensor([1]), torch.nan) for x in latents()]
    torch.testing.assert_close(loss(*broken, mask=kept), loss(*(x[kept] for x in latents())))
    weight = torch.tensor([1.0, 2.0, 1.0, 1.0]).double()
    twice = [torch.cat([x, x[1:2]]) for x in latents()]
    torch.testing.assert_close(loss(*latents(), weight=weight), loss(*twice))
    assert loss(*latents(), mask=torch.zeros(4).bool()).item() == 0


def test_equals_torch_distributions():
    mean, logvar, prior_mean, prior_logvar = latents()
    q, p = (td.Normal(m, (s / 2).exp()) for m, s in ((mean, logvar), (prior_mean, prior_logvar)))
    expected = td.kl_divergence(q, p).sum(dim=(1, 2))
    torch.testing.assert_close(v.gaussian_kl(*latents(), reduction="none"), expected)


def test_by_hand():
    mean, logvar = torch.tensor([[2.0]]), torch.tensor([[math.log(4.0)]])
    assert v.gaussian_kl(mean, logvar).item() == pytest.approx(0.5 * (4 + 4 - 1 - math.log(4)))
    zero = torch.zeros(1, 1)
    assert v.gaussian_kl(mean, logvar, zero, zero).item() == pytest.approx(v.gaussian_kl(mean, logvar).item())
    bounded = v.gaussian_kl(zero, torch.full((1, 1), 50.0)).item()
    assert bounded == pytest.approx(0.5 * (math.exp(10) - 1 - 10), rel=1e-6)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_zero_only_for_equal_distributions(seed):
    mean, logvar, prior_mean, prior_logvar = latents(seed)
    assert v.gaussian_kl(mean, logvar, mean, logvar).item() == pytest.approx(0.0, abs=1e-12)
    assert v.gaussian_kl(mean, logvar, prior_mean, prior_logvar).item() > 0


def test_free_bits():
    """A dimension whose mean over the batch is below the floor counts as the floor and has no gradient."""
    mean = torch.tensor([[0.1, 2.0], [0.2, 0.1]], requires_grad=True)  # KL = mean^2 / 2: 0.005, 0.02; 2, 0.005
    value = v.gaussian_kl(mean, torch.zeros(2, 2), free_bits=0.5)
    value.backward()
    assert value.item() == pytest.approx(0.5 + (2 + 0.005) / 2)
    assert (mean.grad[:, 0] == 0).all()
    torch.testing.assert_close(mean.grad[:, 1], mean.detach()[:, 1] / 2)


@pytest.mark.parametrize("balance", [0.0, 0.3, 0.8, 1.0])
def test_balance_shares_the_gradient_and_keeps_the_value(balance):
    plain, balanced = ([x.requires_grad_() for x in latents()] for _ in range(2))
    expected, value = v.gaussian_kl(*plain), v.gaussian_kl(*balanced, balance=balance)
    torch.testing.assert_close(value, expected)
    expected.backward()
    value.backward()
    for i, share in enumerate((1 - balance, 1 - balance, balance, balance)):
        torch.testing.assert_close(balanced[i].grad, share * plain[i].grad)


def test_annealing():
    assert [v.annealed(s, top=2.0, warmup=4) for s in (0, 1, 4, 9)] == [0.0, 0.5, 2.0, 2.0]
    assert v.annealed(0, top=3.0) == v.annealed(0, top=3.0, schedule="constant", warmup=9) == 3.0
    cyclic = [v.annealed(s, schedule="cyclic", cycle=4, rise=0.5) for s in range(6)]
    assert cyclic == [0.0, 0.5, 1.0, 1.0, 0.0, 0.5]


def test_ensemble_vae():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4, 3, 5, 2, dtype=torch.float64, generator=generator)
    y = torch.randn(4, 5, 2, dtype=torch.float64, generator=generator)
    mean, logvar, prior_mean, prior_logvar = latents()
    levels = [(mean, logvar), (mean[:, :1], logvar[:, :1])]
    priors = [(prior_mean, prior_logvar), (prior_mean[:, :1], prior_logvar[:, :1])]
    loss = build({"name": "ensemble_vae", "base": {"name": "energy_score"}, "beta": 0.1, "warmup": 10})
    total, parts = loss(x, y, levels, priors)
    kl = sum(v.gaussian_kl(*q, *p) for q, p in zip(levels, priors, strict=True))
    torch.testing.assert_close(parts["kl"], kl)
    torch.testing.assert_close(parts["score"], energy_score(x, y))
    torch.testing.assert_close(total, energy_score(x, y) + 0.1 * kl)
    torch.testing.assert_close(loss(x, y, levels, priors, step=5)[0], energy_score(x, y) + 0.05 * kl)
    assert loss(x, y, levels, priors, step=0)[0].item() == pytest.approx(parts["score"].item())
    standard = v.gaussian_kl(mean, logvar) + v.gaussian_kl(mean[:, :1], logvar[:, :1])
    torch.testing.assert_close(loss(x, y, levels)[1]["kl"], standard)
    with pytest.raises(ForecastError, match="prior=1: must have 2"):
        loss(x, y, levels, priors[:1])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m, s, a, b: v.gaussian_kl(m, s, a), "prior_logvar"),
        (lambda m, s, a, b: v.gaussian_kl(m, s[:2], a, b), "logvar of shape"),
        (lambda m, s, a, b: v.gaussian_kl(m, s, a, b, free_bits=-1.0), "free_bits=-1"),
        (lambda m, s, a, b: v.gaussian_kl(m, s, a, b, balance=2.0), "balance=2"),
        (lambda m, s, a, b: v.gaussian_kl(m[:, 0, 0], s[:, 0, 0]), r"\(B, D"),
        (lambda *x: v.annealed(1, schedule="cosine"), "schedule=cosine"),
        (lambda *x: v.annealed(1, schedule="cyclic"), "cycle=0"),
        (lambda *x: v.annealed(1, warmup=-1), "warmup=-1"),
        (lambda *x: v.annealed(1, schedule="cyclic", cycle=3, rise=0.0), "rise=0"),
        (lambda *x: v.EnsembleVAELoss(torch.nn.Identity(), schedule="cosine"), "schedule=cosine"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ForecastError, match=words):
        call(*latents())
