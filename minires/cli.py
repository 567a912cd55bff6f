"""The command line: `minires COMMAND --help` explains each command with an example.

What goes wrong outside of the program is one line on stderr and an exit status, here and nowhere else: 2 for bad input,
1 where the system fails (memory, disk, open files), 130 after Ctrl-C, 143 after SIGTERM, 141 where who reads the output
is gone (`| head`). What takes time is imported inside of `main`, so that this holds while importing too.
"""

import os
import signal
import sys
import threading
import time
from contextlib import contextmanager, suppress

from minires.errors import ConfigError, MiniresError
from minires.fast.launched import guarded, launched
from minires.files import refused


def parser():
    """All commands; each sets `run`, a function of the parsed arguments that returns the exit status."""
    from minires import __version__
    from minires.commands import (
        bench,
        checks,
        comparing,
        datasets,
        diagnosing,
        exercises,
        instruments,
        lessons,
        predicting,
        seeing,
        site,
        stepping,
        training,
        tuning,
        weights,
    )
    from minires.console import Parser

    root = Parser(prog="minires", description="Residual networks, written out by hand.")
    root.add_argument("--version", action="version", version=f"minires {__version__}")
    commands = root.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(parent, name, run, text, example):
        p = parent.add_parser(name, help=text, description=text, epilog=f"example: {example}")
        p.set_defaults(run=run, shared=False)  # whether several ranks do it together
        return p

    seen = (instruments, seeing, stepping, checks)
    for module in (
        training,
        predicting,
        comparing,
        tuning,
        diagnosing,
        *seen,
        datasets,
        weights,
        lessons,
        exercises,
        site,
        bench,
    ):
        module.register(commands, command)
    return root


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns its exit status."""
    if argv is None:
        guarded()
    came = []

    def interrupt(number, frame):
        """Raises, so that what is half written is removed. `fit` has a way of its own."""
        came.append(number)
        raise KeyboardInterrupt

    try:
        with _streams():
            with _on_signals(_leave):
                args = parser().parse_args(argv)
                from minires.fast import cpu
            with _on_signals(interrupt, last=argv is None):
                cpu.enabled()  # a setting in the environment that cannot be ends every command
                return args.run(args) if launched() is None else _as_rank(args)
    except BaseException as error:
        # what a signal breaks off may end by another error: a module's import by an ImportError
        status, line = (128 + came[-1], "") if came else _in_words(error)
        if line:
            if (place := launched()) and place[0]:
                time.sleep(1)  # what fails on all ranks the first one says, and its end is that of all
            _say("minires: " + line.replace("\n", "␊"))
        return status


def _as_rank(args) -> int:
    """Run a command as one of the processes that a launcher of MPI started."""
    from minires.fast.communicator import speaking_through
    from minires.fast.mpi import world
    from minires.train import stops

    ranks = world()
    if ranks.size == 1:
        return args.run(args)
    if not args.shared:
        raise ConfigError("this command runs alone: leave the launcher of MPI out (train, evaluate and predict share)")
    ranks.limit = 2 * getattr(args, "stall", ranks.limit / 2)
    if ranks.rank:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for as long as the process lives
    with speaking_through(ranks):
        try:
            status = args.run(args)
        except stops.Stopped as stopped:  # all have come to the same end, and the first one has saved
            if stopped.at_once:
                raise
            status = 128 + stopped.signal
    ranks.leave(status)
    return status


def _say(line: str) -> None:
    try:
        from minires.console import err

        err.print(line, style="red")
    except (ImportError, OSError):  # also where not one more file can be opened
        with suppress(OSError):
            sys.stderr.write(f"{line}\n")


def _leave(number, frame):
    """While all is imported nothing is begun yet, and an exception might get lost in the import's machinery."""
    os._exit(128 + number)


@contextmanager
def _on_signals(handler, last=False):
    """Ctrl-C and SIGTERM call `handler` inside the block; in a thread, which they do not reach, nothing changes.

    last: nothing but Python's own end comes after it, which a second one must not turn into another exit status.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, signal.SIG_IGN if last else old)


def _in_words(error: BaseException) -> tuple[int, str]:
    """The exit status for what ended a command, and the line to say; a fault of the program's own passes through."""
    match error:
        case KeyboardInterrupt():
            return 128 + getattr(error, "signal", signal.SIGINT), ""
        case BrokenPipeError():
            return 141, ""
        case MiniresError():
            return error.status, str(error)
        case MemoryError():
            remedy = "choose a smaller --batch-size or --size, or end other programs"
            return 1, f"the memory does not suffice ({error or 'no more is given'}): {remedy}"
        case OSError():
            failure = refused(error.errno, error.filename or "the output or a library")
            return failure.status, str(failure)
        case ImportError():
            said = " ".join(str(error).split())
            return 1, f"a library cannot be loaded: {said}"
        case RuntimeError() if "start new thread" in str(error):
            return 1, "the system starts no more threads: end other programs, or allow more with `ulimit -u` and `-v`"
    raise error


@contextmanager
def _streams():
    """What was printed has arrived when the block ends; where it cannot, Python has nothing left to fail at its end.

    A closed standard stream becomes /dev/null, or the next file that is opened would take its number.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - for as long as the process lives
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a notebook's has not
            stream.reconfigure(errors="backslashreplace")  # a file's name may be no text at all
    try:
        yield
        sys.stdout.flush()
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:
                with suppress(OSError):  # a stream of a test's or a notebook's has no number
                    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


if __name__ == "__main__":
    sys.exit(main())
