import math

import pytest
import torch

from forecast.core.errors import ForecastError
from forecast.losses.f_divergence import CONJUGATES, WEIGHTS, f_distill, f_distill_weight, flat
from tests.losses import cases
from tests.losses.cases import Case, normal


def draws(count):
    return *(normal(count, 2, 2, seed=seed) for seed in range(3)), normal(count, seed=3)


def answers(count):
    labels = torch.arange(count * 3).reshape(count, 3) % 4
    return normal(count, 3, 4), labels, normal(count, 3, 4, seed=1), labels.flip(1)


class TestEvery(cases.Every):
    CASES = (
        Case(f_distill, draws, fixed=(1, 2, 3), without=("chunks",)),
        *(Case(flat, answers, {"divergence": name}, without=("chunks",)) for name in CONJUGATES),
    )


F_OF = {
    "reverse_kl": lambda r: -r.log(),
    "forward_kl": lambda r: r * r.log(),
    "jensen_shannon": lambda r: r * r.log() - (r + 1) * ((r + 1) / 2).log(),
    "hellinger": lambda r: (r.sqrt() - 1).square(),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weight_is_the_second_derivative_times_the_squared_ratio(name):
    r = torch.tensor([0.1, 0.7, 1.0, 5.0], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(F_OF[name](r).sum(), r, create_graph=True)
    (curve,) = torch.autograd.grad(slope.sum(), r)
    torch.testing.assert_close(f_distill_weight(r.log(), divergence=name), (curve * r.square()).detach())


def test_weights_are_clipped_and_may_have_a_mean_of_one():
    log_ratio = torch.tensor([-500.0, 0.0, 500.0])
    assert f_distill_weight(log_ratio, divergence="forward_kl", limit=2.0).tolist() == pytest.approx(
        [math.exp(-2), 1, math.exp(2)]
    )
    assert f_distill_weight(log_ratio, normalize=True).mean().item() == pytest.approx(1)


def test_surrogate_gradient_by_hand():
    x = torch.tensor([[2.0]], requires_grad=True)
    student, teacher = torch.tensor([[3.0]]), torch.tensor([[1.0]])
    value = f_distill(x, student, teacher, torch.tensor([math.log(3)]))
    assert value.item() == pytest.approx(0.75 * 2 * 2)
    value.backward()
    assert x.grad.item() == pytest.approx(0.75 * 2)


def test_reverse_kl_descends_to_the_teacher():
    """Samples N(m, 1) against the teacher N(0, 1): the gradient in m is m, that of the reverse KL m^2 / 2."""
    shift = torch.tensor(1.5, requires_grad=True)
    x = normal(50, 1, dtype=torch.float32) + shift
    value = f_distill(x, -(x - shift).detach(), -x.detach(), torch.zeros(50), divergence="reverse_kl")
    (grad,) = torch.autograd.grad(value, shift)
    assert grad.item() == pytest.approx(1.5, rel=1e-5)


GENERATORS = {
    "kl": lambda u: u * u.log(),
    "pearson": lambda u: (u - 1).square(),
    "total_variation": lambda u: (u - 1).abs() / 2,
    "jensen_shannon": lambda u: u * u.log() - (u + 1) * ((u + 1) / 2).log(),
    "reverse_kl": lambda u: -u.log(),
    "squared_hellinger": lambda u: (u.sqrt() - 1).square(),
    "neyman": lambda u: (1 - u).square() / u,
}


@pytest.mark.parametrize("name", GENERATORS)
def test_table_is_of_convex_conjugates(name):
    """f*(g(x)) = sup over u > 0 of u g(x) - f(u); Jeffrey's is a cut series and left out."""
    g, conjugate = CONJUGATES[name]
    u = torch.logspace(-5, 3, 400_001, dtype=torch.float64)
    for x in (0.05, 0.4, 0.9):
        x = torch.tensor(x, dtype=torch.float64)
        supremum = (u * g(x) - GENERATORS[name](u)).max()
        torch.testing.assert_close(conjugate(x), supremum, atol=2e-5, rtol=0)


def test_series_of_jeffrey_is_its_conjugate_to_the_third_power():
    u = torch.linspace(0.5, 2, 1_000_001, dtype=torch.float64)
    for x in (0.02, 0.1):
        supremum = (u * x - (u - 1) * u.log()).max()
        assert CONJUGATES["jeffrey"][1](torch.tensor(x)).item() == pytest.approx(supremum.item(), abs=x**4)


@pytest.mark.parametrize("name", CONJUGATES)
def test_every_divergence_raises_good_and_lowers_forgotten(name):
    """Three branches of the official code fail this."""
    inputs = [x.requires_grad_() if x.is_floating_point() else x for x in answers(3)]
    flat(*inputs, divergence=name).backward()
    own = [logits.grad.gather(-1, labels[..., None]) for logits, labels in (inputs[:2], inputs[2:])]
    assert (own[0] < 0).all()
    assert (own[1] > 0).all()


def test_flat_by_hand():
    good = torch.tensor([[[math.log(3), 0.0], [0.0, 0.0]]])
    bad = torch.zeros(1, 2, 2)
    labels = torch.tensor([[0, 0]])
    value = flat(good, labels, bad, labels, divergence="kl")
    assert value.item() == pytest.approx(math.exp(0.5 - 1) - (0.75 + 0.5) / 2)
    # the ignored place is not a probability of zero
    some = torch.tensor([[0, -100]])
    assert flat(good, some, bad, labels, divergence="kl").item() == pytest.approx(math.exp(-0.5) - 0.75)


def test_total_variation_is_bounded():
    sure = torch.tensor([[50.0, 0.0]])
    right, wrong = torch.tensor([0]), torch.tensor([1])
    bound = math.tanh(1) / 2
    assert flat(sure, right, sure, wrong).item() == pytest.approx(-bound)
    assert flat(sure, wrong, sure, right).item() == pytest.approx(bound)


def test_an_answer_of_ignored_places_does_not_count():
    good, labels, bad, other = answers(3)
    labels = labels.clone()
    labels[1] = -100
    each = flat(good, labels, bad, other, reduction="none")
    assert each[1] == 0
    torch.testing.assert_close(flat(good, labels, bad, other), each[[0, 2]].mean())


def test_bad_input():
    x, s, t, r = draws(3)
    good, labels, bad, other = answers(3)
    for call, words in (
        (lambda: f_distill(x, s, t[:2], r), "teacher_score of shape"),
        (lambda: f_distill(x, s, t, r[:2]), "log_ratio="),
        (lambda: f_distill(x, s, t, r, divergence="kl"), "divergence=kl"),
        (lambda: f_distill_weight(r, limit=0.0), "limit=0"),
        (lambda: flat(good, labels + 2, bad, other), "good_labels=.*0 .. 3"),
        (lambda: flat(good, labels[:, :2], bad, other), "good_labels="),
        (lambda: flat(good, labels, bad[:2], other[:2]), "forget_labels="),
        (lambda: flat(good, labels, bad, other, divergence="chi"), "divergence=chi"),
    ):
        with pytest.raises(ForecastError, match=words):
            call()
