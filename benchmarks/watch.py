"""What a number needs beside it: the machine, the versions, the command, and what else the machine did meanwhile."""

import os
import platform
import shlex
import sys
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from minires.benchmarks import isa

PACKAGES = ("minires", "numpy", "torch", "tensorflow", "tensorflow-cpu", "keras", "onnxruntime")
PACKAGES += ("cupy-cuda12x", "cupy-cuda13x")
BUSY, STOLEN = 0.1, 0.02  # shares of a core, taken by other processes and by the host, above which a run is contended


class Load:
    """What the machine did while it was watched; shares are of one core, None where it is not told."""

    others = steal = None
    own = 0.0
    load_before = load_after = None

    def warning(self) -> str:
        """A sentence when the timings are not to be trusted, else nothing."""
        parts = []
        if self.others is not None and self.others > BUSY:
            parts.append(f"other processes used {self.others:.0%} of a core")
        if self.steal is not None and self.steal > STOLEN:
            parts.append(f"the host took away {self.steal:.0%} of a core")
        return f"Contended: {' and '.join(parts)}; run again on a quiet machine." if parts else ""

    def as_dict(self) -> dict:
        """For a record."""
        averages = [self.load_before, self.load_after]
        return {"others_share": self.others, "steal_share": self.steal, "load_average": averages}


def _cpu_ticks():
    """(busy, stolen) seconds of all cores since boot, or None."""
    path = Path("/proc/stat")
    if not path.exists():
        return None
    # work of a lower priority gives way and does not count
    user, _nice, system, _idle, _wait, irq, softirq, steal = map(int, path.read_text().split("\n")[0].split()[1:9])
    tick = os.sysconf("SC_CLK_TCK")
    return (user + system + irq + softirq) / tick, steal / tick


@contextmanager
def contention():
    """Watch the machine; the body sets `own`, the CPU seconds that the contenders used."""
    load = Load()
    load.load_before = os.getloadavg()[0]
    before, began, here = _cpu_ticks(), time.perf_counter(), time.process_time()
    yield load
    wall, after = time.perf_counter() - began, _cpu_ticks()
    load.load_after = os.getloadavg()[0]
    if before and after:
        own = load.own + time.process_time() - here
        load.others = max(0.0, after[0] - before[0] - own) / wall
        load.steal = (after[1] - before[1]) / wall


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def command() -> str:
    """This command line, as one would type it in the checkout."""
    script = Path(sys.argv[0])
    if script.suffix == ".py":
        return shlex.join(["python", f"{script.parent.name}/{script.name}", *sys.argv[1:]])
    return shlex.join(["minires", *sys.argv[1:]])


def machine(threads=None) -> dict:
    """What a number needs beside it to mean something."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command(),
        "cpu": _cpu_model(),
        "flags": isa.flags(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": threads,
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
    }


def print_machine(facts: dict) -> None:
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    print(f"{facts['date']}  {facts['cpu']}, {facts['cores']} cores, threads: {facts['threads'] or 'default'}")
    print(f"Python {facts['python']}, {versions}\n{facts['command']}\n")
