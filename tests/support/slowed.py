"""The command line in processes that start at once, on a slow disk: `Commands().start("train", ...)`.

A process that has imported everything forks one for each command; it is this file run as a script. Every write to
HDF5, every fsync and every rename of the command takes a random time, so that whatever can happen in between does.
"""

import json
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path


class Commands:
    """Starts commands, one at a time."""

    def __init__(self):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen([sys.executable, __file__], **pipes)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.process.stdin.close()
        self.process.wait(60)

    def start(self, *arguments, slow=0.0, seed=0, code="", said: Path, most_bytes=None) -> int:
        """The process number of `minires ARGUMENTS`, or of `code`; what it says goes into the file `said`.

        slow: seconds that each access of the disk takes at most. most_bytes: no file may be larger.
        """
        job = {"arguments": list(map(str, arguments)), "slow": slow, "seed": seed, "code": code}
        self.process.stdin.write(json.dumps(job | {"said": str(said), "most_bytes": most_bytes}) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def status(self) -> int:
        """How the command ended: its exit status, or minus the signal that killed it."""
        return int(self.process.stdout.readline())

    def run(self, *arguments, **options) -> int:
        self.start(*arguments, **options)
        return self.status()


def undrawn(put=setattr) -> None:
    """Reports get their pictures from nowhere: to draw them takes longer than to train. put: as `setattr`."""
    from matplotlib.figure import Figure

    from minires.instruments import report

    drawn = Figure()
    for room in (report.plots, report.run_plots, report.film):
        for name in filter(re.compile("plot_").match, dir(room)):
            put(room, name, lambda *_, **__: drawn)
    put(report, "picture_bytes", lambda figure: b"a picture")
    put(report, "untitled", lambda png, figure: png)
    put(report, "embedded", lambda *_: "")


def _slow_down(most, seed):
    import h5py

    draw = random.Random(seed)

    def slowed(function, most):
        def call(*arguments, **options):
            time.sleep(draw.random() * most)
            result = function(*arguments, **options)
            time.sleep(draw.random() * most)
            return result

        return call

    os.fsync, os.replace = slowed(os.fsync, most), slowed(os.replace, most)
    h5py.Group.create_dataset = slowed(h5py.Group.create_dataset, most / 50)  # there are fifty in a file


def _command(job):
    import resource

    os.setsid()
    file = os.open(job["said"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, target in ((nothing, 0), (file, 1), (file, 2)):
        os.dup2(number, target)
    if job["most_bytes"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["most_bytes"],) * 2)
    if job["slow"]:
        _slow_down(job["slow"], job["seed"])
    if job["code"]:
        exec(job["code"], {"__name__": "__main__"})
        return 0
    from minires import cli

    sys.argv = ["minires", *job["arguments"]]
    return cli.main(job["arguments"])


def _serve():
    import minires.cli
    import minires.run
    import minires.train.loop  # noqa: F401 - so that no command has to wait for them

    undrawn()
    for line in iter(sys.stdin.readline, ""):
        if not (pid := os.fork()):
            sys.exit(_command(json.loads(line)))
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    _serve()
