"""A thread beside: in order, errors come back, and its end leaves nobody waiting."""

import threading

import pytest

from minires.background import Background


def test_what_was_not_begun_is_cancelled_at_the_end():
    """Whoever waits for it hears so, where it would wait for ever; what was begun is finished."""
    begun, free = threading.Event(), threading.Event()

    def first():
        begun.set()
        free.wait(10)
        return "done"

    background = Background("test")
    running, waiting = background.submit(first), background.submit(lambda: "never")
    begun.wait(10)
    assert not background.end(within=0.01)
    assert waiting.cancelled()
    free.set()
    assert running.result(10) == "done"
    assert background.end(within=10)


def test_errors_come_back_and_the_thread_goes_on():
    background = Background("test")
    failing, after = background.submit(lambda: 1 / 0), background.submit(lambda: 2)
    with pytest.raises(ZeroDivisionError):
        failing.result(10)
    assert after.result(10) == 2
    assert background.end(within=10)
