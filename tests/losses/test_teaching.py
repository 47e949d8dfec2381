import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from forecast.core.errors import ForecastError
from forecast.losses.distillation import binary_kl_norm
from forecast.losses.registry import build
from forecast.losses.teaching import (
    agreement,
    aligned_gradients,
    dual_head,
    mask_easy,
    masked_instances,
    multi_horizon_consistency,
    project_conflict,
    shifted_distillation,
)

ALL = ("dual_head", "multi_horizon_consistency", "masked_instances", "shifted_distillation")
LABELS = torch.tensor([0, 2, 1])


def numbers(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def inputs(name):
    s, t, z = (numbers(3, 4, seed=i) for i in range(3))
    return {
        "dual_head": (s, z, t, LABELS),
        "masked_instances": (s, t, LABELS),
        "multi_horizon_consistency": (
            numbers(3, 2, 4),
            LABELS[:, None].expand(3, 2),
            numbers(3, 2, 5),
            numbers(3, 2, 5),
        ),
        "shifted_distillation": (s, t, 3 * s, 3 * (s + 0.1 * t), z),
    }[name]


def test_dual_head_is_the_sum_of_both():
    main, aux, t, labels = inputs("dual_head")
    expected = cross_entropy(main, labels) + 0.5 * binary_kl_norm(aux, t)
    torch.testing.assert_close(dual_head(main, aux, t, labels, share=0.5), expected)
    torch.testing.assert_close(dual_head(main, aux, aux, labels), cross_entropy(main, labels))


def test_conflicting_gradients_by_hand():
    main, other = [torch.tensor([2.0]), torch.tensor([0.0])], [torch.tensor([-3.0]), torch.tensor([1.0])]
    assert [x.item() for x in project_conflict(main, other)] == [0.0, 1.0]
    assert [x.item() for x in project_conflict(main, [-x for x in other])] == [3.0, -1.0]
    assert [x.item() for x in project_conflict([torch.zeros(1)] * 2, other)] == [-3.0, 1.0]
    with pytest.raises(ForecastError, match="same parameters"):
        project_conflict(main, other[:1])


def test_aligned_gradients_never_work_against_the_labels():
    w, v, unused = (numbers(3, seed=i).requires_grad_() for i in range(3))
    main, against = (w * numbers(3, seed=5)).sum(), -(w * numbers(3, seed=5)).sum() + v.sum()
    found = aligned_gradients(main, against, [w, v, unused])
    alone = torch.autograd.grad(main, w)[0]
    assert found[0] @ alone >= 0
    torch.testing.assert_close(found[1], torch.ones_like(v))
    assert found[2].abs().sum() == 0
    agreeing = aligned_gradients((w * 2).sum(), (w * 3).sum(), [w])
    torch.testing.assert_close(agreeing[0], torch.full_like(w, 5.0))


def test_leads_by_hand():
    student, truth = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 0.0]])
    latents = torch.tensor([[[5.0, 5.0], [1.0, 3.0]]])
    value = multi_horizon_consistency(student, truth, latents, torch.zeros(1, 2, 2), consistency=0.1, reduction="none")
    torch.testing.assert_close(value, torch.tensor([[1.0, 4.0 + 0.1 * 5.0]]))
    sampled = multi_horizon_consistency(student, truth, latents, latents, student + 1, sampler=0.5, reduction="none")
    torch.testing.assert_close(sampled, torch.tensor([[1 + 0.5 * 4, 4 + 0.5 * 9]]))


def test_one_lead_is_the_plain_error():
    logits, labels, z, t = inputs("multi_horizon_consistency")
    one = multi_horizon_consistency(logits[:, :1], labels[:, :1], z[:, :1], t[:, :1] + 7)
    torch.testing.assert_close(one, cross_entropy(logits[:, 0], labels[:, 0]))
    field, truth = numbers(3, 1, 6, 2), numbers(3, 1, 6, 2, seed=1)
    one = multi_horizon_consistency(field, truth, z[:, :1], t[:, :1])
    torch.testing.assert_close(one, (field - truth).square().mean())


def test_masked_instances_limits():
    s, t, labels = inputs("masked_instances")
    plain = cross_entropy(s, labels)
    torch.testing.assert_close(masked_instances(s, t, labels, consistency=0.0), plain)
    torch.testing.assert_close(masked_instances(s, s, labels, teacher_temperature=1.0), plain)
    sharp = masked_instances(s, t, labels, teacher_temperature=1e-3) - plain
    torch.testing.assert_close(sharp, cross_entropy(s, t.argmax(-1)))  # a sure teacher is a label


def test_the_easy_are_masked():
    attention = torch.tensor([[0.1, 0.5, 0.3, 0.1], [0.7, 0.1, 0.1, 0.1]])
    assert mask_easy(attention, 0.3).tolist() == [[True, False, False, True], mask_easy(attention, 0.3)[1].tolist()]
    assert mask_easy(attention, 0.3)[1, 0].item() is False
    assert mask_easy(attention, 0.25).sum(1).tolist() == [3, 3]
    assert mask_easy(attention, 1.0).sum(1).tolist() == [1, 1]
    assert mask_easy(attention, 0.0).all()


def test_agreement_weighs_and_drops():
    s = torch.tensor([[4.0, 0], [0, 4], [1, 0]])
    t = torch.tensor([[4.0, 0], [4, 0], [1, 0]])
    w = agreement(s, t)
    sure = [1 / (1 + math.exp(-4)), 1 / (1 + math.exp(-1))]
    torch.testing.assert_close(w, torch.tensor([sure[0], 0, sure[1]]) * 3 / sum(sure))
    assert agreement(s, -s).sum() == 0


def test_shifted_distillation_by_hand():
    s, t = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 0.0], [5.0, 5.0]])
    sl, tl = torch.tensor([[9.0, 0.0], [0.0, 9.0]]), torch.tensor([[9.0, 0.0], [9.0, 0.0]])
    assert shifted_distillation(s, t, sl, tl).item() == pytest.approx(0.5 * 2 / 2)  # the second is left out
    contrast = shifted_distillation(s, s, sl, sl, s, share=1.0, temperature=0.5)
    assert contrast.item() == pytest.approx(math.log(1 + math.exp(-2)), rel=1e-5)
    none = shifted_distillation(s.requires_grad_(), t, sl, -sl, s)
    none.backward()
    assert none.item() == 0 and s.grad.abs().sum() == 0


@pytest.mark.parametrize("name", ALL)
def test_gradients_reach_the_student_only(name):
    given_ = [x.requires_grad_() if x.is_floating_point() else x for x in inputs(name)]
    loss = build({"name": name})
    assert torch.autograd.gradcheck(lambda x: loss(x, *given_[1:]), (given_[0],))
    loss(*given_).backward()
    taught = {"dual_head": 2, "multi_horizon_consistency": 3}.get(name, 1)
    assert given_[taught].grad is None and given_[0].grad.abs().sum() > 0


@pytest.mark.parametrize("name", ALL)
def test_reductions_precision_and_nothing_kept(name):
    given_, loss = inputs(name), build({"name": name})
    value = build({"name": name, "reduction": "none"})(*given_)
    w = torch.tensor([1.0, 0.0, 3.0], dtype=torch.float64).view(3, *[1] * (value.ndim - 1))
    torch.testing.assert_close(loss(*given_), value.mean())
    torch.testing.assert_close(loss(*given_, weight=w), (value * w).sum() / w.expand_as(value).sum())
    half = [x.bfloat16() if x.is_floating_point() else x for x in given_]
    with torch.autocast("cpu", torch.bfloat16):
        assert loss(*half).dtype == torch.float32
    s = given_[0].requires_grad_()
    nothing = loss(*given_, mask=torch.zeros_like(value).bool())
    nothing.backward()
    assert nothing.item() == 0 and s.grad.abs().sum() == 0


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 50))
def test_projection_keeps_what_does_not_conflict(seed):
    main, other = [numbers(4, seed=seed)], [numbers(4, seed=seed + 1)]
    left = project_conflict(main, other)[0]
    assert left @ main[0] >= -1e-9
    across = other[0] - (other[0] @ main[0]) / (main[0] @ main[0]) * main[0]
    torch.testing.assert_close(left - (left @ main[0]) / (main[0] @ main[0]) * main[0], across)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("dual_head", {"temperature": 0.0}, "temperature"),
        ("masked_instances", {"student_temperature": 0.0}, "student_temperature=0.0"),
        ("masked_instances", {"teacher_temperature": -1.0}, "teacher_temperature=-1.0"),
        ("shifted_distillation", {"temperature": 0.0}, "temperature=0.0"),
    ],
)
def test_bad_options(name, options, words):
    with pytest.raises(ForecastError, match=words):
        build({"name": name, **options})(*inputs(name))


def test_bad_input():
    s, t, labels = inputs("masked_instances")
    logits, by_lead, z, zt = inputs("multi_horizon_consistency")
    for words, call in {
        "4 must be a class number": lambda: masked_instances(s, t, labels + 2),
        "auxiliary of shape": lambda: dual_head(s, t[:2], t, labels),
        "latents": lambda: multi_horizon_consistency(logits[:, :1], by_lead[:, :1], z, zt),
        "truth of shape": lambda: multi_horizon_consistency(logits, logits[:, :, :2], z, zt),
        "mixed of shape": lambda: shifted_distillation(s, t, s, t, s[:2]),
        "ratio=2": lambda: mask_easy(s, 2),
        "needs instances": lambda: mask_easy(s[:, :0], 0.5),
    }.items():
        with pytest.raises(ForecastError, match=words):
            call()
