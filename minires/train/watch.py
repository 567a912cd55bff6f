"""The watchdog of a run: it says when nothing has moved for long, where, and what is waited for.

It ends nothing by itself. Once Ctrl-C was pressed, what does not move for as long is left as it stands.
"""

import os
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from minires.fast.communicator import ALONE
from minires.train.stops import Stop

USUAL = 30.0  # seconds without a sign of progress
SLOWER = 4  # times the longest time so far is no reason to speak: a large batch, a slow disk
LAST_RESORT = 5.0  # seconds to follow a second signal, before a process that only trains is ended

# letters of /proc/PID/stat, proc_pid_stat(5)
STATES = {"R": "running", "S": "sleeping", "D": "waiting for a disk", "T": "stopped", "t": "stopped", "Z": "gone"}


def state(stat: str) -> str:
    """In words what the process or thread of this file /proc/.../stat does; "" where there is no such file."""
    with suppress(OSError, IndexError):
        return STATES.get(Path(stat).read_text().rpartition(")")[2].split()[0], "")
    return ""


class Watch:
    """Told by `doing` what a run does now; its thread speaks on stderr once that lasts too long.

    activities: name -> in words what it does, what to do where that lasts too long, and a function that says in which
    thread. where: one that says where the run stands. Seconds in which the whole process was stopped do not count.
    """

    def __init__(self, limit: float, stop: Stop, activities: dict, where, ranks=ALONE):
        self.limit, self.stop, self.activities, self.where, self.ranks = limit, stop, activities, where, ranks
        self.tick = min(1.0, limit / 5)
        self.doing(next(iter(activities)))
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.run, name="minires-watch", daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *error):
        self.ended.set()
        self.thread.join()

    def doing(self, name: str) -> None:
        """Progress: this is what is done from now on."""
        self.now = name, time.time()

    def run(self):
        seen, quiet, speak, longest = None, 0.0, 0.0, {}
        asked = forced = 0.0  # for so long a stop was asked for, and the second signal was sent
        before = time.monotonic()
        while not self.ended.wait(self.tick):
            now, passed = self.now, time.monotonic() - before
            before += passed
            if passed > self.limit:
                say(f"the whole process stood still for {passed:.0f} s: was it stopped, or the machine suspended?")
            passed = min(passed, 2 * self.tick)
            if now is not seen:
                if seen:
                    longest[seen[0]] = max(longest.get(seen[0], 0.0), quiet)
                seen, quiet, asked, forced = now, 0.0, 0.0, 0.0
                speak = limit = max(self.limit, SLOWER * longest.get(now[0], 0.0))
                continue
            quiet += 0 if self.ranks.waiting else passed  # of the others it speaks itself
            if quiet >= speak:
                speak *= 2
                say(self.line(now, quiet))
            if not self.stop.signal:
                continue
            asked += passed
            if asked >= limit and not forced:
                self.stop.force()
            if asked >= limit:
                forced += passed
            if forced > LAST_RESORT and self.stop.owns_process:
                say(f"stopped in {self.where()}, without an end to {self.activities[now[0]][0]}; the last save stands")
                os._exit(128 + self.stop.signal)

    def line(self, now, quiet) -> str:
        what, remedy, thread = self.activities[now[0]]
        doing = state(f"/proc/self/task/{getattr(thread(), 'native_id', 0)}/stat")
        leave = "; Ctrl-C stops the run" if self.stop.heard and not self.stop.signal else ""
        since = time.strftime("%H:%M:%S", time.localtime(now[1]))
        return (
            f"no progress for {quiet:.0f} s (since {since}, {self.where()}): {what}"
            f"{f' (that thread is {doing})' if doing else ''}: {remedy}{leave}"
        )


class Ticking:
    """A data set that tells the watchdog of each part that is read."""

    def __init__(self, dataset, doing):
        self.dataset, self.doing = dataset, doing

    def __len__(self):
        return len(self.dataset)

    def __getattr__(self, name):
        return getattr(self.dataset, name)

    def images(self, index):
        self.doing("test")
        return self.dataset.images(index)


def say(text: str) -> None:
    with suppress(Exception):  # stderr may be closed; the run is not to suffer for it
        print(f"minires: {text}", file=sys.stderr, flush=True)
