import sys
import threading
import time

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


def test_a_busy_thread_lets_another_on_sooner():
    """A thread that asks for the interpreter's lock a hundred times beside one of plain Python waits each time."""

    def waited() -> float:
        done = threading.Event()
        busy = threading.Thread(target=lambda: [None for _ in iter(done.is_set, True)])
        busy.start()
        began = time.perf_counter()
        for _ in range(100):
            time.sleep(0)
        took = time.perf_counter() - began
        done.set()
        busy.join()
        return took

    usual, interval = waited(), sys.getswitchinterval()
    with threads.prompt():
        assert waited() < usual / 2  # 0.02 s in place of 0.5
    assert sys.getswitchinterval() == interval


def test_lazy_properties_of_two_instances_are_computed_side_by_side():
    class Thing:
        count = 0

        @threads.lazy
        def value(self):
            self.count += 1
            together.wait(5)  # broken, should the other thread not come here meanwhile
            return self

    together, things = threading.Barrier(2), (Thing(), Thing())
    found = threads.share(lambda begin, _: things[begin].value, 2, 2)
    assert found == list(things) and things[0].value is things[0] and things[0].count == 1
