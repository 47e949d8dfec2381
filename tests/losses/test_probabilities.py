import pytest
import scoringrules as sr
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.core.errors import ForecastError
from forecast.losses import probabilities as p
from tests.losses import contract


def drawn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


LOGITS, OUTCOME = drawn(3, 5), (drawn(3, 5, seed=1) > 0).double()
MEMBERS, TRUTH = drawn(3, 4, 5), drawn(3, 5, seed=1)
CLASSES, LABEL = drawn(3, 4, 5, seed=2), drawn(3, 5, seed=3).abs().mul(2).long().clamp_max(3)


def fair_brier(*inputs, **kwargs):
    return p.ensemble_brier(*inputs, **{"threshold": 0.3} | kwargs)


@pytest.mark.parametrize(
    ("loss", "inputs", "wrt"),
    [
        (p.brier, (LOGITS, OUTCOME), [0]),
        (p.ranked_probability, (CLASSES, LABEL), [0]),
        (fair_brier, (MEMBERS, TRUTH), [0]),
        (lambda *x, **k: fair_brier(*x, fair=False, width=0.5, **k), (MEMBERS, TRUTH), [0]),
    ],
    ids=["brier", "rps", "fair", "unfair"],
)
def test_contract(loss, inputs, wrt):
    contract.gradient(loss, [x[:2] for x in inputs], wrt, reduction="none")
    contract.reductions(loss, inputs)
    contract.precision(loss, inputs)
    contract.empty(loss, inputs)
    if inputs[-1].is_floating_point() and loss is not p.brier:  # which refuses a NaN
        contract.masked_nan(loss, inputs)


def test_by_hand():
    assert p.brier(torch.tensor([0.2]), torch.tensor([1.0]), from_logits=False).item() == pytest.approx(0.64)
    assert p.brier(torch.zeros(1), torch.zeros(1)).item() == pytest.approx(0.25)


def test_missing_outcomes_are_refused_unless_masked():
    outcome = torch.tensor([1.0, float("nan")])
    with pytest.raises(ForecastError, match="outcome"):
        p.brier(torch.zeros(2), outcome)
    assert p.brier(torch.zeros(2), outcome, mask=torch.tensor([True, False])).item() == pytest.approx(0.25)
    classes = torch.tensor([[0.2, 0.5, 0.3]])  # cumulative 0.2, 0.7 against 0, 1
    value = p.ranked_probability(classes, torch.tensor([1]), from_logits=False)
    assert value.item() == pytest.approx(0.04 + 0.09)
    members, truth = torch.tensor([[[1.0], [0.0], [0.0], [0.0]]]), torch.tensor([[1.0]])
    fair = p.ensemble_brier(members, truth, threshold=0.5, width=0.0)  # k = 1 of M = 4, o = 1
    assert fair.item() == pytest.approx((0.25 - 1) ** 2 - 1 * 3 / (16 * 3))


def test_equals_scoringrules():
    ours = p.brier(LOGITS, OUTCOME, reduction="none")
    torch.testing.assert_close(ours, torch.as_tensor(sr.brier_score(OUTCOME.numpy(), LOGITS.sigmoid().numpy())))
    ours = p.ranked_probability(CLASSES, LABEL, reduction="none")
    theirs = sr.rps_score(LABEL.numpy() + 1, CLASSES.softmax(1).numpy(), k_axis=1)
    torch.testing.assert_close(ours, torch.as_tensor(theirs))


def test_two_classes_are_brier():
    logits = torch.stack([torch.zeros_like(LOGITS), LOGITS], 1)
    ours = p.ranked_probability(logits, OUTCOME.long(), reduction="none")
    torch.testing.assert_close(ours, p.brier(LOGITS, OUTCOME, reduction="none"))


def test_soft_labels_are_hard_ones_where_sure():
    sure = torch.nn.functional.one_hot(LABEL, 4).movedim(-1, 1).double()
    torch.testing.assert_close(p.ranked_probability(CLASSES, sure), p.ranked_probability(CLASSES, LABEL))


def test_ignored_labels_do_not_count():
    label = LABEL.clone()
    label[0] = -100
    torch.testing.assert_close(p.ranked_probability(CLASSES, label), p.ranked_probability(CLASSES[1:], LABEL[1:]))


@pytest.mark.parametrize(("fair", "estimator"), [(False, "nrg"), (True, "fair")])
def test_integral_over_thresholds_is_the_crps(fair, estimator):
    edges = torch.cat([MEMBERS.flatten(), TRUTH.flatten()]).sort().values  # the score is constant between them
    middle, width = (edges[1:] + edges[:-1]) / 2, edges.diff()
    each = [p.ensemble_brier(MEMBERS, TRUTH, threshold=t, width=0.0, fair=fair, reduction="none") for t in middle]
    crps = sr.crps_ensemble(TRUTH.numpy(), MEMBERS.movedim(1, -1).numpy(), estimator=estimator)
    torch.testing.assert_close((torch.stack(each, -1) * width).sum(-1), torch.as_tensor(crps))


def test_expected_fair_score_does_not_depend_on_members():
    generator = torch.Generator().manual_seed(4)
    for members in (2, 10):
        x, y = torch.randn(1, members, 200_000, generator=generator), torch.randn(1, 200_000, generator=generator)
        # own distribution, chance 1/2: 1/4; the standard error is below 0.001
        assert p.ensemble_brier(x, y, threshold=0.0, width=0.0).item() == pytest.approx(0.25, abs=0.004)


@pytest.mark.parametrize("dim", [0, -1])
def test_members_on_any_axis(dim):
    threshold = TRUTH + 0.1
    moved = p.ensemble_brier(MEMBERS.movedim(1, dim), TRUTH, threshold=threshold, ensemble_dim=dim)
    torch.testing.assert_close(moved, p.ensemble_brier(MEMBERS, TRUTH, threshold=threshold))


@settings(max_examples=20, deadline=None)
@given(threshold=st.floats(-2, 2))
def test_narrow_threshold_is_hard(threshold):
    hard = p.ensemble_brier(MEMBERS, TRUTH, threshold=threshold, width=0.0)
    assert p.ensemble_brier(MEMBERS, TRUTH, threshold=threshold, width=1e-9).item() == pytest.approx(hard.item())
    field = torch.full((5,), threshold, dtype=torch.float64)
    assert p.ensemble_brier(MEMBERS, TRUTH, threshold=field, width=0.0).item() == pytest.approx(hard.item())


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: p.brier(LOGITS, OUTCOME + 1), "outcome"),
        (lambda: p.brier(LOGITS, OUTCOME[:1]), "outcome of shape"),
        (lambda: p.ranked_probability(CLASSES[:, :1], LABEL), "two classes"),
        (lambda: p.ranked_probability(CLASSES, LABEL + 4), "label=.*0..3"),
        (lambda: fair_brier(MEMBERS[:, :1], TRUTH), "members=1"),
        (lambda: fair_brier(MEMBERS, TRUTH, width=-1.0), "width=-1"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ForecastError, match=words):
        call()
