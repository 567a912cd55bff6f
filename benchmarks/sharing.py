"""A training step where the cores are not all ours: beside a program that keeps one busy, and under a cgroup's quota.

    python -m minires.benchmarks.sharing            # ResNet-20, batch 32; as root also with a quota of 1.5 cores

Each number is the median of several turns in a process of its own, for one thread, for all that minires would take, and
in between. Threads that wait for one another spin, then give way, then sleep (fast/cpu/module.c): they must not
make things much worse than a single thread where there is one core less than they think.
"""

import os
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path

from minires.fast.cores import usable_cores

TURNS, STEPS = 6, 10
QUOTA = 1.5


def step() -> None:
    """In a process of its own: prints the milliseconds of a step, turn by turn."""
    import numpy as np

    from minires.fast.step import make_step
    from minires.nn import resnet
    from minires.optim import Adam

    rng, model = np.random.default_rng(0), resnet("resnet20", (32, 32, 3), 6).train()
    x, labels = rng.standard_normal((32, 32, 32, 3)).astype(np.float32), rng.integers(0, 6, 32)
    with make_step(model, Adam(model.params())) as train:
        for turn in range(TURNS + 1):
            start = time.perf_counter()
            for _ in range(STEPS):
                train(x, labels, 1e-4)
            if turn:  # the first one warms up
                print(1000 * (time.perf_counter() - start) / STEPS)


def measured(threads, before=None) -> float:
    """Milliseconds of a step by so many threads (None: as minires likes); before: what the process does first."""
    setting = {} if threads is None else {"MINIRES_THREADS": str(threads)}
    command = [sys.executable, "-m", "minires.benchmarks.sharing", "step"]
    done = subprocess.run(
        command, env=os.environ | setting, preexec_fn=before, capture_output=True, text=True, check=True
    )
    return statistics.median(map(float, done.stdout.split()))


@contextmanager
def busy_neighbour():
    """Inside, another program keeps one core busy."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as neighbour:
        try:
            yield
        finally:
            neighbour.kill()


def quota_group() -> Path | None:
    """A cgroup of the CPU controller with a quota of QUOTA cores, where we may make one."""
    for root, limit in (("/sys/fs/cgroup", "cpu.max"), ("/sys/fs/cgroup/cpu", "cpu.cfs_quota_us")):
        group = Path(root, "minires-sharing")
        try:
            if not (Path(root) / "cgroup.procs").exists():  # a folder that only holds the controllers
                continue
            group.mkdir(exist_ok=True)
            (group / limit).write_text(f"{int(QUOTA * 100_000)}" + " 100000" * (limit == "cpu.max"))
            return group
        except OSError:
            continue
    return None


def main() -> int:
    most = usable_cores()
    counts = [*dict.fromkeys((1, max(1, most // 2), most)), None]
    print("threads", *("as minires likes" if n is None else n for n in counts), sep="\t")
    for name, around in (("alone", nullcontext), ("beside a busy program", busy_neighbour)):
        with around():
            print(name, *(f"{measured(n):.0f} ms" for n in counts), sep="\t")
    group = quota_group()
    if group is None:
        print(f"a quota of {QUOTA} cores: needs root and Linux's cgroups")
        return 0

    def enter():
        (group / "cgroup.procs").write_text(str(os.getpid()))

    print(f"a quota of {QUOTA} cores", *(f"{measured(n, enter):.0f} ms" for n in counts), sep="\t")
    group.rmdir()
    return 0


if __name__ == "__main__":
    sys.exit(step() if sys.argv[1:] == ["step"] else main())
