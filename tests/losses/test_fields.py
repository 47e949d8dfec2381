import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.core.errors import ForecastError
from forecast.losses.fields import ProjectionLoss, projection
from forecast.losses.imbalanced import dice, focal_tversky
from forecast.losses.registry import build
from forecast.losses.regression import mae, mse


def fields(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, dtype=torch.float64, generator=generator)
    return x, (torch.rand(*shape, dtype=torch.float64, generator=generator) > 0.6).double()


def test_by_hand():
    x, y = torch.tensor([[[1.0, 4.0], [2.0, 0.0]]]), torch.zeros(1, 2, 2)
    # the field: (1 + 4 + 2 + 0) / 4; maxima along the last axis 4, 2; along the one before 2, 4
    assert projection(x, y, base=mae).item() == pytest.approx(1.75 + 3)
    assert projection(x, y, base=mae, axes=(1, 2), coefficient=0.5).item() == pytest.approx(1.75 + 0.5 * 3)


@pytest.mark.parametrize("base", [mse, mae, dice, focal_tversky])
def test_an_axis_of_one_gives_the_base_again(base):
    x, y = fields(2, 6, 1)
    torch.testing.assert_close(projection(x, y, base=base, coefficient=0.5), 1.5 * base(x[..., 0], y[..., 0]))
    torch.testing.assert_close(projection(x, y, base=base, coefficient=0.0), base(x, y))


def test_soft_maximum_tends_to_the_hard_one_and_reaches_all():
    x, y = fields(2, 3, 4)
    hard = projection(x, y, base=mse)
    torch.testing.assert_close(projection(x, y, base=mse, temperature=1e-3), hard)
    torch.testing.assert_close(
        projection(x, y, base=mse, temperature=1e6) - mse(x, y), mse(x.mean(-1), y.amax(-1)), rtol=1e-4, atol=0
    )
    reached = []
    for temperature in (None, 1.0):
        leaf = x.clone().requires_grad_()
        (projection(leaf, y, base=mse, temperature=temperature) - mse(leaf, y)).backward()
        reached.append((leaf.grad.abs() > 1e-12).sum().item())
    assert reached == [6, 24]


def test_masked_cells_are_no_maximum_and_empty_columns_do_not_count():
    x, y = torch.tensor([[[1.0, 9.0], [5.0, 7.0]]]), torch.tensor([[[0.0, math.nan], [0.0, 0.0]]])
    kept = torch.tensor([[[True, False], [False, False]]])
    for temperature in (None, 0.5):
        assert projection(x, y, base=mae, mask=kept, temperature=temperature).item() == pytest.approx(1.0 + 1.0)
    leaf = x.clone().requires_grad_()
    nothing = projection(leaf, y, base=mae, mask=kept & False)
    nothing.backward()
    assert nothing.item() == 0 and leaf.grad.abs().sum() == 0


def test_weights_follow_the_projection():
    x, y = fields(2, 3, 4)
    area = torch.tensor([1.0, 2, 3], dtype=torch.float64)[:, None]
    expected = mse(x, y, weight=area) + mse(x.amax(-1), y.amax(-1), weight=area[:, 0])
    torch.testing.assert_close(projection(x, y, base=mse, weight=area), expected)


def test_labels_of_integers_are_projected_too():
    x, y = fields(2, 3, 4)
    torch.testing.assert_close(projection(x, y.long()), projection(x, y))
    kept = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(3)) > 0.5
    torch.testing.assert_close(projection(x, y.long(), mask=kept), projection(x, y, mask=kept))


def test_gradient_and_precision():
    x, y = fields(2, 2, 3)
    for temperature in (None, 0.7):
        loss = ProjectionLoss(axes=(1, 2), temperature=temperature)
        assert torch.autograd.gradcheck(lambda z, loss=loss: loss(z, y), (x.requires_grad_(),))
    with torch.autocast("cpu", torch.bfloat16):
        assert ProjectionLoss()(x.bfloat16(), y).dtype == torch.float32


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 50))
def test_order_along_the_axis_changes_nothing(seed):
    x, y = fields(2, 3, 5, seed=seed)
    torch.testing.assert_close(projection(x.flip(-1), y.flip(-1)), projection(x, y))
    perfect = projection(60 * (2 * y - 1), y)
    assert perfect.item() == pytest.approx(0, abs=1e-9)


def test_base_by_name_config_or_function():
    x, y = fields(2, 3, 4)
    for base in ("dice", {"name": "dice"}, dice):
        torch.testing.assert_close(build({"name": "projection", "base": base})(x, y), projection(x, y, base=dice))
    torch.testing.assert_close(build({"name": "projection"})(x, y), projection(x, y, base=focal_tversky))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"axes": (0,)}, "axes"),
        ({"axes": (3,)}, "axes"),
        ({"axes": ()}, "at least one"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"base": "dize"}, "did you mean `dice`"),
    ],
)
def test_bad_input(options, words):
    with pytest.raises(ForecastError, match=words):
        ProjectionLoss(**options)(*fields(2, 3, 4))
