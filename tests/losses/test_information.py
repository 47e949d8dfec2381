import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from forecast.core.errors import ForecastError
from forecast.losses.information import (
    ConditionalMutualInformationLoss,
    conditional_information,
    gradient_penalty,
    mi_alpha,
    wasserstein_dependency,
)
from forecast.losses.registry import build
from tests.losses import cases
from tests.losses.cases import Case, normal


def scores(count):
    return (normal(count, count),)


def classified(count):
    return normal(count, 3), torch.arange(count) % 3, torch.softmax(normal(3, 3, seed=1), 1)


class TestEvery(cases.Every):
    CASES = (
        *(Case(mi_alpha, scores, {"alpha": alpha}, without=("chunks", "mask")) for alpha in (0.0, 0.25, 1.0)),
        *(Case(wasserstein_dependency, scores, {"contrastive": c}, without=("chunks", "mask")) for c in (False, True)),
        Case(conditional_information, classified, {"limit": 9.0}, fixed=(2,), without=("chunks", "module")),
    )


@pytest.mark.parametrize("loss", [mi_alpha, wasserstein_dependency])
def test_masked_samples_are_in_no_mean(loss):
    (s,) = scores(5)
    mask = torch.tensor([True, False, True, True, True])
    spoilt = s.clone()
    spoilt[1], spoilt[:, 1] = torch.nan, torch.nan
    spoilt.requires_grad_()
    value = loss(spoilt, mask=mask)
    torch.testing.assert_close(value, loss(s[mask][:, mask]))
    value.backward()
    assert spoilt.grad.isfinite().all()


def test_mi_by_hand():
    s = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    means = [(math.e + 1) / 2, (math.e**2 + 1) / 2]
    for alpha in (0.0, 0.5, 1.0):
        mixed = [alpha * m + (1 - alpha) * math.e for m in means]
        bound = [1 + own - math.log(a) - m / a for own, a, m in zip((1, 2), mixed, means, strict=True)]
        assert mi_alpha(s, alpha=alpha, reduction="none").tolist() == pytest.approx([-b for b in bound])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 100), size=st.floats(0.1, 50))
def test_alpha_of_one_is_info_nce_and_below_log_b(seed, size):
    s = size * normal(6, 6, seed=seed)
    nce = F.cross_entropy(s, torch.arange(6)) - math.log(6)
    torch.testing.assert_close(mi_alpha(s, alpha=1.0), nce)
    assert mi_alpha(s, alpha=1.0) >= -math.log(6) - 1e-12
    # a baseline of the batch mean makes every alpha the same
    own = s.logsumexp(1) - math.log(6)
    torch.testing.assert_close(mi_alpha(s, own, alpha=0.3), nce)


def test_alpha_of_zero_is_the_bound_with_e():
    (s,) = scores(5)
    expected = s.diagonal().mean() - torch.exp(s - 1).mean()
    torch.testing.assert_close(mi_alpha(s, alpha=0.0), -expected)


def test_large_scores_stay_finite():
    (s,) = scores(4)
    assert mi_alpha(1e4 * s, alpha=0.25).isfinite()


def test_mi_of_gaussians_is_attained():
    """Correlation 0.9: I = 0.83. The log ratio of the densities as the critic, with a baseline of 1, attains it."""
    x = normal(400, 1)
    y = 0.9 * x + math.sqrt(1 - 0.81) * normal(400, 1, seed=1)
    log_ratio = -((y.T - 0.9 * x).square()) / (2 * 0.19) + y.T.square() / 2 - math.log(0.19) / 2
    truth = -math.log(1 - 0.81) / 2
    # the standard error of a mean of 400 log ratios of variance 0.81 is 0.045
    assert -mi_alpha(log_ratio, 0 * x[:, 0], alpha=0.25).item() == pytest.approx(truth, abs=0.15)


def test_dependency_by_hand_and_of_a_sum():
    s = torch.tensor([[3.0, 1.0], [0.0, 2.0]])
    assert wasserstein_dependency(s).item() == pytest.approx(-((3 - 1) + (2 - 0)) / 2)
    a, b = normal(5), normal(5, seed=1)
    assert wasserstein_dependency(a[:, None] + b).abs() < 1e-12


def test_dependency_is_at_most_the_distance_of_the_pairings():
    """A 1-Lipschitz critic cannot tell pairs from shuffled pairs further apart than one has to be moved."""
    x, y = normal(6), normal(6, seed=1)
    critic = -(x[:, None] - y).abs() / math.sqrt(2)
    moved = (y[:, None] - y).abs().sum() / 30
    assert -wasserstein_dependency(critic) <= moved + 1e-12


def test_gradient_penalty_by_hand():
    x = torch.tensor([[3.0, 4.0], [0.3, 0.4]], dtype=torch.float64, requires_grad=True)
    outputs = x.square().sum(1) / 2  # gradients x, of norms 5 and 0.5
    assert gradient_penalty(outputs, x, reduction="none").tolist() == pytest.approx([16.0, 0.25])
    outputs = x.square().sum(1) / 2
    assert gradient_penalty(outputs, x, one_sided=True).item() == pytest.approx(8.0)


def test_gradient_penalty_trains_the_critic():
    critic = nn.Linear(3, 1, dtype=torch.float64)
    penalty = build({"name": "gradient_penalty"})
    x = normal(4, 3).requires_grad_()
    value = penalty(critic(x)[:, 0], x)
    torch.testing.assert_close(value, (critic.weight.norm() - 1).square())
    value.backward()
    assert critic.weight.grad.abs().sum() > 0
    assert torch.autograd.gradcheck(lambda w: gradient_penalty((x @ w).tanh(), x), (normal(3).requires_grad_(),))


def test_cmi_by_hand():
    logits = torch.tensor([[math.log(3), 0.0]], dtype=torch.float64)  # 3/4, 1/4
    centroids = torch.tensor([[0.5, 0.5], [0.5, 0.5]], dtype=torch.float64)
    beyond = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    value = conditional_information(logits, torch.tensor([0]), centroids, strength=2.0)
    assert value.item() == pytest.approx(-math.log(0.75) - 2 * beyond)
    held = conditional_information(logits, torch.tensor([0]), centroids, strength=2.0, limit=0.01)
    assert held.item() == pytest.approx(-math.log(0.75) - 0.02)


def test_cmi_is_the_entropy_of_the_mean_less_the_mean_entropy():
    logits = normal(8, 3)
    p = torch.softmax(logits, 1)
    centroids = p.mean(0).expand(3, 3)
    labels = torch.zeros(8, dtype=torch.long)
    entropy = lambda q: -(q * q.log()).sum(-1)  # noqa: E731
    expected = F.cross_entropy(logits, labels) - 0.5 * (entropy(p.mean(0)) - entropy(p).mean())
    torch.testing.assert_close(conditional_information(logits, labels, centroids, strength=0.5, limit=9.0), expected)


def test_centroids_start_with_a_batch_and_move_slowly():
    loss = ConditionalMutualInformationLoss(3, momentum=0.75)
    sure = torch.tensor([[50.0, 0.0, 0.0]])
    loss(sure, torch.tensor([0]))
    assert loss.centroids[0].tolist() == pytest.approx([1.0, 0.0, 0.0])
    assert loss.seen.tolist() == [True, False, False]
    assert loss.centroids[1].tolist() == pytest.approx([1 / 3] * 3)
    loss(sure.flip(1).expand(2, 3), torch.tensor([0, -100]))
    assert loss.centroids[0].tolist() == pytest.approx([0.75, 0.0, 0.25])
    before = loss.centroids.clone()
    loss.eval()(sure, torch.tensor([1]))
    assert torch.equal(loss.centroids, before)
    other = ConditionalMutualInformationLoss(3)
    other.load_state_dict(loss.state_dict())
    assert torch.equal(other.centroids, before)
    loss.reset_state()
    assert not loss.seen.any()


def test_stateful_loss_is_the_function_and_builds():
    loss = build({"name": "conditional_information", "classes": 3, "strength": 0.2})
    logits, labels, _ = classified(6)
    value = loss(logits, labels)
    torch.testing.assert_close(value, conditional_information(logits, labels, loss.centroids, strength=0.2))
    mask = torch.arange(6) < 3
    loss.reset_state()
    loss(logits, torch.zeros(6, dtype=torch.long), mask=mask)
    torch.testing.assert_close(loss.centroids[0], torch.softmax(logits[:3], 1).mean(0).float())


def test_bad_input():
    (s,) = scores(4)
    logits, labels, centroids = classified(4)
    for call, words in (
        (lambda: mi_alpha(s[:3]), "scores="),
        (lambda: mi_alpha(s[:1, :1]), "2 samples"),
        (lambda: mi_alpha(s, alpha=1.5), "alpha=1.5"),
        (lambda: mi_alpha(s, torch.zeros(3)), "log_baseline="),
        (lambda: wasserstein_dependency(s[0]), "scores="),
        (lambda: gradient_penalty(s[:, 0], s), "inputs="),
        (lambda: gradient_penalty(s, s), "outputs="),
        (lambda: conditional_information(logits, labels + 1, centroids), "labels=.*0 .. 2"),
        (lambda: conditional_information(logits[:, :1], labels, centroids), "logits="),
        (lambda: conditional_information(logits, labels, centroids[:2]), "centroids="),
        (lambda: conditional_information(logits, labels, centroids, strength=-1.0), "strength=-1"),
        (lambda: ConditionalMutualInformationLoss(1), "classes=1"),
        (lambda: ConditionalMutualInformationLoss(3, momentum=1.0), "momentum=1"),
    ):
        with pytest.raises(ForecastError, match=words):
            call()
