import threading

import pytest

from forecast.core import threads


@pytest.mark.parametrize(("size", "count", "pieces"), [(10, 3, 3), (2, 8, 2), (5, 1, 1), (0, 4, 1)])
def test_work_is_cut_into_even_pieces(size, count, pieces):
    spans = threads.share(lambda begin, end: (begin, end), size, count)
    assert len(spans) == pieces
    assert [i for begin, end in spans for i in range(begin, end)] == list(range(size))
    assert max(end - begin for begin, end in spans) - min(end - begin for begin, end in spans) <= 1


def test_pieces_run_side_by_side():
    meet = threading.Barrier(3, timeout=10)
    assert len(set(threads.share(lambda begin, end: (meet.wait(), begin)[1], 3, 3))) == 3


def test_errors_come_back():
    with pytest.raises(ZeroDivisionError):
        threads.share(lambda begin, end: 1 // (1 - begin), 2, 2)
