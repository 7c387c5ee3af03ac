"""The first signal is remembered, the second acts; handlers are put back."""

import signal
import threading

import pytest

from mlip_jax.interrupt import StopRequest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_remembered_and_the_second_acts(number):
    class Acted(Exception):
        pass

    def act(*_):
        raise Acted

    previous = signal.signal(number, act)
    try:
        with StopRequest() as request:
            assert request.signal is None
            signal.raise_signal(number)
            assert request.signal == number
            with pytest.raises(Acted):
                signal.raise_signal(number)
        assert signal.getsignal(number) is act
    finally:
        signal.signal(number, previous)


def test_outside_the_main_thread_it_leaves_signals_alone():
    before, seen = signal.getsignal(signal.SIGINT), []

    def enter():
        with StopRequest() as request:
            seen.append((request.signal, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [(None, before)]
