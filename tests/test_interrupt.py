import os
import signal
import threading

import pytest

from alignrec_pyg.interrupt import StopRequest


def test_first_ctrl_c_only_asks_the_second_acts():
    with StopRequest(active=True) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(
    ("number", "error", "code"),
    [(signal.SIGINT, KeyboardInterrupt, None), (signal.SIGTERM, SystemExit, 143)],
)
def test_leaves_as_the_signal_would_have(number, error, code):
    with StopRequest(active=True) as stop:
        stop.exit_if_requested()
        os.kill(os.getpid(), number)
        with pytest.raises(error) as caught:
            stop.exit_if_requested()
    assert getattr(caught.value, "code", None) == code


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with StopRequest(active=True):
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_inactive_leaves_the_signals_alone():
    before = signal.getsignal(signal.SIGINT)
    with StopRequest(active=False) as stop:
        assert signal.getsignal(signal.SIGINT) is before
        stop.exit_if_requested()


def test_works_outside_the_main_thread_without_handlers():
    seen = []

    def run() -> None:
        with StopRequest(active=True) as stop:
            seen.append(stop.requested)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [False]


def test_an_ignored_signal_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # put back by the fixture of all tests
    with StopRequest(active=True) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert not stop.requested
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
