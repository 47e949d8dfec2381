import pytest
import scoringrules as sr
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from forecast.core.errors import ForecastError
from forecast.losses import multivariate, pairs, variogram
from forecast.losses.registry import build
from tests.losses import contract

LAST = {"over": (-1,)}


def sample(members=4, shape=(2, 5, 3), seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape[0], members, *shape[1:], dtype=torch.float64, generator=generator)
    return x, torch.randn(*shape, dtype=torch.float64, generator=generator)


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that is made."""

    size = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            self.size = max(self.size, tensor.numel() if isinstance(tensor, torch.Tensor) else 0)
        return made


SCORES = {
    "energy": lambda *x, **k: multivariate.energy_score(*x, **k),
    "energy over both": lambda *x, **k: multivariate.energy_score(*x, over="both", beta=1.5, **k),
    "kernel": lambda *x, **k: multivariate.kernel_score(*x, **k),
    "variogram": lambda *x, **k: variogram.variogram_score(*x, **{"eps": 1e-3} | k),
    "edges": lambda *x, **k: variogram.variogram_score(
        *x, edges=torch.tensor([[0, 1, 2, 3, 4, 0], [1, 2, 3, 4, 0, 2]]), order=1.0, fair=False, eps=1e-3, **k
    ),
}
by_score = pytest.mark.parametrize("name", SCORES)


@by_score
def test_contract(name):
    loss, (x, y) = SCORES[name], sample()
    contract.gradient(loss, [x[:1, :3, :, :2], y[:1, :, :2]], reduction="none")
    contract.precision(loss, (x, y))
    contract.empty(loss, (x, y))
    contract.masked_nan(loss, (x, y))


@by_score
def test_reductions_and_weights(name):
    """A weight that is the same along the normed dimensions weighs the score; mean = sum(w l) / sum(w)."""
    loss, (x, y) = SCORES[name], sample()
    each = loss(x, y, reduction="none")
    torch.testing.assert_close(loss(x, y), each.mean())
    torch.testing.assert_close(loss(x, y, reduction="sum"), each.sum())
    whole = each.ndim == 1
    weight = torch.tensor([1.0, 3.0]).double().reshape(2, 1, 1) if whole else torch.tensor([1.0, 2.0, 5.0]).double()
    total = weight.reshape(-1) if whole else weight
    torch.testing.assert_close(loss(x, y, weight=weight, reduction="none"), each * total)
    torch.testing.assert_close(loss(x, y, weight=weight), (each * total).sum() / total.expand_as(each).sum())


@pytest.mark.parametrize("name", [name for name in SCORES if name != "edges"])  # edges number the points
def test_masked_points_are_as_points_left_out(name):
    loss, (x, y) = SCORES[name], sample()
    mask = torch.tensor([True, True, False, True, False])[:, None]
    kept = torch.tensor([0, 1, 3])
    alone = loss(x[:, :, kept], y[:, kept])
    if name.startswith("energy"):  # inside a norm what is missing is taken to be like the rest
        alone = alone * (5 / 3) ** (0.5 if name == "energy" else 0.75)
    torch.testing.assert_close(loss(x, y, mask=mask), alone)


@pytest.mark.parametrize(("fair", "estimator"), [(False, "nrg"), (True, "fair")])
def test_equal_to_scoringrules(fair, estimator):
    x, y = sample(5, (3, 7))
    arrays = y.numpy(), x.numpy()
    energy = multivariate.energy_score(x, y, alpha=float(fair), reduction="none", **LAST)
    torch.testing.assert_close(energy, torch.tensor(sr.es_ensemble(*arrays, estimator=estimator)))
    kernel = multivariate.kernel_score(
        x, y, unbiased=fair, bandwidths=[1.0], per_component=False, reduction="none", **LAST
    )
    torch.testing.assert_close(kernel, torch.tensor(sr.gksmv_ensemble(*arrays, estimator=estimator)))
    for order in (0.5, 1.0):
        ours = variogram.variogram_score(
            x, y, fair=fair, order=order, total=True, eps=0.0, point_dim=-1, reduction="none"
        )
        torch.testing.assert_close(ours, torch.tensor(sr.vs_ensemble(*arrays, p=order, estimator=estimator)))


def test_by_hand():
    x, y = torch.tensor([[[3.0, 0.0], [0.0, 4.0]]]), torch.zeros(1, 2)  # errors 3 and 4, distance 5
    assert multivariate.energy_score(x, y, alpha=0.0, **LAST).item() == pytest.approx(3.5 - 5 / 4)
    assert multivariate.energy_score(x, y, alpha=1.0, **LAST).item() == pytest.approx(3.5 - 5 / 2)
    weight = torch.tensor([0.5, 1.5])  # mean 1: the squares are weighted
    weighted = multivariate.energy_score(x, y, alpha=1.0, weight=weight, **LAST).item()
    assert weighted == pytest.approx((4.5**0.5 + 24**0.5) / 2 - 28.5**0.5 / 2)
    steps = variogram.variogram_score(x, y, order=1.0, fair=False, eps=0.0, point_dim=-1)
    assert steps.item() == pytest.approx(3.5**2)
    fair = variogram.variogram_score(x, y, order=1.0, eps=0.0, point_dim=-1)  # variance of 3 and 4 is 1/2
    assert fair.item() == pytest.approx(3.5**2 - 0.25)


@pytest.mark.parametrize("alpha", [0.0, 0.95, 1.0])
def test_energy_of_one_component_is_the_crps(alpha):
    x, y = sample()
    ours = multivariate.energy_score(x[..., None], y[..., None], alpha=alpha, reduction="none", **LAST)
    theirs = build({"name": "almost_fair_crps", "alpha": alpha})(x, y)
    torch.testing.assert_close(ours.mean(), theirs.mean())
    weight = torch.rand_like(y)
    weighted = multivariate.energy_score(x[..., None], y[..., None], weight=weight[..., None], reduction="none", **LAST)
    plain = multivariate.energy_score(x[..., None], y[..., None], reduction="none", **LAST)
    torch.testing.assert_close(weighted, plain * weight)


def test_kernel_of_small_differences_is_the_energy_of_squares():
    """1 - k(r) = r^2 / 2 to first order: minus the kernel score of wide Gaussians is that of the mean."""
    x, y = sample(6, (3, 7))
    h = 1e3
    kernel = multivariate.kernel_score(
        x, y, bandwidths=[h], per_component=False, unbiased=False, reduction="none", **LAST
    )
    torch.testing.assert_close(kernel * h**2, 0.5 * (x.mean(1) - y).square().sum(-1), rtol=1e-4, atol=1e-6)


def test_v_statistic_vanishes_only_for_the_truth():
    x, y = sample()
    score = {"unbiased": False, "reduction": "none"}
    same = multivariate.kernel_score(y[:, None].expand_as(x), y, **score)
    torch.testing.assert_close(same, torch.zeros_like(same), atol=1e-14, rtol=0)
    assert (multivariate.kernel_score(x, y, **score) > 1e-3).all()


def test_fair_variogram_is_the_pairwise_form():
    x, y = sample(5, (2, 6))
    a, b = torch.triu_indices(6, 6, 1)
    v, w = (x[..., a] - x[..., b]).abs().sqrt(), (y[..., a] - y[..., b]).abs().sqrt()
    gaps = (v[:, :, None] - v[:, None]).square().sum(dim=(1, 2)) / (5 * 4)
    expected = ((v - w[:, None]).square().mean(1) - gaps / 2).mean(-1)
    ours = variogram.variogram_score(x, y, eps=0.0, point_dim=-1, reduction="none")
    torch.testing.assert_close(ours, expected)


def test_expected_variogram_score_of_own_distribution():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(100_000, 3, 2, generator=generator)
    y = torch.randn(100_000, 2, generator=generator)
    variance = (y[:, 0] - y[:, 1]).abs().sqrt().var().item()
    for fair, factor in ((True, 1.0), (False, 1 + 1 / 3)):  # standard error 0.001
        score = variogram.variogram_score(x, y, fair=fair, point_dim=-1).item()
        assert score == pytest.approx(factor * variance, abs=0.005)


def test_random_pairs_follow_their_generator_and_the_mean_over_all():
    x, y = sample(4, (1, 8, 2))
    draw = lambda seed, count: variogram.variogram_score(  # noqa: E731
        x, y, pairs=count, generator=torch.Generator().manual_seed(seed)
    )
    assert draw(0, 5) == draw(0, 5) != draw(1, 5)
    assert draw(0, 20_000).item() == pytest.approx(variogram.variogram_score(x, y).item(), rel=0.03)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 100), scale=st.floats(0.1, 5), shift=st.floats(-3, 3))
def test_invariances(seed, scale, shift):
    x, y = sample(seed=seed)
    rotation = torch.linalg.qr(sample(seed=seed)[0][0, 0].T @ sample(seed=seed)[0][0, 1])[0]
    score = multivariate.energy_score(x, y, over="variable", reduction="none")
    turned = multivariate.energy_score(x @ rotation + shift, y @ rotation + shift, over="variable", reduction="none")
    torch.testing.assert_close(turned, score)
    scaled = multivariate.energy_score(scale * x, scale * y, over="variable", reduction="none")
    torch.testing.assert_close(scaled, scale * score)
    permuted = x[:, torch.randperm(4)]
    for loss in SCORES.values():
        torch.testing.assert_close(loss(permuted, y), loss(x, y))
        torch.testing.assert_close(loss(x + shift, y + shift), loss(x, y))
    torch.testing.assert_close(variogram.variogram_score(x + shift, y), variogram.variogram_score(x, y))


@by_score
@pytest.mark.parametrize("dim", [0, -1])
def test_members_on_any_axis(name, dim):
    x, y = sample()
    torch.testing.assert_close(SCORES[name](x.movedim(1, dim), y, ensemble_dim=dim), SCORES[name](x, y))


def test_members_that_coincide_have_finite_gradients():
    y = sample()[1]
    for loss in SCORES.values():
        x = y[:, None].expand(-1, 3, -1, -1).clone().requires_grad_()
        loss(x, y).backward()
        assert x.grad.isfinite().all()


def test_mmd():
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(n, 3, dtype=torch.float64, generator=generator) for n in (6, 4))
    mmd = multivariate.maximum_mean_discrepancy

    def kernel(a, b):
        return torch.exp(-(a[:, None] - b[None]).square().sum(-1) / (2 * 1.5**2))

    ours = mmd(x, y, bandwidths=[1.5], per_component=False)
    torch.testing.assert_close(ours, kernel(x, x).mean() + kernel(y, y).mean() - 2 * kernel(x, y).mean())
    unbiased = mmd(x, y, bandwidths=[1.5], per_component=False, unbiased=True)
    within = [(kernel(a, a).sum() - len(a)) / (len(a) * (len(a) - 1)) for a in (x, y)]
    torch.testing.assert_close(unbiased, sum(within) - 2 * kernel(x, y).mean())
    torch.testing.assert_close(mmd(x, y), mmd(y, x))
    assert mmd(x, x).item() == pytest.approx(0.0, abs=1e-14)
    contract.gradient(mmd, (x, y))
    assert mmd(x.bfloat16(), y.bfloat16()).dtype == torch.float32
    nothing = mmd(x[:0].requires_grad_(), y)
    nothing.backward()
    assert nothing.item() == 0
    half = multivariate.kernel_score(x[None], y[None, 0], unbiased=False, **LAST)  # an ensemble against one truth
    torch.testing.assert_close(2 * half, mmd(x, y[:1]))
    assert build({"name": "mmd", "unbiased": True})(x, y).item() == pytest.approx(mmd(x, y, unbiased=True).item())


def test_memory_is_linear(monkeypatch):
    """No tensor of forward or backward is larger than the members; for sets, than a block of rows."""
    x, y = sample(20, (1, 30, 2))
    x.requires_grad_()
    for name in ("energy", "kernel", "variogram"):
        with Largest() as largest:
            SCORES[name](x, y).backward()
        assert largest.size <= x.numel()
    monkeypatch.setattr(pairs, "ENTRIES", 200)
    points = torch.randn(100, 2, requires_grad=True)
    with Largest() as largest:
        multivariate.maximum_mean_discrepancy(points, points.detach() + 1).backward()
    assert largest.size <= 200


def test_one_member():
    x, y = sample(1)
    with pytest.raises(ForecastError, match="at least 2"):
        multivariate.energy_score(x, y)
    alone = multivariate.energy_score(x, y, allow_deterministic=True)
    torch.testing.assert_close(alone, torch.linalg.vector_norm(x[:, 0] - y, dim=-2).mean())


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x, y: multivariate.energy_score(x, y, beta=2.0), "beta=2"),
        (lambda x, y: multivariate.energy_score(x, y, alpha=-1.0), "alpha=-1"),
        (lambda x, y: multivariate.energy_score(x, y, over="time"), "over=time"),
        (lambda x, y: multivariate.energy_score(x, y, over=(1,)), "over=.*from the end"),
        (lambda x, y: multivariate.energy_score(x, y, over=(-3,)), "not the first"),
        (lambda x, y: multivariate.energy_score(x, y[:1]), "truth of shape"),
        (lambda x, y: multivariate.energy_score(x, y, weight=torch.ones(7)), "weight of shape"),
        (lambda x, y: multivariate.kernel_score(x, y, bandwidths=[0.0]), "bandwidths"),
        (lambda x, y: variogram.variogram_score(x, y, order=0.0), "order=0"),
        (lambda x, y: variogram.variogram_score(x, y, pairs=3, edges=torch.zeros(2, 1).long()), "not both"),
        (lambda x, y: variogram.variogram_score(x, y, edges=torch.zeros(3, 1).long()), "edges"),
        (lambda x, y: variogram.variogram_score(x, y, edges=torch.full((2, 1), 5)), "0..4"),
        (lambda x, y: multivariate.maximum_mean_discrepancy(x[0, 0], y[0].T), "features"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ForecastError, match=words):
        call(*sample())
