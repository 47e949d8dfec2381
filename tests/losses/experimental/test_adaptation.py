import pytest
import torch

from forecast.core.errors import ForecastError
from forecast.losses.experimental.adaptation import class_correlation
from tests.losses.laws import normal

pytestmark = pytest.mark.filterwarnings("ignore:.*from memory")


def test_by_hand():
    """p = (3/4, 1/4) and (1/4, 3/4): <p_a, p_b> = 6/16, |p|^2 = 10/16."""
    logits = torch.tensor([[3.0, 1.0], [1.0, 3.0]]).log()
    assert class_correlation(logits).item() == pytest.approx(0.6)


def test_limits():
    sure = 100 * torch.eye(3)
    assert class_correlation(sure).item() == pytest.approx(0, abs=1e-6)
    assert class_correlation(torch.zeros(4, 3)).item() == pytest.approx(1)
    x = normal(6, 4)
    assert 0 < class_correlation(x) < 1
    torch.testing.assert_close(class_correlation(x.flip(0).flip(1) + 2), class_correlation(x))
    torch.testing.assert_close(class_correlation(3 * x, temperature=3.0), class_correlation(x))


def test_gradient_weights_masks_and_precision():
    x = normal(4, 3)
    assert torch.autograd.gradcheck(class_correlation, (x.requires_grad_(),))
    twice = class_correlation(torch.cat([x, x[:1]]))
    torch.testing.assert_close(class_correlation(x, weight=torch.tensor([2.0, 1, 1, 1]).double()), twice)
    spoilt = torch.cat([x.detach(), torch.full((1, 3), torch.nan).double()]).requires_grad_()
    kept = class_correlation(spoilt, mask=torch.tensor([True] * 4 + [False]))
    kept.backward()
    torch.testing.assert_close(kept, class_correlation(x))
    assert spoilt.grad.isfinite().all()
    nothing = class_correlation(x, mask=torch.zeros(4).bool())
    assert nothing.item() == 0 and torch.autograd.grad(nothing, x)[0].abs().sum() == 0
    with torch.autocast("cpu", torch.bfloat16):
        assert class_correlation(x.bfloat16()).dtype == torch.float32


def test_bad_input():
    for words, call in {
        r"logits=\(4, 1\)": lambda: class_correlation(normal(4, 1)),
        "temperature=0": lambda: class_correlation(normal(4, 2), temperature=0),
    }.items():
        with pytest.raises(ForecastError, match=words):
            call()
