"""CPU or GPU: CuPy is never imported unasked, and the choice of a device explains itself."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import numpy as np
import pytest
import strict

from minires import backend, nn
from minires.errors import DeviceError
from minires.fast import cpu

IMPORT_ALL = """
import importlib, pkgutil, sys
import minires
for module in pkgutil.walk_packages(minires.__path__, "minires."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
assert "minires.nn.resnet" in sys.modules and "minires.backend" in sys.modules
heavy = {"cupy", "torch", "tensorflow", "keras"} & set(sys.modules)
assert not heavy, heavy
"""


def test_importing_everything_imports_no_cupy():
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_without_cupy_auto_takes_the_cpu_and_says_what_to_install(pretend_cupy):
    pretend_cupy(None)
    device, reason = backend.choose_device("auto")
    assert device == "cpu"
    assert "CuPy is not installed" in reason
    assert "minires[cuda12]" in reason
    with pytest.raises(DeviceError, match="CuPy is not installed"):
        backend.choose_device("gpu")


def test_with_a_broken_cupy_auto_takes_the_cpu_and_tells_the_reason(pretend_cupy):
    broken = ModuleType("cupy")
    broken.__version__, broken.float32 = "99.0", np.float32

    def arange(*_, **__):
        raise RuntimeError("libnvrtc.so.99: cannot open shared object file\nand a long traceback")

    broken.arange = arange
    pretend_cupy(broken)
    device, reason = backend.choose_device("auto")
    assert device == "cpu"
    assert "99.0" in reason
    assert "libnvrtc.so.99: cannot open shared object file" in reason
    assert "\n" not in reason
    with pytest.raises(DeviceError, match=r"libnvrtc\.so\.99"):
        backend.choose_device("gpu")


@pytest.mark.parametrize("fault", [0, 1])
def test_a_gpu_is_taken_when_its_numbers_are_right(pretend_cupy, monkeypatch, fault):
    monkeypatch.setattr(strict, "exp", lambda x: x * 0 + 1 + fault)
    pretend_cupy(strict)
    with strict.waiting():
        device, reason = backend.choose_device("auto")
    if fault:
        assert (device, "computed 11.0 where 8.0 is right" in reason) == ("cpu", True)
    else:
        assert (device, reason) == ("gpu", f"Pretended GPU, CuPy {strict.__version__}")


def test_requests():
    assert backend.choose_device("cpu") == ("cpu", "asked for")
    with pytest.raises(DeviceError, match="unknown device 'tpu': choose auto, cpu or gpu"):
        backend.choose_device("tpu")
    with pytest.raises(DeviceError, match="unknown device 'cuda'"):
        backend.to_device(np.zeros(1), "cuda")


def test_arrays_that_are_none():
    with pytest.raises(DeviceError, match=r"got list: wrap it in numpy\.asarray"):
        backend.get_xp([1, 2])


@pytest.mark.parametrize("layer", [nn.Conv2d("c1", 3, 4, 3), nn.BatchNorm("b1", 3)])
def test_mixed_devices_name_the_layer(layer):
    with pytest.raises(DeviceError, match=rf"^{layer.name}: the input is on the gpu, the weights on the cpu"):
        layer(strict.zeros((1, 8, 8, 3), np.float32))


def test_chunks_cover_every_row_once(monkeypatch):
    x = np.zeros((10, 7))
    for chunk, pieces in ((1, 10), (21, 4), (70, 1), (10**6, 1)):
        monkeypatch.setattr(backend, "CHUNK", chunk)
        chunks = backend.row_chunks(10, 7, x)
        assert [row for rows in chunks for row in range(10)[rows]] == list(range(10))
        assert len(chunks) == pieces


def test_blas_threads_are_restored():
    before = backend.thread_count()
    with backend.blas_threads(1):
        assert backend.thread_count() == 1
        with backend.blas_threads(None):
            assert backend.thread_count() == 1
    assert backend.thread_count() == before


SETTINGS = [(backend.blas_threads, backend.thread_count), (cpu.use_threads, cpu.threads)]


@pytest.mark.parametrize(("setting", "read"), SETTINGS)
def test_whoever_goes_first_of_two_leaves_the_other_its_number(setting, read):
    """In whichever order they come and go, all is as before when both are gone."""
    if setting is cpu.use_threads and not cpu.enabled():
        pytest.skip("there are no compiled kernels")
    before = read()
    for leaves_first in (0, 1):
        users = [setting(1), setting(2)]
        for user in users:
            user.__enter__()
        assert read() == 2
        users[leaves_first].__exit__(None, None, None)
        assert read() == (1 if leaves_first else 2)
        users[not leaves_first].__exit__(None, None, None)
        assert read() == before


def test_a_thread_keeps_its_own_workspace():
    with backend.max_workspace(100), ThreadPoolExecutor(1) as other:
        assert other.submit(backend.workspace_limit).result() is None
        foreign = backend.max_workspace(7)
        other.submit(foreign.__enter__).result()
        assert (backend.workspace(1000), other.submit(backend.workspace, 1000).result()) == (100, 7)
    assert backend.workspace(1000) == 1000
