"""Cut one of three hosts off in mid-training: does the run end in time with one line, and go on with those left?

    python tests/campaigns/hosts.py --tries 3 > hosts.md          # as root: each host and each cut so often

Hosts are network namespaces (benchmarks/hosts.py) with MPICH's launcher between them. A cut is silent (the cable of a
switch behind: nobody is told) or open (the link goes down). Within the limit and a few seconds the run says in one line
which rank on which host is not heard of, the launcher and every rank end, on the lost host too, and `--resume` on the
two others trains to the end. The exit status is 1 where a try failed, 77 where there can be no hosts.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path

from minires.benchmarks.hosts import Hosts, reason_against

from minires.data import write_signs

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from stripes import TEST, TRAIN

STALL = 4.0  # --stall; ranks wait twice as long before they name who is missing
IN_TIME = 2 * STALL + 8  # seconds from the cut to the launcher's end, on a busy machine; from there to the last rank's
START = 120  # seconds until two epochs are done, or all
EPOCHS = 20
LEFT_OUT = 77  # the exit status of what was not tried


class Failed(Exception):
    """A promise that a try broke."""


def expect(condition, *what):
    if not condition:
        raise Failed(" ".join(map(str, what)))


def until(come, seconds, what, run) -> float:
    """Wait until `come()`; the seconds that it took."""
    began = time.monotonic()
    while not come():
        if time.monotonic() - began > seconds:
            raise Failed(f"not within {seconds} s: {what}, {run.text()}")
        time.sleep(0.05)
    return time.monotonic() - began


class Run:
    """`minires train` on some of the hosts."""

    def __init__(self, hosts: Hosts, on: list[int], said: Path, *options):
        self.said = said
        command = sys.executable, "-m", "minires", "train", *options, "--device", "cpu", "--stall", STALL
        with said.open("w") as file:
            self.process = hosts.start(on, *command, stdout=file, stderr=file)

    def ended(self) -> bool:
        return self.process.poll() is not None

    def text(self) -> str:
        return self.said.read_text()


def cut(work: Path, lost: int, silent: bool, draw: random.Random) -> float:
    """One try; the seconds from the cut to the end of the launcher."""
    options = "--data", work / "data", "--arch", "resnet8", "--size", 8, "--epochs", EPOCHS, "--batch-size", 16
    with tempfile.TemporaryDirectory(dir=work) as folder, Hosts(3) as hosts:
        out = Path(folder, "run")
        run = Run(hosts, [1, 2, 3], Path(folder, "said.txt"), *options, "--out", out)
        until(lambda: "epoch 2/" in run.text() or run.ended(), START, "the first epochs", run)
        sent = [hosts.sent(host) for host in (1, 2, 3)]
        expect(min(sent) > 10**5, "bytes that went through the links:", sent, run.text())
        time.sleep(draw.uniform(0, 1))
        expect(not run.ended(), "it had ended before the cut:", run.text())
        hosts.cut_off(lost, silent)
        seconds = until(run.ended, IN_TIME, "the launcher's end", run)
        for host in (1, 2, 3):
            until(lambda host=host: not hosts.processes(host), IN_TIME, f"the end of all on host {host}", run)
        expect(run.process.returncode not in (0, None), "the exit status is", run.process.returncode)
        lines = [line for line in run.text().splitlines() if line.startswith("minires: ")]
        expect(len(lines) == 1 and "Traceback" not in run.text(), "not one line:", run.text())
        missing = [lost] if lost != 1 else [2, 3]  # on the launcher's own host the others are lost
        for host in missing:
            expect(f"rank {host - 1} of 3 on host{host} (not heard of for" in lines[0], lines[0])
        expect(lines[0].count("not heard of") == len(missing) and "--resume" in lines[0], lines[0])

        left = [host for host in (1, 2, 3) if host != lost]
        again = Run(hosts, left, Path(folder, "again.txt"), "--resume", out)
        until(again.ended, START, "--resume on those left", again)
        expect(again.process.returncode == 0, "--resume:", again.text())
        history = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
        expect([row["epoch"] for row in history] == list(range(1, EPOCHS + 1)), "epochs", history)
        expect(history[-1]["test_accuracy"] == 1, "it learned", history[-1])
    return seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=1, help="of each (default: 1)")
    parser.add_argument("--host", type=int, choices=(1, 2, 3), help="the one to lose (default: each in turn)")
    parser.add_argument("--cut", choices=("silent", "open"), help="default: both")
    parser.add_argument("--seed", type=int, default=0, help="of the instants (default: 0)")
    args = parser.parse_args()
    if reason := reason_against():
        print(f"not tried: {reason}", file=sys.stderr)
        return LEFT_OUT
    draw, failures = random.Random(args.seed), []
    print("| cut | host | tries | failed | s to the end |\n| --- | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as work:
        write_signs(Path(work, "data"), TRAIN, TEST)
        for kind in [args.cut] if args.cut else ("silent", "open"):
            for host in [args.host] if args.host else (3, 2, 1):
                took, before = [], len(failures)
                for number in range(args.tries):
                    try:
                        took.append(cut(Path(work), host, kind == "silent", draw))
                    except Exception as failure:
                        failures.append(f"{kind}, host {host}, try {number + 1}: {failure!r}")
                longest = f"{max(took):.1f}" if took else ""
                print(f"| {kind} | {host} | {args.tries} | {len(failures) - before} | {longest} |", flush=True)
    print(*failures, sep="\n", file=sys.stderr)
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
