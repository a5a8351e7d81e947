"""What the flows rely on that is private of Prefect; and that a flow that holds SIGTERM back is not killed for it."""

from __future__ import annotations

import os
import signal
import threading

import pytest
from prefect.exceptions import TerminationSignal
from prefect.utilities import engine

from trimtab_flows.prefect_hooks import handling_sigterm


def committed() -> bool:
    """What the process above a flow is told, which asks whether SIGTERM would end the flow in good order."""
    return engine.commit_control_intent_and_ack(lambda: None, lambda: None, lambda: None)


def test_prefect_takes_our_handler_for_its_own() -> None:
    came: list[int] = []
    with engine.capture_sigterm():
        assert committed()
        own = signal.getsignal(signal.SIGTERM)
        with handling_sigterm(lambda number, _: came.append(number)):
            assert committed()
            os.kill(os.getpid(), signal.SIGTERM)
            with engine.capture_sigterm():  # a sub-flow within
                os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is own
        assert came == [signal.SIGTERM] * 2
        assert engine.is_prefect_sigterm_handler_installed()


def test_nothing_stays_when_the_body_fails() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with engine.capture_sigterm():
        with pytest.raises(TerminationSignal), handling_sigterm(lambda *_: None):
            raise TerminationSignal(signal.SIGTERM)
        assert engine.is_prefect_sigterm_handler_installed()
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_handler_that_is_not_prefect_s_is_not_called_prefect_s() -> None:
    with handling_sigterm(lambda *_: None):
        assert not committed()


def test_only_the_main_thread_may() -> None:
    said: list[type] = []

    def elsewhere() -> None:
        try:
            with handling_sigterm(lambda *_: None):
                pass
        except ValueError as error:
            said.append(type(error))

    (thread := threading.Thread(target=elsewhere)).start()
    thread.join()
    assert said == [ValueError]
