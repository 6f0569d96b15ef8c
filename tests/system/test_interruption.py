import os
import signal
import time

import pytest

from sskd_jax.system.interruption import SIGNALS, Interruption, StoppedHere
from sskd_jax.types import Stopped


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_waits_while_training_and_ends_everything_else_at_once(number):
    with Interruption() as interruption:
        with interruption.deferred():
            assert not interruption.due()
            os.kill(os.getpid(), number)
            assert interruption.due() and interruption.reason == number.name
    with pytest.raises(Stopped, match=f"{number.name}: the same command goes on"), Interruption():
        os.kill(os.getpid(), number)


def test_a_second_signal_does_not_wait():
    with (
        pytest.raises(Stopped, match="SIGTERM"),
        Interruption() as interruption,
        interruption.deferred(),
    ):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_first_signal_after_the_time_limit_waits_like_any_first_one():
    with pytest.raises(StoppedHere), Interruption(1e-9, deferring=True) as interruption:
        assert interruption.due()
        os.kill(os.getpid(), signal.SIGTERM)
        assert interruption.reason == "SIGTERM"
        os.kill(os.getpid(), signal.SIGTERM)


def test_among_several_processes_a_first_signal_always_waits():
    with Interruption(deferring=True) as interruption:
        with interruption.deferred():
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        assert interruption.due()


def test_handlers_are_put_back():
    before = [signal.getsignal(number) for number in SIGNALS]
    with Interruption():
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_time_limit():
    assert not Interruption().due() and not Interruption(60.0).due()
    limited = Interruption(0.01)
    time.sleep(0.02)
    assert limited.due() and limited.reason == "time limit of 0.01 s"
