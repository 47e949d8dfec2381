import pytest
import torch
from torch.nn.functional import cross_entropy

from forecast.core.errors import ForecastError
from forecast.losses.distillation import soft_targets
from forecast.losses.experimental.fusion import FusedDistillationLoss, fused_distillation, ratio_gradients
from forecast.losses.registry import build
from tests.losses import laws
from tests.losses.laws import Case, normal

pytestmark = pytest.mark.filterwarnings("ignore:.*from memory")


def inputs(n):
    return normal(n, 3), normal(n, 3, seed=1), torch.arange(n) % 3, normal(n, seed=2).sigmoid()


@laws.over([Case("fused_distillation", fused_distillation, inputs, fixed=(1,))], without=("module_is_the_function",))
def test_laws(law, case):
    law(case)


def test_limits():
    s, t, y, w = inputs(4)
    torch.testing.assert_close(fused_distillation(s, t, y, 0 * w), cross_entropy(s, y))
    torch.testing.assert_close(
        fused_distillation(s, t, y, 0 * w + 1, temperature=2.0), soft_targets(s, t, temperature=2.0)
    )
    half = (cross_entropy(s, y) + soft_targets(s, t)) / 2
    torch.testing.assert_close(fused_distillation(s, t, y, 0 * w + 0.5), half)


def module(**options):
    torch.manual_seed(0)
    return FusedDistillationLoss(3, hidden=5, **options)


def test_ratio_lies_between_and_depends_on_the_sample():
    loss = module()
    s, t, y, _ = inputs(4)
    w = loss.ratio(s, t, y)
    assert ((w > 0) & (w < 1)).all() and w.std() > 0
    value = loss.eval()(s, t, y)
    torch.testing.assert_close(value, fused_distillation(s, t, y, w).to(value.dtype), rtol=1e-5, atol=1e-6)
    s.requires_grad_()
    loss(s, t, y).backward()
    assert s.grad.abs().sum() > 0 and all(p.grad is not None for p in loss.network.parameters())


def test_class_means_move_in_training_are_kept_and_reset():
    loss = module(decay=0.5)
    s, t = torch.zeros(3, 3), torch.tensor([[9.0, 0, 0], [9.0, 0, 0], [0, 0, 0]])
    y = torch.tensor([0, 0, -100])
    loss(s, t, y)
    expected = 0.5 / 3 + 0.5 * t[:1].softmax(-1)[0]
    torch.testing.assert_close(loss.means[0], expected)
    torch.testing.assert_close(loss.means[1:], torch.full((2, 3), 1 / 3))
    again = FusedDistillationLoss(3, hidden=5)
    again.load_state_dict(loss.state_dict())
    torch.testing.assert_close(again.means, loss.means)
    again.eval()(s, t, y)
    torch.testing.assert_close(again.means, loss.means)
    again.reset_state()
    torch.testing.assert_close(again.means, torch.full((3, 3), 1 / 3))


def test_outer_gradient_by_hand():
    """Inner loss v (w - 1)^2 / 2, outer w^2 / 2, w = 0, rate 0.1: w' = 0.1 v; d(w'^2 / 2) / dv = 0.01 v."""
    w, v = torch.tensor(0.0, requires_grad=True), torch.tensor(3.0, requires_grad=True)
    (slope,) = ratio_gradients(lambda z: v * (z["w"] - 1) ** 2 / 2, lambda z: z["w"] ** 2 / 2, {"w": w}, [v], rate=0.1)
    assert slope.item() == pytest.approx(0.03)


def test_bad_input():
    s, t, y, w = inputs(4)
    for words, call in {
        "ratio": lambda: fused_distillation(s, t, y, w + 1),
        "temperature=0": lambda: fused_distillation(s, t, y, w, temperature=0),
        "4 must be a class number": lambda: fused_distillation(s, t, y + 2, w),
        "classes=1": lambda: FusedDistillationLoss(1),
        "decay=1": lambda: FusedDistillationLoss(3, decay=1),
        "needs `classes`": lambda: build({"name": "fused_distillation"}),
    }.items():
        with pytest.raises(ForecastError, match=words):
            call()
