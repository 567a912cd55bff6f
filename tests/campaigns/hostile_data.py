"""Data sets and files of weights as no one should make them, given to every command that reads some.

    python tests/campaigns/hostile_data.py --count 300            # a table
    python tests/campaigns/hostile_data.py --first 7 --count 1    # one of them again, with what each command said

A case is known by the seed and its number: arrays of odd shapes, types, labels and names, nested and empty folders,
huge claims, links in a circle, unicode, no permission, mixed kinds, odd files of other frameworks, damaged. Each is
given to `doctor`, `data show`, `data convert`, `evaluate`, `predict`, `weights import` and `weights compare` here.
"""

import argparse
import contextlib
import io
import shutil
import signal
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1] / "support"))
from hostile_kinds import KINDS
from stripes import classifier

from minires.cli import main as minires
from minires.train import save_checkpoint

SECONDS = 60  # a command that takes longer hangs
OUTCOMES = ("refused in one line", "accepted", "several lines", "traceback", "hang")
COMMANDS = {
    "doctor --data": ["doctor", "--data", "@"],
    "doctor": ["doctor", "@"],
    "data show": ["data", "show", "@", "--out", "OUT.png"],
    "data convert": ["data", "convert", "@", "OUT.h5"],
    "evaluate --data": ["evaluate", "MODEL", "--data", "@"],
    "evaluate": ["evaluate", "@", "--data", "builtin"],
    "predict": ["predict", "MODEL", "@"],
    "weights import": ["weights", "import", "@", "--arch", "resnet8", "--out", "OUT.h5"],
    "weights compare": ["weights", "compare", "MODEL", "@"],
}


def case(root: Path, number: int, seed: int = 0) -> tuple[str, Path]:
    """(its kind, its path) of one case, made below `root`."""
    rng, (name, (make, endings)) = np.random.default_rng([seed, number]), list(KINDS.items())[number % len(KINDS)]
    place = root / str(number)
    place.mkdir()
    path = place / f"{'case' if rng.random() < 0.8 else 'ünï cödé'}{rng.choice(endings.split() or [''])}"
    make(path, rng)
    return name, path


class Hang(BaseException):
    """A command took too long."""


def _alarm(*_):
    raise Hang


def outcome(words: list[str]) -> tuple[str, str]:
    """(one of OUTCOMES, what was said) of a command, run here."""
    said, before = io.StringIO(), signal.signal(signal.SIGALRM, _alarm)
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.redirect_stderr(said):
            status = minires(words)
    except Hang:
        return "hang", ""
    except BaseException as error:
        return "traceback", f"{type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    lines = [line for line in said.getvalue().splitlines() if line.startswith("minires: ")]
    if words[0] == "doctor" and "the check itself broke" in printed.getvalue():
        return "traceback", printed.getvalue()
    if words[0] == "doctor" and status == 1:
        return "refused in one line", ""
    if status == 0 or (words[:2] == ["weights", "compare"] and status == 1):
        return "accepted", ""
    return ("refused in one line" if len(lines) == 1 and status in (1, 2) else "several lines"), said.getvalue()


def run(root: Path, first: int, count: int, seed: int = 0, commands=COMMANDS):
    """(number, kind, command, outcome, what was said) of each case and command."""
    save_checkpoint(root / "model.h5", classifier())
    for number in range(first, first + count):
        name, path = case(root, number, seed)
        words = {"@": str(path), "MODEL": str(root / "model.h5"), "OUT.png": str(root / "out.png")}
        words["OUT.h5"] = str(root / "out.h5")
        for command, arguments in commands.items():
            yield number, name, command, *outcome([words.get(word, word) for word in arguments])
        shutil.rmtree(path.parent, ignore_errors=True)


def show(results) -> str:
    """Outcomes by command; below, what is not as it should be."""
    counts, notes = defaultdict(Counter), []
    for number, name, command, found, said in results:
        counts[command][found] += 1
        if found in OUTCOMES[2:]:
            notes.append(f"{found}: number {number}, {name}, {command}: {' '.join(said.split())[:300]}")
    head = f"{'command':18}" + "".join(f"{o:>21}" for o in OUTCOMES)
    rows = [f"{command:18}" + "".join(f"{counts[command][o]:21}" for o in OUTCOMES) for command in counts]
    return "\n".join([head, *rows, *notes])


def main() -> int:
    parser = argparse.ArgumentParser(description="Hostile data sets and files of weights, given to the commands.")
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for result in run(Path(folder), args.first, args.count, args.seed):
            results.append(result)
            if args.count == 1:
                print(*result)
            elif result[3] in OUTCOMES[2:]:
                print(*result, file=sys.stderr, flush=True)
    print(show(results))
    return int(any(result[3] in OUTCOMES[2:] for result in results))


if __name__ == "__main__":
    sys.exit(main())
