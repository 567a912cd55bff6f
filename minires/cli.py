"""The command line: `minires COMMAND --help` explains each command with an example.

Errors that a user can mend are one line on stderr and exit status 2, never a traceback; Ctrl-C is 130, SIGTERM 143.
"""

import argparse
import signal
import sys

from minires import __version__
from minires.commands import (
    bench,
    checks,
    datasets,
    exercises,
    instruments,
    lessons,
    seeing,
    site,
    stepping,
    training,
    tuning,
    weights,
)
from minires.console import err
from minires.errors import MiniresError
from minires.fast import cpu


def parser() -> argparse.ArgumentParser:
    """All commands; each sets `run`, a function of the parsed arguments that returns the exit status."""
    root = argparse.ArgumentParser(prog="minires", description="Residual networks, written out by hand.")
    root.add_argument("--version", action="version", version=f"minires {__version__}")
    commands = root.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(parent, name, run, text, example):
        p = parent.add_parser(name, help=text, description=text, epilog=f"example: {example}")
        p.set_defaults(run=run)
        return p

    for module in (
        training,
        tuning,
        instruments,
        seeing,
        stepping,
        checks,
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
    args = parser().parse_args(argv)
    try:
        cpu.enabled()  # a setting in the environment that cannot be ends every command, whether it computes or not
        return args.run(args)
    except MiniresError as error:
        err.print(f"minires: {error}", style="red")
        return 2
    except KeyboardInterrupt as stop:
        return 128 + getattr(stop, "signal", signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main())
