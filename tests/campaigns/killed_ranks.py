"""Kill or stop one of several ranks at any moment: does all end in time, with a word, and does the rest go on?

    python tests/campaigns/killed_ranks.py --kills 50 --stops 50 > killed_ranks.md

Each try trains with 2 to 4 ranks. One of them is killed (SIGKILL) or stopped (SIGSTOP) at a random moment, from the
start of the program to its end. Then all have to end within a limit, with one line that names the rank and its host;
what is saved has to be whole, and one rank less goes on with it to the end, to losses like those of a run that nothing
happened to. The exit status is 1 where a try failed.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from subprocess import TimeoutExpired

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from mpiexec import MINIRES, mpiexec, ranks, started
from stripes import TEST, TRAIN

from minires.data import write_signs
from minires.train.checkpoint import load_checkpoint

STALL = 2.0  # a rank that is stopped holds up the others for twice as long
IN_TIME = 15.0  # seconds more, on a busy machine
EPOCHS = 12


class Failed(Exception):
    """A promise that a try broke."""


def training(data, out):
    options = "--arch", "resnet8", "--size", "8", "--batch-size", "16", "--epochs", EPOCHS, "--stall", STALL
    return *MINIRES, "train", "--data", data, "--out", out, *options


def losses(out):
    return [json.loads(line)["train_loss"] for line in (out / "history.jsonl").read_text().splitlines()]


def attempt(blow, rng, data, out, span, expected) -> str:
    """One try; where the blow hit, in words. Failed, naming the promise."""
    count, instant = rng.randint(2, 4), rng.uniform(0, span)
    with started(count, *training(data, out)) as launcher:
        time.sleep(instant)
        pid = ranks(launcher.pid).get(rng.randrange(count))
        if pid is None or launcher.poll() is not None:
            hit = False
        else:
            with suppress(ProcessLookupError):
                os.kill(pid, blow)
            hit = True
        began = time.monotonic()
        within = IN_TIME + (2 * STALL if blow == signal.SIGSTOP else 0) if hit else 600
        try:
            _, said = launcher.communicate(timeout=within)
        except TimeoutExpired:
            raise Failed(f"{count} ranks had not ended {within:.0f} s after the blow") from None
        seconds = time.monotonic() - began
    if not hit or launcher.returncode == 0:
        return "too early or too late"
    lines = [line for line in said.splitlines() if line.startswith("minires: ")]
    if "Traceback" in said or not 1 <= len(lines) <= 2 or not all("rank " in line and " on " in line for line in lines):
        raise Failed(f"said {said!r}")
    if not (out / "model.h5").exists():
        return "before the first save"
    where = load_checkpoint(out / "model.h5").training["progress"]
    place = f"epoch {where['epoch']}" if where["epoch"] < EPOCHS else "at the end"
    done = mpiexec(count - 1, *MINIRES, "train", "--resume", out)
    if done.returncode:
        raise Failed(f"{count - 1} ranks did not go on: {done.stderr!r}")
    far = max(abs(ours / theirs - 1) for ours, theirs in zip(losses(out), expected, strict=True))
    if far > 0.02:
        raise Failed(f"its losses are {far:.1%} off those of a run that nothing happened to")
    return f"{place}, ended after {round(seconds)} s"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--stops", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    blows = [signal.SIGKILL] * args.kills + [signal.SIGSTOP] * args.stops
    rng, failed, places, slowest = random.Random(args.seed), [], Counter(), Counter()
    rng.shuffle(blows)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "data")
        write_signs(data, TRAIN, TEST)
        began = time.monotonic()
        mpiexec(3, *training(data, Path(folder, "whole"))).check_returncode()
        span, expected = time.monotonic() - began, losses(Path(folder, "whole"))
        for number, blow in enumerate(blows):
            try:
                place = attempt(blow, rng, data, Path(folder, str(number)), span, expected)
            except Failed as problem:
                failed.append(f"try {number}, {blow.name}: {problem}")
                place = f"failed: {problem}"
            at, _, seconds = place.partition(", ended after ")
            kind = "in training" if at.startswith("epoch") else at.partition(":")[0]
            places[f"{blow.name} {kind}"] += 1
            if seconds:
                slowest[blow.name] = max(slowest[blow.name], int(seconds.split()[0]))
            print(f"{number + 1}/{len(blows)} {blow.name}: {place}", file=sys.stderr, flush=True)
    print(f"{len(failed)} of {len(blows)} failed\n")
    for place, count in sorted(places.items()):
        print(f"- {place}: {count}")
    for name, seconds in sorted(slowest.items()):
        print(f"- {name}: ended after {seconds} s at most")
    for problem in failed:
        print(f"- {problem}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
