import math

import pytest
import torch

from forecast.core.errors import ForecastError
from forecast.losses import targets as t


def test_classes_come_last_and_ignored_labels_are_masked():
    f = torch.arange(24.0).reshape(2, 3, 4)
    y = torch.tensor([[0, 1, 2, -100]] * 2)
    given = t.classes(f, y)
    assert given.logits.shape == (2, 4, 3) and given.hard.tolist() == [[0, 1, 2, 0]] * 2
    assert given.mask.tolist() == [[True, True, True, False]] * 2
    assert given.pick(given.logits)[0].tolist() == [0, 5, 10, 3]
    both = t.classes(f, y, mask=torch.tensor([[True], [False]]))
    assert both.mask.tolist() == [[True, True, True, False], [False] * 4]
    assert t.classes(f, y.clamp_min(0)).mask is None
    same = t.classes(f.movedim(1, -1), y, class_dim=-1)
    assert torch.equal(same.logits, given.logits)


def test_soft_labels():
    f, y = torch.zeros(1, 2, 1), torch.tensor([[[0.25], [0.75]]])
    given = t.classes(f, y)
    assert given.hard is None and given.pick(torch.tensor([[[4.0, 8.0]]])).tolist() == [[7.0]]
    with pytest.raises(ForecastError, match="integer class numbers"):
        given.number()


def test_labels_out_of_range_matter_only_where_they_count():
    f, y = torch.zeros(2, 3), torch.tensor([0, 7])
    assert t.classes(f, y, mask=torch.tensor([True, False])).hard.tolist() == [0, 0]
    with pytest.raises(ForecastError, match="labels: 7 must be a class number, 0 to 2, or -100 to ignore"):
        t.classes(f, y)
    e = torch.tensor([0.0, math.nan])
    _, labels, _ = t.events(torch.zeros(2), e, torch.tensor([True, False]))
    assert labels.tolist() == [0, 0]
    with pytest.raises(ForecastError, match="labels: nan must be in"):
        t.events(torch.zeros(2), e)
    with pytest.raises(ForecastError, match=r"mask of shape \(3,\) does not fit \(2,\)"):
        t.events(torch.zeros(2), e, torch.ones(3))


def test_labels_may_be_of_any_kind():
    for kind in (torch.bool, torch.int64, torch.float32):
        _, labels, _ = t.events(torch.zeros(2, dtype=torch.float64), torch.tensor([0, 1]).to(kind))
        assert labels.dtype == torch.float64 and labels.tolist() == [0, 1]


def test_counting_weights_have_mean_one_in_each_set():
    like, mask = torch.zeros(2, 4), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]).bool()
    area = torch.tensor([3.0, 1.0, 2.0, 2.0])
    w = t.counting(like, area, mask, [1])
    assert w.tolist() == [[1.5, 0.5, 1.0, 1.0], [1.5, 0.5, 0.0, 0.0]]
    over_all = t.counting(like, area, mask, [0, 1])
    torch.testing.assert_close(over_all, area * mask * 6 / 12)
    assert t.counting(like, None, mask, [1]).tolist() == mask.float().tolist()
    assert t.counting(like, area, torch.zeros_like(mask), [1]).abs().sum() == 0


def test_dimensions_of_a_set():
    like = torch.zeros(2, 3, 4)
    assert t.set_dims(like, False, None) == [1, 2] and t.set_dims(like, True, None) == [0, 1, 2]
    assert t.set_dims(like, False, -1) == [1] and t.set_dims(like, True, 1) == [0, 2]
    assert torch.equal(t.total(like, []), like) and t.total(like, [0, 2]).shape == (3,)
