import pytest
import torch

from forecast.core.errors import ForecastError
from forecast.losses.experimental.sparsity import aux_zipf, under_used
from forecast.losses.sparsity import aux_k
from tests.losses import laws
from tests.losses.laws import Case, normal

pytestmark = pytest.mark.filterwarnings("ignore:.*from memory")

DENSITY = torch.tensor([0.6, 0.0, 0.001, 0.3, 0.2, 0.15], dtype=torch.float64)


def inputs(n):
    return normal(n, 3), normal(n, 3, seed=1), normal(n, 6, seed=2), DENSITY, normal(6, 3, seed=3)


def direct(*given, **at_call):
    """Target and reconstruction take no gradient."""
    x, y, *rest = given
    return aux_zipf(x.detach(), y.detach(), *rest, **at_call)


@laws.over([Case("aux_zipf", direct, inputs, {"k": 2}, fixed=(0, 1, 3))], without=("empty_is_zero", "half_is_widened"))
def test_laws(law, case):
    law(case)


def test_by_hand():
    """Sum 1.251 over 2.45: the ranks' densities are 0.511, 0.255, 0.170, 0.128, 0.102, 0.085."""
    assert under_used(DENSITY, share=0.5).tolist() == [False, True, True, False, False, False]
    # three ranks: 6/11, 3/11, 2/11
    assert under_used(torch.tensor([0.5, 0.1, 0.4]), share=1.0).tolist() == [True, True, False]


def test_limits():
    x, y, f, d, w = inputs(4)
    torch.testing.assert_close(aux_zipf(x, y, f, d, w, share=0.0), aux_k(x, y, f, d == 0, w))
    zipf = 1 / torch.arange(1, 7, dtype=torch.float64)
    assert not under_used(zipf, share=0.99).any()
    assert aux_zipf(x, y, f, zipf, w, share=0.99).item() == 0
    assert under_used(torch.zeros(3)).all()


def test_precision_and_bad_input():
    x, y, f, d, w = inputs(4)
    with torch.autocast("cpu", torch.bfloat16):
        assert aux_zipf(*[z.bfloat16() for z in (x, y, f, d, w)]).dtype == torch.float32
    for words, call in {
        "density": lambda: aux_zipf(x, y, f, -d, w),
        r"\(2,\)": lambda: aux_zipf(x, y, f, d[:2], w),
        "share=-1": lambda: aux_zipf(x, y, f, d, w, share=-1),
        "k=0": lambda: aux_zipf(x, y, f, d, w, k=0),
    }.items():
        with pytest.raises(ForecastError, match=words):
            call()
