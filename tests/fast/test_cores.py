"""How many workers: each thing that can say "fewer", on machines made of files."""

import ctypes
import os
import types

import pytest

from minires.errors import ConfigError, MiniresError
from minires.fast import cores

V2 = "31 23 0:28 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:4 - cgroup cgroup rw,cpu,cpuacct\n"
    "33 31 0:30 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A function that builds a machine of `cpus` CPUs from a table of files, and asks about it."""
    for name in ("MINIRES_THREADS", "OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cores.sys, "platform", "linux")

    def ask(files=None, cpus=8, mask=None, **environment):
        mask = set(range(cpus)) if mask is None else mask
        monkeypatch.setattr(os, "cpu_count", lambda: cpus)
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(mask), raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        for name, text in (files or {}).items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
        count, why = cores.explain_cores(tmp_path)
        assert cores.usable_cores(tmp_path) == count
        assert why.startswith(f"{count} of {cpus} CPUs: ")
        return count, why.split(": ", 1)[1]

    return ask


def cpu(number, **files):
    """The files of one CPU: siblings="0,4", capacity=1024."""
    names = {"siblings": "topology/thread_siblings_list", "capacity": "cpu_capacity"}
    return {f"sys/devices/system/cpu/cpu{number}/{names[name]}": f"{text}\n" for name, text in files.items()}


def group(mountinfo, cgroup, **quotas):
    """The files of a process in `cgroup`, and of quotas by folder."""
    return {"proc/self/mountinfo": mountinfo, "proc/self/cgroup": cgroup, **quotas}


def v1(folder, quota, period="100000"):
    base = f"sys/fs/cgroup/cpu,cpuacct/{folder}"
    return {f"{base}/cpu.cfs_quota_us": f"{quota}\n", f"{base}/cpu.cfs_period_us": f"{period}\n"}


def test_here():
    count, why = cores.explain_cores()
    assert 1 <= count <= os.cpu_count()
    assert why.startswith(f"{count} of {os.cpu_count()} CPUs: ")


def test_nothing_said(machine):
    assert machine() == (8, "all of the machine")


def test_a_system_without_masks(machine, monkeypatch, tmp_path):
    machine()
    monkeypatch.delattr(os, "sched_getaffinity")
    assert cores.usable_cores(tmp_path) == 8
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores.usable_cores(tmp_path) == 1


def test_affinity_mask(machine):
    assert machine(mask={2, 5, 7}) == (3, "all in the affinity mask")


# --- settings


def test_settings(machine):
    assert machine(OMP_NUM_THREADS="3") == (3, "OMP_NUM_THREADS=3")
    assert machine(OMP_NUM_THREADS=" 4 ,2") == (4, "OMP_NUM_THREADS=4 ,2")
    assert machine(MINIRES_THREADS="2") == (2, "MINIRES_THREADS=2")
    assert machine(MINIRES_THREADS="") == (4, "OMP_NUM_THREADS=4 ,2")


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "2,1", "1_0", "²", "2\n3", "9" * 5000])
def test_bad_setting(machine, value):
    with pytest.raises(
        ConfigError, match=r"^MINIRES_THREADS: expected a whole number of threads, 1 or more, got "
    ) as error:
        machine(MINIRES_THREADS=value, OMP_NUM_THREADS="2")
    assert repr(value)[:20] in str(error.value)
    assert "\n" not in str(error.value)
    assert isinstance(error.value, MiniresError)


@pytest.mark.parametrize("value", ["0,4", ",4", "all"])
def test_bad_openmp_setting(machine, value):
    with pytest.raises(ConfigError, match=r"^OMP_NUM_THREADS: "):
        machine(OMP_NUM_THREADS=value)
    assert machine(MINIRES_THREADS="1") == (1, "MINIRES_THREADS=1")  # and the other one is not even read


def test_a_setting_replaces_guesses_but_not_what_was_given(machine):
    pairs = cpu(0, siblings="0-1") | cpu(1, siblings="0-1") | cpu(2, siblings="2-3") | cpu(3, siblings="2-3")
    assert machine(pairs, cpus=4)[0] == 2
    assert machine(pairs, cpus=4, MINIRES_THREADS="4") == (4, "MINIRES_THREADS=4")
    assert machine(pairs, cpus=4, MINIRES_THREADS="9") == (4, "all of the machine")
    assert machine(pairs, cpus=4, mask={0, 2, 3}) == (3, "all in the affinity mask")


def test_slurm(machine):
    assert machine(SLURM_CPUS_PER_TASK="4") == (4, "SLURM_CPUS_PER_TASK=4")
    assert machine(SLURM_CPUS_PER_TASK="64")[0] == 8
    assert machine(SLURM_CPUS_PER_TASK="many")[0] == 8
    assert machine(SLURM_CPUS_PER_TASK="4", MINIRES_THREADS="3")[0] == 3


# --- quotas


@pytest.mark.parametrize(
    ("own", "above", "root", "count"),
    [
        ("300000 100000", "max 100000", None, 3),
        ("max 100000", "max 100000", None, 8),
        ("400000 100000", "100000 50000", None, 2),  # the one above is the least
        ("400000 100000", "max 100000", "240000 100000", 2),  # in a container, the namespace's root has one too
        ("1000000 100000", "max 100000", None, 8),  # more than there is
        ("150000 100000", "max 100000", None, 2),  # to the nearest
        ("149000 100000", "max 100000", None, 1),
        ("10000 100000", "max 100000", None, 1),  # and at least one
        (None, "300000 100000", None, 3),  # the controller is not enabled for the lowest
    ],
)
def test_v2_quotas(machine, own, above, root, count):
    folders = {"user.slice/job.scope": own, "user.slice": above, "": root}
    files = {f"sys/fs/cgroup/{folder}/cpu.max": f"{text}\n" for folder, text in folders.items() if text}
    files["sys/fs/cgroup/other.slice/cpu.max"] = "100000 100000\n"  # not ours
    files["sys/fs/cgroup/user.slice/job.scope/below/cpu.max"] = "100000 100000\n"
    assert machine(group(V2, "0::/user.slice/job.scope\n", **files))[0] == count


def test_the_quota_is_told(machine):
    files = group(V2, "0::/\n", **{"sys/fs/cgroup/cpu.max": "150000 100000\n"})
    assert machine(files) == (2, "a cgroup's quota of 1.5 CPUs")
    assert machine(files, cpus=2) == (2, "a cgroup's quota of 1.5 CPUs")  # before "all", since it says more


def test_v1_quotas(machine):
    lines = "9:name=systemd:/elsewhere\n4:memory:/small\n3:cpuset,cpu,cpuacct:/job/task:1\n0::/\n"
    small = {f"sys/fs/cgroup/memory/job/{n}": "100000\n" for n in ("cpu.cfs_quota_us", "cpu.cfs_period_us")}
    files = group(V1 + V2, lines, **v1("job/task:1", -1), **v1("job", 200000, 50000), **v1("", -1), **small)
    assert machine(files) == (4, "a cgroup's quota of 4 CPUs")
    assert machine(v1("job/task:1", 300000))[0] == 3


def test_v1_mounted_from_inside(machine):
    """A container without a cgroup namespace sees the host's path, and its own cgroup mounted as the root."""
    mount = "40 39 0:29 /docker/c\\0401 /sys/fs/cgroup/cpu,cpuacct ro master:4 - cgroup cgroup rw,cpu,cpuacct\n"
    files = group(mount, "3:cpu,cpuacct:/docker/c 1/own\n", **v1("own", 200000), **v1("", 700000))
    files |= v1("docker/c 1/own", 100000)
    assert machine(files)[0] == 2


@pytest.mark.parametrize(
    ("path", "top"), [("/else", "/docker/c1"), ("/docker", "/docker/c1"), ("/../../escape", "/"), ("/", "/../c2")]
)
def test_a_path_outside_of_the_mount(machine, path, top):
    mount = V2.replace(" / ", f" {top} ", 1)
    files = group(mount, f"0::{path}\n", **{"sys/fs/cgroup/cpu.max": "300000 100000"})
    files["sys/fs/escape/cpu.max"] = files["sys/escape/cpu.max"] = files["escape/cpu.max"] = "100000 100000"
    assert machine(files)[0] == 3


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "max",
        "200000",
        "0 100000",
        "200000 0",
        "-1 100000",
        "2e5 100000",
        "200000 100000 1",
        "\x00\x01",
        b"\xff 1",
    ],
)
def test_a_damaged_quota_is_none(machine, text):
    assert machine(group(V2, "0::/\n", **{"sys/fs/cgroup/cpu.max": text}))[0] == 8


@pytest.mark.parametrize("cgroup", ["", "0::", "nonsense\n", "0:/\n", b"\xff\xfe\n", "0::/ok\n2:cpu:/ok\n"])
@pytest.mark.parametrize(
    "mountinfo", ["", "nonsense\n", "1 2 3 - cgroup2\n", "a - b - c\n", b"\xff\n", V2, V1, V2.replace("/sys", "/\\000")]
)
def test_damaged_process_files(machine, mountinfo, cgroup):
    assert machine(group(mountinfo, cgroup)) == (8, "all of the machine")


def test_names_in_another_encoding(machine):
    files = group(b"1 0 0:1 / /mnt/\xe9 rw - ext4 /dev/a rw\n" + V2.encode(), b"0::/caf\xe9\n")
    assert machine(files | {"sys/fs/cgroup/cpu.max": "200000 100000\n"})[0] == 2


def test_a_folder_in_the_place_of_a_file(machine):
    files = group(V2, "0::/\n", **{"sys/fs/cgroup/cpu.max/file": "", "sys/devices/cpu_core/cpus/file": ""})
    assert machine(files)[0] == 8


# --- processors


def test_hyperthreads(machine):
    files = {}
    for number in range(8):
        files |= cpu(number, siblings=f"{number % 4},{number % 4 + 4}")
    assert machine(files) == (4, "one for each core of the machine")
    assert machine(files, mask={0, 4, 1}) == (2, "one for each core in the affinity mask")
    assert machine(files, mask={4, 5, 6})[0] == 3  # cores whose other half is not ours


def test_intel_hybrid(machine):
    files = {"sys/devices/cpu_core/cpus": "0-3\n", "sys/devices/cpu_atom/cpus": "4-7\n"}
    for number in range(4):
        files |= cpu(number, siblings=f"{number // 2 * 2}-{number // 2 * 2 + 1}")
    for number in range(4, 8):
        files |= cpu(number, siblings=number)
    assert machine(files) == (2, "one for each fast core of the machine")
    assert machine(files, mask={0, 5, 6}) == (1, "one for each fast core in the affinity mask")
    assert machine(files, mask={4, 5, 6}) == (3, "all in the affinity mask")  # slow ones only


@pytest.mark.parametrize(
    ("capacities", "count"),
    [
        ([1024] * 4 + [446] * 4, 4),  # 4 x 1024 > 8 x 446
        ([446] * 4 + [1024] * 2, 6),  # 6 x 446 > 2 x 1024
        ([1024] + [900] * 3 + [300] * 4, 4),
        ([1024, 512], 1),  # as fast alone
        ([1024] * 8, 8),
        ([1024] * 7 + [1000], 8),
    ],
)
def test_arm_capacities(machine, capacities, count):
    files = {}
    for number, capacity in enumerate(capacities):
        files |= cpu(number, capacity=capacity)
    total = len(capacities)
    assert machine(files, cpus=total)[0] == count
    if count < total:
        assert machine(files, cpus=total)[1] == "one for each fast core of the machine"
    slow = {number for number in range(total) if capacities[number] == min(capacities)}
    assert machine(files, cpus=total, mask=slow)[0] == len(slow)


@pytest.mark.parametrize("text", ["", "x", "0", "-3", "1024 1024"])
def test_damaged_capacities_are_none(machine, text):
    assert machine(cpu(0, capacity=1024) | cpu(1, capacity=text), cpus=2)[0] == 2


@pytest.mark.parametrize("text", ["", "0-", "a-b", "0,,1", "-1", "0x3", "1-0", "5-9", "0-9x", "9" * 5000])
def test_damaged_lists_are_none(machine, text):
    files = {"sys/devices/cpu_core/cpus": text} | cpu(0, siblings=text) | cpu(1, siblings=text)
    assert machine(files, cpus=2)[0] == 2


def test_an_enormous_list_takes_no_time(machine):
    assert machine({"sys/devices/cpu_core/cpus": "0-999999999\n"}, cpus=2)[0] == 2


# --- macOS


def test_macos(machine, monkeypatch):
    numbers = {b"hw.perflevel0.physicalcpu": 6, b"hw.physicalcpu": 7}

    def sysctlbyname(name, value, size, new, length):
        assert (size._obj.value, new) == (ctypes.sizeof(value._obj), None)
        if name not in numbers:
            return -1
        ctypes.memmove(ctypes.addressof(value._obj), numbers[name].to_bytes(4, "little"), 4)
        return 0

    monkeypatch.setattr(ctypes, "CDLL", lambda name: types.SimpleNamespace(sysctlbyname=sysctlbyname))
    machine()
    monkeypatch.setattr(cores.sys, "platform", "darwin")
    assert machine() == (6, "one for each performance core")
    assert machine(MINIRES_THREADS="8") == (8, "MINIRES_THREADS=8")
    monkeypatch.delenv("MINIRES_THREADS")
    del numbers[b"hw.perflevel0.physicalcpu"]  # before macOS 12
    assert machine()[0] == 7
    numbers.clear()
    assert machine()[0] == 8


# --- where they meet


def test_the_least_of_all(machine):
    files = group(V2, "0::/\n", **{"sys/fs/cgroup/cpu.max": "500000 100000\n"})
    for number in range(8):
        files |= cpu(number, siblings=f"{number // 2 * 2}-{number // 2 * 2 + 1}")
    assert machine(files)[0] == 4
    assert machine(files, MINIRES_THREADS="6") == (5, "a cgroup's quota of 5 CPUs")
    assert machine(files, SLURM_CPUS_PER_TASK="3") == (3, "SLURM_CPUS_PER_TASK=3")
    assert machine(files, mask={0}) == (1, "all in the affinity mask")
