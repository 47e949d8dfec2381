import numpy as np
import pytest
import torch

from forecast.models.normaliser import Normaliser
from tests.models.small import fields


def logarithmic():
    f = fields()
    object.__setattr__(f, "normalisation", {"tp": "log"})
    return Normaliser(f, f.variables)


def test_logarithm_of_rain_keeps_zero_and_comes_back():
    normalise = logarithmic()
    x = torch.tensor([[54_000.0, 280.0, 0.0], [57_000.0, 295.0, 0.0012], [54_000.0, 280.0, 0.3]])
    y = normalise(x)
    assert y[0].tolist() == [0.0, 0.0, 0.0]
    assert y[1].tolist() == pytest.approx([1.0, 1.0, 1.0])  # a standard deviation, 1.2 mm
    assert y[2, 2].item() == pytest.approx(np.log1p(300.0) / np.log1p(1.2))
    torch.testing.assert_close(normalise.inverse(y), x)


def test_logarithm_is_cut_at_1096_mm_and_never_negative():
    back = logarithmic().inverse(torch.tensor([[0.0, 0.0, 100.0], [0.0, 0.0, -1.0]]))
    assert back[:, 2].tolist() == pytest.approx([np.expm1(7.0) / 1000, 0.0])


def test_first_columns_alone():
    normalise = logarithmic()
    x = torch.tensor([[54_300.0, 281.0, 0.001]])
    assert torch.equal(normalise(x[:, :2]), normalise(x)[:, :2])


def test_a_logarithm_is_its_own_unit():
    assert logarithmic().spread(np.array([150.0, 1.0, 0.5]))[2] == 1.0
