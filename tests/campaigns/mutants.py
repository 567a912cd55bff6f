"""Files of every kind, changed at random, through the doors that people use: refused in one line, or believed?

    python tests/campaigns/mutants.py --count 10000          # a table; some minutes
    python tests/campaigns/mutants.py --kinds jpeg --first 7 --count 1 --keep mutant.jpg       # one of them again

A mutant is known by the seed and its number: bits flipped, a range overwritten, cut out or inserted, the end cut off;
or, one in three where a format has a structure, JSON of another type, other shapes and types of numbers, links, claims.
A structural mutant of our own files is sealed again, as by someone who knows how. Each is loaded in a worker process
that is watched for crashes, time and memory.
"""

import argparse
import faulthandler
import hashlib
import os
import resource
import select
import signal
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1] / "support"))
from mutant_kinds import KINDS

from minires.errors import MiniresError

SECONDS = 30  # a mutant that takes longer hangs
OUTCOMES = ("refused", "equal", "other", "traceback", "crash", "hang")


def mutate(content: bytes, rng) -> bytes:
    """Damage as disks, transfers and programs make it."""
    changed, size = bytearray(content), len(content)
    at, length = int(rng.integers(size)), int(rng.choice([1, 4, 16, 64, 512]))
    match rng.integers(6):
        case 0 | 1:
            for bit in rng.integers(8 * size, size=rng.choice([1, 1, 2, 8])):
                changed[bit // 8] ^= 1 << int(bit) % 8
        case 2:
            del changed[at:]
        case 3:
            filling = [bytes(length), b"\xff" * length, rng.bytes(length)][rng.integers(3)]
            changed[at : at + length] = filling[: size - at]
        case 4:
            changed[at:at] = rng.bytes(length)
        case 5:
            del changed[at : at + length]
    return bytes(changed)


def digest(parts) -> str:
    """One text for all that a door gave."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part if isinstance(part, bytes) else f"{part.shape}{part.dtype}".encode() + part.tobytes())
    return found.hexdigest()


class Campaign:
    """Valid files in a folder of its own, and the mutants that follow from them and a seed."""

    def __init__(self, folder: Path, kinds, seed=0):
        self.folder, self.kinds, self.seed = folder, list(kinds), seed
        self.valid, self.expected = {}, {}
        for name in self.kinds:
            path = folder / f"whole{KINDS[name].suffix}"
            KINDS[name].make(path)
            self.valid[name], self.expected[name] = path.read_bytes(), digest(KINDS[name].open(path))
            path.unlink()

    def mutant(self, number: int) -> tuple[str, bool, Path]:
        """(its kind, whether its structure was changed, its file)."""
        rng, name = np.random.default_rng([self.seed, number]), self.kinds[number % len(self.kinds)]
        kind, path = KINDS[name], self.folder / f"mutant{KINDS[name].suffix}"
        structural = kind.spoil is not None and rng.random() < 1 / 3
        path.write_bytes(self.valid[name] if structural else mutate(self.valid[name], rng))
        if structural:
            kind.spoil(path, rng)
        return name, structural, path

    def judge(self, number: int) -> str:
        """Load a mutant: its outcome and a word on it."""
        name, structural, path = self.mutant(number)
        how = f"{name}|{'structure' if structural else 'bytes'}|"
        try:
            found = digest(KINDS[name].open(path))
        except MiniresError as error:
            return how + (f"traceback|in several lines: {error!r}" if "\n" in str(error) else f"refused|{error}")
        except Exception as error:
            return how + f"traceback|{type(error).__name__}: {error}"
        return how + ("equal|" if found == self.expected[name] else "other|")

    def run(self, first: int, count: int):
        """(number, kind, bytes or structure, outcome, word, MiB above the start) of each mutant."""
        number, end = first, first + count
        while number < end:
            for line in self._worker(number, end):
                yield number, *line
                number += 1

    def _worker(self, first, end):
        """Lines of a process that loads mutants one after the other, until all are done, or one ends it."""
        out, start = os.pipe()
        worker = os.fork()
        if worker == 0:
            try:
                self._work(first, end, start)
            finally:
                os._exit(0)
        os.close(start)
        try:
            with os.fdopen(out) as lines:
                for number in range(first, end):
                    ready = select.select([lines], [], [], SECONDS)[0]
                    line = lines.readline() if ready else ""
                    if not line:
                        name, structural, _ = self.mutant(number)
                        yield name, "structure" if structural else "bytes", "crash" if ready else "hang", "", 0.0
                        return
                    *words, memory = line.rstrip("\n").split("|", 4)
                    yield *words, float(memory)
        finally:
            os.kill(worker, signal.SIGKILL)
            os.waitpid(worker, 0)

    def _work(self, first, end, start):
        faulthandler.disable()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        base = _peak()
        for number in range(first, end):
            words = self.judge(number).replace("\n", " ").split("|", 3)
            line = "|".join([*words[:3], words[3].replace("|", "/")[:300], f"{_peak() - base:.0f}"])
            os.write(start, f"{line}\n".encode(errors="replace"))


def _peak() -> float:
    """MiB of this process or one that it started, whichever took more."""
    return max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024


def table(results) -> str:
    """Outcomes by kind; with what was believed, or went wrong, below."""
    counts, memory, notes = defaultdict(Counter), defaultdict(float), []
    for number, name, how, outcome, word, mib in results:
        row = f"{name}, {how}" + (" (ours)" if KINDS[name].ours and how == "bytes" else "")
        counts[row][outcome] += 1
        memory[row] = max(memory[row], mib)
        if outcome in OUTCOMES[3:] or (outcome == "other" and KINDS[name].ours and how == "bytes"):
            notes.append(f"{outcome}: number {number}, {name}, {how}: {word}")
    head = f"{'kind':42}" + "".join(f"{o:>10}" for o in OUTCOMES) + f"{'peak MiB':>10}"
    rows = [f"{row:42}" + "".join(f"{counts[row][o]:10}" for o in OUTCOMES) + f"{memory[row]:10.0f}" for row in counts]
    total = sum(counts.values(), Counter())
    last = f"{'all':42}" + "".join(f"{total[o]:10}" for o in OUTCOMES) + f"{max(memory.values()):10.0f}"
    return "\n".join([head, *sorted(rows), last, *notes])


def main() -> int:
    parser = argparse.ArgumentParser(description="Mutants of files, loaded.")
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--first", type=int, default=0, help="the number of the first mutant")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", help="names with ; between: " + "; ".join(KINDS))
    parser.add_argument("--keep", metavar="FILE", help="write the first mutant there instead, and say what it gives")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        campaign = Campaign(Path(folder), args.kinds.split(";") if args.kinds else KINDS, args.seed)
        if args.keep:
            Path(args.keep).write_bytes(campaign.mutant(args.first)[2].read_bytes())
            print(campaign.judge(args.first))
            return 0
        results = []
        for result in campaign.run(args.first, args.count):
            results.append(result)
            if len(results) % 500 == 0:
                print(len(results), file=sys.stderr, flush=True)
        text = table(results)
    print(text)
    return int(any(r[3] in OUTCOMES[3:] for r in results))


if __name__ == "__main__":
    sys.exit(main())
