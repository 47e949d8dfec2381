"""Signals are noted once and then act as usual."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from forecast.training.preempt import stop_signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_noted(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_signals() as stop:
        assert stop.signal == ""
        os.kill(os.getpid(), number)
        assert stop.signal == number.name
        assert signal.getsignal(number) is before  # a second one would act as usual
    assert signal.getsignal(number) is before


def test_handlers_are_put_back_without_a_signal() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stop_signals():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


def test_outside_the_main_thread_nothing_is_caught() -> None:
    seen = []

    def work() -> None:
        with stop_signals() as stop:
            seen.append(stop.signal)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [""]
