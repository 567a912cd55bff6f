"""Ctrl-C and SIGTERM: the first one lets a step end and be saved, the second one ends at once."""

import signal
import threading
from contextlib import contextmanager


class Stopped(KeyboardInterrupt):
    """Ctrl-C or SIGTERM ended what ran; `signal` says which, and a command's exit status is 128 more.

    at_once: whether it came a second time. told: whether the reporter has said what that means for the run.
    """

    told = False

    def __init__(self, number: int, at_once: bool = False):
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.signal, self.at_once = number, at_once


class Stop:
    """What the signals have asked for. patient: the first one is only noted, for the loop to see."""

    def __init__(self):
        self.signal = self.count = 0
        self.patient = self.owns_process = self.heard = False

    def __call__(self, number, frame):
        self.signal, self.count = number, self.count + 1
        if self.count > 1 or not self.patient:
            raise Stopped(number, at_once=self.count > 1)

    def unless_stopped(self, function, *arguments):
        """What the function returns; None where a first signal came before or meanwhile, which is the end of it.

        For what may be left in the middle, such as waiting for data.
        """
        before = self.patient
        try:
            try:
                self.patient = False
                return None if self.signal else function(*arguments)
            finally:
                self.patient = before
        except Stopped:
            self.patient = before
            if self.count > 1:
                raise
            return None

    def force(self) -> None:
        """From another thread: what the second Ctrl-C does."""
        if self.heard:
            signal.pthread_kill(threading.main_thread().ident, self.signal)


_outer: Stop | None = None


@contextmanager
def heard(*, patient: bool = False, owns_process: bool = False):
    """A `Stop` that hears the signals inside; where one hears already, that one, in the other manner.

    owns_process: where not even the second signal gets through, since the thread hangs outside of Python, the process
    may be ended. Python hears signals in the main thread alone: anywhere else the Stop hears nothing.
    """
    global _outer
    if threading.current_thread() is not threading.main_thread():
        yield Stop()
        return
    if _outer:
        before, _outer.patient = _outer.patient, patient
        try:
            yield _outer
        finally:
            _outer.patient = before
        return
    _outer = stop = Stop()
    stop.patient, stop.owns_process, stop.heard = patient, owns_process, True
    handlers = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        _outer = None
        for s, old in handlers.items():
            signal.signal(s, old)
