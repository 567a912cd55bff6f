"""How many workers should share a loop: the cores that this process was given, and that are worth using.

What the machine has (`nproc`) is often the wrong number. A cgroup's quota stops all workers once it is spent; two
hyperthreads of one core share its multipliers; and where loops are divided evenly, one slow core holds up every fast
one. A file that is missing, or not in the format that its documentation gives, limits nothing.
"""

import ctypes
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from minires.errors import ConfigError

Bound = tuple[int, str]  # so many workers at most, and why


_sharing = 1  # ranks on this host that a quota has to do for


def share_host(ranks: int) -> None:
    """So many ranks share this host's quota from now on; the cores of each are in its affinity mask."""
    global _sharing
    _sharing = ranks


def usable_cores(root: str | os.PathLike = "/") -> int:
    """How many workers a loop should have, at least one. root: where /proc and /sys are.

    Ask before threads are pinned: a pinned one sees its own core only.
    """
    return explain_cores(root)[0]


def explain_cores(root: str | os.PathLike = "/") -> Bound:
    """usable_cores(), and why in words: "2 of 8 CPUs: a cgroup's quota of 1.5 CPUs", where each hyperthread is a CPU.

    MINIRES_THREADS, else OMP_NUM_THREADS, takes the place of what is guessed from the processor, but not of what the
    process was given, beyond which workers only wait for each other. ConfigError where it is no number of workers.
    """
    root, total = Path(root), os.cpu_count() or 1
    mask = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(total))
    place = "of the machine" if len(mask) == total else "in the affinity mask"
    given = [*_quota(root), (len(mask), f"all {place}")]
    # Without its affinity plugin, Slurm's promise to each task (srun(1)) is not in the mask: all would take every core.
    if tasks := _whole(os.environ.get("SLURM_CPUS_PER_TASK", "")):
        given.append((tasks, f"SLURM_CPUS_PER_TASK={tasks}"))
    asked = _setting()
    bounds = [asked, *given] if asked else [*given, _processor(root, mask, place)]
    count, why = min(bounds, key=lambda bound: bound[0])  # of equals, the first
    return count, f"{count} of {total} CPUs: {why}"


def _setting() -> Bound | None:
    """What the environment asks for. OMP_NUM_THREADS may be a list, a number a nesting level (OpenMP 4.5, 4.2)."""
    for name in ("MINIRES_THREADS", "OMP_NUM_THREADS"):
        if text := os.environ.get(name, "").strip():
            count = _whole(text.split(",")[0] if name == "OMP_NUM_THREADS" else text)
            if not count:
                raise ConfigError(
                    f"{name}: expected a whole number of threads, 1 or more, got {text!r}: change or unset it"
                )
            return count, f"{name}={text}"
    return None


def _quota(root: Path) -> Iterator[Bound]:
    """The least share of CPU time that a cgroup allows, this process's own or one above it; nothing without a limit.

    v2: cpu.max, "$MAX $PERIOD" (admin-guide/cgroup-v2, CPU Interface Files); v1: cpu.cfs_quota_us over
    cpu.cfs_period_us (scheduler/sched-bwc, Management). No limit is "max" there and -1 here.
    """
    quotas = []
    for folder in _cgroups(root):
        text = _read(folder / "cpu.max") or _read(folder / "cpu.cfs_quota_us") + _read(folder / "cpu.cfs_period_us")
        numbers = [_whole(word) for word in text.split()]
        if len(numbers) == 2 and all(numbers):
            quotas.append(numbers[0] / numbers[1])
    if quotas:
        # To the nearest. A stop costs no work, for the quota is spent all the same; but workers that spin while one of
        # them works alone spend it too. Two cores, two workers over one, with 0, 10 and 30 % of the work serial: 1.43,
        # 1.30 and 1.07 times as fast under 1.5 CPUs; under 1.25, 1.0 to 1.2, 1.07 and 0.96, not worth being stopped.
        share = f" among {_sharing} ranks" if _sharing > 1 else ""
        yield max(1, int(min(quotas) / _sharing + 0.5)), f"a cgroup's quota of {min(quotas):.3g} CPUs{share}"


def _cgroups(root: Path) -> Iterator[Path]:
    """The folders of the process's cgroups, each hierarchy that can have a quota from its mount's root downwards.

    /proc/self/cgroup has "ID:controllers:path" a line, without controllers for v2 (cgroups(7)); /proc/self/mountinfo
    tells which path is mounted where: fields 4 and 5, and after a dash type, source, options (proc_pid_mountinfo(5)).
    """
    groups = re.findall(r"^\d+:([^:\n]*):(/.*)$", _read(root / "proc/self/cgroup"), re.M)
    paths = {name: PurePosixPath(path) for names, path in groups for name in names.split(",")}
    mounts = r"^\d+ \d+ \S+ (\S+) (\S+) .*- (cgroup2?) \S+ (\S+)$"
    for *places, kind, options in re.findall(mounts, _read(root / "proc/self/mountinfo"), re.M):
        name = "" if kind == "cgroup2" else "cpu"
        if name not in paths or name not in ["", *options.split(",")]:
            continue
        top, point = (re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), place) for place in places)
        path = paths[name]
        # a path outside of the mount comes from another namespace: the mount's root is then all that one sees
        inside = path.relative_to(top).parts if path.is_relative_to(top) and ".." not in path.parts else ()
        for depth in range(len(inside) + 1):
            yield root.joinpath(point.lstrip("/"), *inside[:depth])


def _processor(root: Path, mask: set[int], place: str) -> Bound:
    """A worker for each core, of those that do most together when all keep the pace of the slowest."""
    if sys.platform == "darwin":  # Apple's "Determining system capabilities": level 0 is the fastest
        count = _sysctl("hw.perflevel0.physicalcpu") or _sysctl("hw.physicalcpu") or len(mask)
        return count, "one for each performance core"
    cpus = root / "sys/devices/system/cpu"
    # Intel's hybrids list their performance cores (tools/perf/Documentation/intel-hybrid.txt) ...
    fast = _listed(_read(root / "sys/devices/cpu_core/cpus"), mask) or mask
    # ... every kernel lists the CPUs of a core under this name (ABI/stable/sysfs-devices-system-cpu) ...
    siblings = {cpu: _listed(_read(cpus / f"cpu{cpu}/topology/thread_siblings_list"), fast) for cpu in fast}
    cores = {min(siblings[cpu] | {cpu}) for cpu in fast}
    # ... and ARM and RISC-V tell each one's speed, in proportion (scheduler/sched-capacity, 1.1)
    speeds = sorted((_whole(_read(cpus / f"cpu{core}/cpu_capacity")) for core in cores), reverse=True)
    count = max(range(1, len(cores) + 1), key=lambda n: n * speeds[n - 1]) if all(speeds) else len(cores)
    kind = "fast core" if count < len(cores) or fast < mask else "core"
    return count, f"one for each {kind} {place}"


def _sysctl(name: str) -> int:
    """A number of macOS's kernel (sysctlbyname(3)), 0 where it has none of that name."""
    value, size = ctypes.c_int64(0), ctypes.c_size_t(8)
    failed = ctypes.CDLL(None).sysctlbyname(name.encode(), ctypes.byref(value), ctypes.byref(size), None, 0)
    return 0 if failed else value.value


def _listed(text: str, mask: set[int]) -> set[int]:
    """Those CPUs of `mask` that a list such as "0-3,8" names (admin-guide/cputopology)."""
    if not re.fullmatch(r"[0-9]{1,9}(-[0-9]{1,9})?(,[0-9]{1,9}(-[0-9]{1,9})?)*\s*", text):
        return set()
    spans = [[int(end) for end in part.split("-")] for part in text.split(",")]
    return {cpu for cpu in mask if any(span[0] <= cpu <= span[-1] for span in spans)}


def _whole(text: str) -> int:
    """The number of 1 or more that `text` is, else 0."""
    return int(text) if re.fullmatch(r"\s*[0-9]{1,12}\s*", text) else 0


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "surrogateescape")
    except (OSError, ValueError):  # not there, not ours to read, or no name at all
        return ""
