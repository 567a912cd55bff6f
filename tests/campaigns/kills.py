"""Kill runs, stop them, fill their disk, take it away, start two at once: is anything lost, or wrong in silence?

    python tests/campaigns/kills.py --kills 200 --stops 40 --full 20 --readonly 20 --together 10 > kills.md

Each try ends in time, with one line and the right exit status; `--resume` or `report` then completes the run; its
weights equal those of a run that nothing happened to, to the bit, best.h5, history, manifest and report are complete,
and nothing else is left in the folder. The disk is slow (tests/support/slowed.py), so that kills hit saves and reports.
The exit status is 1 where a try failed. What needs root (a small disk, a folder that refuses) is left out without.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from slowed import Commands
from stripes import TEST, TRAIN

from minires.data import write_signs
from minires.instruments.watch import read_film

IN_TIME = 60  # seconds from a blow to the end of the process, on a busy machine
FILES = {"best.h5", "history.csv", "history.jsonl", "manifest.json", "model.h5", "pictures", "predictions.h5"}
FILES |= {"report.html", "watch.h5"}
SAME = ("train_loss", "train_accuracy", "test_loss", "test_accuracy", "lr", "grad_norm")
TOGETHER = """
import hashlib, os, sys, threading
sys.path.insert(0, {support!r})
from stripes import RECIPE, TEST, TRAIN, classifier
from minires.errors import CheckpointError
from minires.train import fit

def train(seed, folder=None):
    c = classifier(seed)
    try:
        fit(c, TRAIN, TEST, RECIPE, out=folder)
    except CheckpointError as error:
        print("refused:", error, flush=True)
    else:
        print(seed, hashlib.sha256(b"".join(a.tobytes() for a in c.model.state().values())).hexdigest(), flush=True)

def threads(*jobs):
    for thread in [threading.Thread(target=train, args=job) for job in jobs]:
        thread.start()

def child(*job):
    if pid := os.fork():
        return pid
    train(*job)
    os._exit(0)

{body}
"""


CHILD = "pid = child(2, OUT + '2'); train(1, OUT + '1'); os.waitpid(pid, 0)"
CHILD_THERE = """
from minires.train import folder
with folder.locked(OUT):
    os.waitpid(child(2, OUT), 0)
    train(1, OUT)
"""


class Failed(Exception):
    """A promise that a try broke."""


def expect(condition, *what):
    if not condition:
        raise Failed(" ".join(map(str, what)))


def numbers(path: Path) -> dict:
    """Every array of a checkpoint, and its progress."""
    with h5py.File(path, "r") as file:
        progress = json.loads(file.attrs["minires"])["training"]["progress"]
        arrays = {f"{group}/{name}": a[()] for group in ("weights", "optimizer") for name, a in file[group].items()}
    return arrays | {key: np.array(progress[key]) for key in ("epoch", "batch", "best_epoch", "best_loss")}


class Campaign:
    """A folder to work in, the run that nothing happened to, and what was found."""

    def __init__(self, work: Path, commands: Commands, seed: int, slow: float):
        self.work, self.commands, self.random, self.slow = work, commands, random.Random(seed), slow
        self.count, self.rows, self.failures = 0, {}, []
        write_signs(work / "data", TRAIN, TEST)
        self.whole = self.untouched(0)
        began = time.monotonic()
        self.untouched(0, again="slow", slow=slow)
        self.lasts = time.monotonic() - began

    def options(self, seed=0):
        options = ["--data", self.work / "data", "--arch", "resnet8", "--size", 8, "--epochs", 3, "--batch-size", 16]
        return [*options, "--device", "cpu", "--seed", seed, "--log", "csv", "--watch", 2]

    def untouched(self, seed, again="", slow=0.0) -> Path:
        out = self.work / f"whole{seed}{again}"
        if not out.exists():
            said = self.work / "whole.txt"
            status = self.commands.run("train", *self.options(seed), "--out", out, slow=slow, said=said)
            expect(status == 0, "the run that nothing happens to:", status, said.read_text())
        return out

    def start(self, *arguments, commands=None, **options) -> int:
        self.count += 1
        self.said = self.work / f"{self.count}.txt"
        return (commands or self.commands).start(*arguments, slow=self.slow, seed=self.count, said=self.said, **options)

    def run(self, *arguments, **options) -> int:
        self.start(*arguments, **options)
        return self.ended()

    def ended(self, commands=None) -> int:
        """The exit status; the process is killed, and the try failed, where it does not come in time."""
        began = time.monotonic()
        status = (commands or self.commands).status()
        expect(time.monotonic() - began < IN_TIME, "took", time.monotonic() - began, "s to end")
        expect("Traceback" not in self.text(), "a traceback:", self.text())
        return status

    def text(self) -> str:
        return self.said.read_text()

    def one_line(self, start: str, *pieces):
        lines = [line for line in self.text().splitlines() if line.startswith(start)]
        expect(len(lines) == 1, "not one line that starts with", start, "in", self.text())
        for piece in pieces:
            expect(piece in lines[0], piece, "is not in", lines[0])

    def complete(self, out: Path, seed=0):
        """Let the run be completed, and compare it with the one that nothing happened to."""
        whole = self.untouched(seed)
        if not (out / "model.h5").exists():  # nothing was saved yet
            if (out / "manifest.json").exists():
                expect(self.run("train", "--resume", out, "--device", "cpu") == 2, "--resume of nothing")
                self.one_line("minires: ", "nothing was saved")
            again = ["train", *self.options(seed), "--out", out]
        else:
            finished = numbers(out / "model.h5")["epoch"] == 3
            again = ["report" if finished and self.random.random() < 0.5 else "train --resume", out, "--device", "cpu"]
            again = [*again[0].split(), *again[1:]]
        expect(self.run(*again) == 0, *again, "failed:", self.text())
        self.same(out, whole)

    def same(self, out, whole):
        expect({p.name for p in out.iterdir()} == FILES, "files:", sorted(p.name for p in out.iterdir()))
        ours, theirs = (sorted(p.name for p in (folder / "pictures").iterdir()) for folder in (out, whole))
        expect(ours == theirs, "pictures:", ours)
        for name in ("model.h5", "best.h5"):
            ours, theirs = numbers(out / name), numbers(whole / name)
            expect(ours.keys() == theirs.keys(), name, "holds other arrays")
            for key, array in theirs.items():
                expect(np.array_equal(ours[key], array), name, key, "differs")
        ours, theirs = ([json.loads(r) for r in (f / "history.jsonl").read_text().splitlines()] for f in (out, whole))
        expect([[r[k] for k in SAME] for r in ours] == [[r[k] for k in SAME] for r in theirs], "the history differs")
        epochs = [row.split(",")[0] for row in (out / "history.csv").read_text().splitlines()]
        expect(epochs == ["epoch", "1", "2", "3"], "history.csv has the epochs", epochs)
        ours, theirs = (read_film(folder) for folder in (out, whole))
        expect(np.array_equal(ours.steps, theirs.steps), "watched steps:", ours.steps)
        for name, values in theirs.values.items():
            expect(np.array_equal(ours.values[name], values, equal_nan=True), "watched", name, "differs")
        ours, theirs = (json.loads((folder / "manifest.json").read_text()) for folder in (out, whole))
        expect(ours.get("result") == theirs["result"] and ours["seed"] == theirs["seed"], "the manifest differs")
        expect("</html>" in (out / "report.html").read_text(), "half a report")

    def one_try(self, kind, do):
        """Do it once and note what came of it."""
        row = self.rows.setdefault(kind, Counter())
        try:
            row["tries"] += 1
            row[do()] += 1
        except Exception as failure:
            row["FAILED"] += 1
            self.failures.append(f"{kind}, try {row['tries']}: {failure!r}")

    # --- the blows --------------------------------------------------------------------------------------------------

    def place(self) -> str:
        """What is on the disk when the blow falls."""
        text = self.text()
        for sign, name in (("report: ", "at the end"), ("epoch 3/3", "last save, report"), ("epoch 1/3", "training")):
            if sign in text:
                return name
        return "before the first epoch"

    def kill(self, *signals):
        out = self.work / f"kill{self.count}"
        pid = self.start("train", *self.options(), "--out", out)
        time.sleep(self.random.uniform(0.1, 1.0) * self.lasts)
        place = self.place()
        for number in signals:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
            time.sleep(self.random.uniform(0, 0.1) * (len(signals) > 1))
        status = self.ended()
        wanted = -signals[0] if signals[0] == signal.SIGKILL else 128 + signals[0]
        if "report: " not in self.text():  # else it had come to its end
            expect(status == wanted, "exit status", status, "after", signals, self.text())
            if signals[0] != signal.SIGKILL:
                self.one_line("stopped")
        self.complete(out)
        return place

    def stop(self):
        """Stopped and continued; meanwhile another training asks for the folder."""
        out = self.work / f"stop{self.count}"
        pid = self.start("train", *self.options(), "--out", out, "--stall", 0.5)
        said, place = self.said, "before the lock"
        time.sleep(self.random.uniform(0.05, 0.9) * self.lasts)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
        time.sleep(0.05)
        if (out / "run.lock").exists() and (out / "run.lock").read_text():
            place = self.place()
            with Commands() as others:
                self.start("train", *self.options(5), "--out", out, commands=others)
                expect(self.ended(others) == 2, "a second training was let in", self.text())
            self.one_line("minires: ", f"process {pid}", "stopped", f"kill -CONT {pid}")
        time.sleep(self.random.uniform(0, 1))
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
        self.said = said
        expect(self.ended() == 0, "a run that was stopped and continued:", self.text())
        self.same(out, self.whole)
        return place

    def full(self):
        """A disk that is full at some time, and then has room again."""
        disk = self.work / f"full{self.count}"
        disk.mkdir()
        size = self.random.randrange(200_000, 3_000_000)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", disk], check=True)
        try:
            status = self.run("train", *self.options(), "--out", disk / "run")
            place = self.place()
            if status == 0:
                place = "it had room"
            else:
                expect(status in (1, 2), "exit status", status)
                self.one_line("minires: ", "No space left")
            subprocess.run(["mount", "-o", "remount,size=50m", disk], check=True)
            self.complete(disk / "run")
        finally:
            subprocess.run(["umount", disk], check=True)
        return place

    def too_large(self):
        """No file may grow beyond a limit (ulimit -f)."""
        out = self.work / f"large{self.count}"
        most = self.random.randrange(10**5, 9 * 10**5)
        expect(self.run("train", *self.options(), "--out", out, most_bytes=most) in (1, 2), "exit status", self.text())
        self.one_line("minires: ", "File too large")
        self.complete(out)
        return "before the first epoch"

    def readonly(self):
        """A folder in which, from some time on, nothing may be made, renamed or removed."""
        out = self.work / f"readonly{self.count}"
        if self.random.random() < 0.3:
            out.mkdir()
            pid, place = None, "from the start"
        else:
            pid = self.start("train", *self.options(), "--out", out)
            time.sleep(self.random.uniform(0.1, 0.9) * self.lasts)
            place = self.place() if out.exists() else "from the start"
            out.mkdir(exist_ok=True)
        subprocess.run(["chattr", "+i", out], check=True)
        try:
            status = self.ended() if pid else self.run("train", *self.options(), "--out", out)
            if status == 0:
                place = "at the end"
            else:
                expect(status in (1, 2), "exit status", status, self.text())
                self.one_line("minires: ", "Operation not permitted")
            if (out / "model.h5").exists():
                expect(self.run("train", "--resume", out, "--device", "cpu") in (1, 2), "resume in a read-only place")
                self.one_line("minires: ", "Operation not permitted")
        finally:
            subprocess.run(["chattr", "-i", out], check=True)
        self.complete(out)
        return place

    def two_processes(self):
        """Two trainings of different seeds into one folder, at once."""
        out = self.work / f"two{self.count}"
        with Commands() as others:
            self.start("train", *self.options(0), "--out", out)
            first = self.said
            time.sleep(self.random.choice((0, 0, self.random.random() * self.lasts)))
            self.start("train", *self.options(5), "--out", out, commands=others)
            statuses = self.ended(others), self.ended()
        second = self.said
        expect(sorted(statuses) == [0, 2], "exit statuses", statuses, first.read_text(), second.read_text())
        self.said = first if statuses[1] else second
        self.one_line("minires: ", str(out))
        words = ("trains in it", "has just begun", "already holds")
        expect(any(word in self.text() for word in words), self.text())
        seed = 0 if statuses[1] == 0 else 5
        self.same(out, self.untouched(seed))
        return f"seed {seed} trained"

    def together(self, body, refused=""):
        """Trainings at once of one process and its threads or children."""
        out = self.work / f"together{self.count}"
        support = str(Path(__file__).resolve().parents[1] / "support")
        alone = "for seed in (1, 2): train(seed)"
        for code in (alone, body.replace("OUT", repr(str(out)))):
            expect(self.run(code=TOGETHER.format(support=support, body=code)) == 0, self.text())
            if code == alone:
                right = set(self.text().splitlines())
        lines = self.text().splitlines()
        trained = {line for line in lines if not line.startswith("refused")}
        expect(trained <= right and len(trained) == (1 if refused else 2), "other weights than alone:", self.text())
        if refused:
            self.one_line("refused: ", refused)
        return "one refused" if refused else "as alone"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("kills", "stops", "full", "readonly", "together"):
        parser.add_argument(f"--{name}", type=int, default=0, metavar="TRIES")
    parser.add_argument("--seed", type=int, default=0, help="of the instants (default: 0)")
    parser.add_argument("--slow", type=float, default=0.1, help="seconds for each access of the disk, at most")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work, Commands() as commands:
        c = Campaign(Path(work), commands, args.seed, args.slow)
        needs = {"a full disk": can_mount, "a folder that refuses": can_refuse}
        left_out = [name for name, possible in needs.items() if not possible(c.work)]
        blows = {"SIGKILL": ["SIGKILL"], "Ctrl-C": ["SIGINT"], "SIGTERM": ["SIGTERM"], "Ctrl-C twice": ["SIGINT"] * 2}
        for i in range(args.kills):
            kind = list(blows)[i % len(blows)]
            c.one_try(kind, lambda kind=kind: c.kill(*(signal.Signals[name] for name in blows[kind])))
        for _ in range(args.stops):
            c.one_try("SIGSTOP, SIGCONT", c.stop)
        for i in range(args.full):
            if i % 4 == 3 or "a full disk" in left_out:
                c.one_try("a file too large", c.too_large)
            else:
                c.one_try("a full disk", c.full)
        if "a folder that refuses" not in left_out:
            for _ in range(args.readonly):
                c.one_try("a folder that refuses", c.readonly)
        for _ in range(args.together):
            c.one_try("two processes, one folder", c.two_processes)
            c.one_try("two threads", lambda: c.together("threads((1, OUT + '1'), (2, OUT + '2'))"))
            c.one_try("two threads, one folder", lambda: c.together("threads((1, OUT), (1, OUT))", "of this process"))
            c.one_try("a process and its child", lambda: c.together(CHILD))
            c.one_try("a process and its child, one folder", lambda: c.together(CHILD_THERE, "trains in it"))
    print("| blow | tries | failed | where it fell, or what came of it |\n| --- | ---: | ---: | --- |")
    for kind, row in c.rows.items():
        what = ", ".join(f"{name}: {count}" for name, count in sorted(row.items()) if name not in ("tries", "FAILED"))
        print(f"| {kind} | {row['tries']} | {row['FAILED']} | {what} |")
    if left_out:
        print(f"left out, as it takes root: {' and '.join(left_out)}")
    for failure in c.failures:
        print(failure, file=sys.stderr)
    return bool(c.failures)


def can_refuse(folder) -> bool:
    place = folder / "refuses"
    place.mkdir(exist_ok=True)
    if not shutil.which("chattr") or subprocess.run(["chattr", "+i", place], capture_output=True).returncode:
        return False
    subprocess.run(["chattr", "-i", place], check=True)
    return True


def can_mount(folder) -> bool:
    place = folder / "mount"
    place.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=100k", "none", place]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        return False
    subprocess.run(["umount", place], check=True)
    return True


if __name__ == "__main__":
    sys.exit(main())
