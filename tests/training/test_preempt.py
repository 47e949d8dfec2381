"""Signals are noted once and then act as usual."""

from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np
import pytest

from forecast.core.errors import Stopped
from forecast.training.preempt import WALL_TIME, WallTime, launched, restarted, stop_signals


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


def test_wall_time_leaves_room_for_an_update_and_a_checkpoint() -> None:
    hour = np.timedelta64(3600, "s")
    assert WallTime(None).reached(1e9) == ""
    assert WallTime(hour, began=time.time() - 3500).reached(writing=0.0) == ""
    assert WallTime(hour, began=time.time() - 3500).reached(writing=95.0) == WALL_TIME  # 1.1 * 95 + 1 > 100
    slow = WallTime(np.timedelta64(2, "s"), began=time.time() - 0.5)
    assert slow.reached(0.0) == ""  # the first update is not counted: it compiles
    time.sleep(0.3)
    assert slow.reached(0.0) == WALL_TIME  # 0.8 s are gone, another 1.33 would be too much


def test_the_launch_is_that_of_this_process_or_of_torchrun() -> None:
    began = launched({})
    assert 0 <= time.time() - began < 7200 and launched({}) == began
    assert launched({"TORCHELASTIC_RUN_ID": "x"}) == launched({}, os.getppid()) <= began
    assert not restarted({}) and restarted({"TORCHELASTIC_RESTART_COUNT": "1"})


def test_exit_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert Stopped("x").code == 75
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    assert Stopped("x").code == 0  # torchrun would start it again at once
