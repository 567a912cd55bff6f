"""Work in a thread beside the one that asks for it, where what hangs can hold up nobody for ever."""

from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread


class Background:
    """One thread that does what `submit` gives it, in that order.

    A ThreadPoolExecutor of one, but that Python does not wait for its thread at the end: a read or a write that never
    returns would keep the process for ever.
    """

    def __init__(self, name: str):
        self._tasks = SimpleQueue()
        self.thread = Thread(target=self._work, name=name, daemon=True)
        self.thread.start()

    def submit(self, function, *arguments) -> Future:
        future = Future()
        self._tasks.put((future, function, arguments))
        return future

    def end(self, within: float | None = None) -> bool:
        """Begin nothing more, and wait for what was begun, at most `within` seconds; whether it has ended."""
        with suppress(Empty):
            while True:
                self._tasks.get_nowait()[0].cancel()
        self._tasks.put(None)
        self.thread.join(within)
        return not self.thread.is_alive()

    def _work(self):
        while task := self._tasks.get():
            future, function, arguments = task
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function(*arguments))
                except BaseException as error:
                    future.set_exception(error)
            del task, future, function, arguments  # a batch of images must not wait here for the next one
