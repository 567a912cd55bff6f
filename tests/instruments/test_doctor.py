"""The doctor finds what was broken on purpose, and says how to mend it."""

import os
import re
import subprocess
import sys
from importlib import metadata

import numpy as np
import pytest
from rich.console import Console

from minires.data import make_signs, write_signs
from minires.data.dataset import ArrayDataset
from minires.errors import DeviceError
from minires.fast import cpu
from minires.fast.cores import explain_cores
from minires.instruments import doctor, doctor_data
from minires.instruments.doctor import diagnose
from minires.instruments.findings import Finding, print_findings


def found(check):
    return {finding.name: finding for finding in doctor._guarded(check)}


def test_a_sound_machine_passes():
    findings = diagnose()
    assert [f for f in findings if f.status == "fail"] == []
    assert {"Python", "numpy", "BLAS", "memory", "folder", "GPU", "JPEG", "HDF5"} <= {f.name for f in findings}
    assert all(f.fix for f in findings if f.status != "ok")


def test_missing_old_and_broken_packages(monkeypatch):
    real = metadata.version
    monkeypatch.setattr(
        metadata,
        "requires",
        lambda _: ["numpy>=2", "h5py>=99.1", "no-such-package>=1.5", "torch>=2.4; extra == 'peers'", "rich"],
    )
    packages = found(doctor._packages)
    assert list(packages) == ["numpy", "h5py", "no-such-package", "rich"]
    assert packages["numpy"] == Finding("numpy", "ok", real("numpy"))
    assert packages["no-such-package"] == Finding(
        "no-such-package", "fail", "not installed", "pip install 'no-such-package>=1.5'"
    )
    assert packages["h5py"].status == "fail"
    assert packages["h5py"].fix == "pip install 'h5py>=99.1' --upgrade"

    def broken(name):
        raise OSError("libhdf5.so: cannot open")

    monkeypatch.setattr(doctor, "import_module", broken)
    assert "libhdf5.so" in found(doctor._packages)["numpy"].detail


def test_what_runs_the_ops(monkeypatch):
    ops = found(doctor._ops)["ops"]
    assert ops.status == "ok" or cpu._kernels is None
    assert ops.detail.startswith(cpu.description())
    assert ops.detail.endswith(f" ({explain_cores()[1]})")
    with cpu.as_read():
        monkeypatch.setattr(cpu.engine, "_kernels", None)
        monkeypatch.setattr(doctor.sys, "platform", "linux")
        ops = found(doctor._ops)["ops"]
        assert (ops.status, "not compiled" in ops.detail, "C compiler" in ops.fix) == ("warn", True, True)
        monkeypatch.setattr(doctor.sys, "platform", "win32")
        assert found(doctor._ops)["ops"].status == "ok"


@pytest.mark.parametrize("name", ["MINIRES_KERNELS", "MINIRES_ISA", "MINIRES_THREADS"])
@pytest.mark.parametrize("kernels", ["auto", "numpy"])
def test_a_wrong_setting_ends_every_command_with_a_line(name, kernels):
    command = [sys.executable, "-m", "minires.cli", "summary", "resnet8"]
    environment = {**os.environ, "MINIRES_KERNELS": kernels, name: "fast"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (2, "")
    assert re.fullmatch(f"minires: {name}: expected .*, got 'fast': change or unset it\n", result.stderr)


def test_versions_compare_as_numbers():
    assert doctor._release("2.10") > doctor._release("2.9.1")
    assert doctor._release("2.0") == doctor._release("2")
    assert doctor._release("3.0rc1") == (3,)


def test_memory_disk_and_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "_free_memory", lambda: 300_000_000)
    memory = found(doctor._memory)["memory"]
    assert (memory.status, "300.0 MB free" in memory.detail) == ("warn", True)
    assert "--batch-size" in memory.fix
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10**9}))
    monkeypatch.chdir(tmp_path)
    assert found(doctor._disk)["disk"].status == "warn"
    assert list(tmp_path.iterdir()) == []

    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "NamedTemporaryFile", refuse)
    folder = found(doctor._disk)["folder"]
    assert (folder.status, "Permission denied" in folder.detail) == ("fail", True)


@pytest.mark.parametrize(
    ("reason", "status", "fix"),
    [
        ("CuPy 14 is installed but a small kernel failed: cannot open vector_types.h; check it", "warn", "[ctk]"),
        (
            "CuPy 14 is installed but a small kernel failed: no driver; check nvidia-smi",
            "warn",
            "check nvidia-smi",
        ),
        ("CuPy is not installed: `pip install 'minires[cuda12]'`", "ok", ""),
    ],
)
def test_gpu_reasons(monkeypatch, reason, status, fix):
    monkeypatch.setattr(doctor, "choose_device", lambda _: ("cpu", reason))
    monkeypatch.setattr(doctor.shutil, "which", lambda _: None)
    gpu = found(doctor._gpu)["GPU"]
    assert gpu.status == status
    assert fix in gpu.fix
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/usr/bin/{name}")  # a driver is there
    assert found(doctor._gpu)["GPU"].status == "warn"


def test_a_check_that_breaks_is_a_finding(monkeypatch):
    def unlucky(_):
        raise DeviceError("the GPU computed 7 where 8 is right: do not trust it")

    monkeypatch.setattr(doctor, "choose_device", unlucky)
    assert found(doctor._gpu)["gpu"].fix == "do not trust it"
    monkeypatch.setattr(doctor, "choose_device", lambda _: 1 / 0)
    assert "ZeroDivisionError" in found(doctor._gpu)["gpu"].detail


def test_data_that_is_not_there():
    data = [f for f in diagnose("/no/such/folder") if f.name == "data"]
    assert len(data) == 1
    assert (data[0].status, data[0].detail) == ("fail", "/no/such/folder: no such file or folder")
    assert "builtin" in data[0].fix


def test_data_balance_and_duplicates(tmp_path):
    train, _ = make_signs(n_train=24, n_test=6, size=16)
    whole = np.arange(24)
    sound = ArrayDataset(255 - train.images(whole[:12]), train.labels[:12], train.classes)
    write_signs(tmp_path / "sound", train, sound)
    data = found(lambda: doctor_data.examine(str(tmp_path / "sound")))
    assert {f.status for f in data.values()} == {"ok"}
    assert "24 images (16, 16, 3), 6 classes" in data["training data"].detail
    picked = np.flatnonzero(train.labels < 2)[:5]
    leaking = ArrayDataset(train.images(picked), train.labels[picked], train.classes)
    write_signs(tmp_path / "leaking", train, leaking)
    data = found(lambda: doctor_data.examine(str(tmp_path / "leaking")))
    assert data["train and test apart"].status == "warn"
    assert data["train and test apart"].detail.startswith("5 of 5")
    assert "none of 2, 3, 4, 5" in data["test data"].detail
    write_signs(tmp_path / "alone", train)
    assert found(lambda: doctor_data.examine(str(tmp_path / "alone")))["test data"].status == "warn"


def test_findings_are_printed_with_their_fix():
    console = Console(width=60)
    with console.capture() as capture:
        print_findings(console, [Finding("a", "ok", "1.0"), Finding("b [x]", "fail", "gone", "pip install 'b[x]>=2'")])
    text = capture.get()
    assert "pip install 'b[x]>=2'" in text
    assert "1 ok, 0 to look at, 1 to mend" in text


@pytest.mark.parametrize(("limit", "free"), [("max", 8_192_000_000), ("3000000000", 2_000_000_000), ("900000000", 0)])
def test_free_memory_is_what_a_containers_limit_leaves(limit, free, monkeypatch):
    files = {
        "/proc/meminfo": "MemTotal: 16000000 kB\nMemAvailable: 8000000 kB\n",
        "/sys/fs/cgroup/memory.max": f"{limit}\n",
        "/sys/fs/cgroup/memory.current": "1000000000\n",
    }
    monkeypatch.setattr(doctor.Path, "read_text", lambda path: files[str(path)])
    assert doctor._free_memory() == free
