"""What pytest gives to every test: hypothesis's profile, and the fixtures of several rooms."""

import contextlib
import os
import sys

import cuda_on_cpu
import pytest
import strict
from hypothesis import HealthCheck, settings
from threadpoolctl import threadpool_limits

from minires import backend

# a failed assert in these tells its values, as in a test
pytest.register_assert_rewrite("arrays", "browser", "data_helpers", "devices", "stripes")

# The same cases in each run, so that a failure is a failure for everybody; MINIRES_EXAMPLES=2000 digs deeper.
settings.register_profile(
    "minires",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=int(os.environ.get("MINIRES_EXAMPLES", 120)),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
settings.load_profile("minires")


def pytest_configure(config):
    """Beside other workers each keeps to one core; the C kernels' threads are set by make."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        threadpool_limits(1, "blas")


@pytest.fixture
def pretend_cupy(monkeypatch):
    """A function that puts a module (or None: not installed) in the place of CuPy."""

    def pretend(module):
        monkeypatch.setitem(sys.modules, "cupy", module)
        backend._cupy.cache_clear()

    yield pretend
    monkeypatch.undo()
    backend._cupy.cache_clear()


def gpu_or_skip():
    device, reason = backend.choose_device("auto")
    if device != "gpu":
        pytest.skip(f"no GPU: {reason}")


@pytest.fixture(params=["cpu", "gpu"])
def kernels_run(request, pretend_cupy, monkeypatch):
    """Kernels run under the name "gpu", as C++ on the CPU or on CuPy; gives a context manager that allows waiting."""
    if request.param == "gpu":
        gpu_or_skip()
        return contextlib.nullcontext
    if cuda_on_cpu.COMPILER is None:
        pytest.skip("no g++ to run the kernels on the CPU")
    monkeypatch.setattr(strict, "RawModule", cuda_on_cpu.RawModule, raising=False)
    pretend_cupy(strict)
    with strict.waiting():
        backend.choose_device("gpu")
    return strict.waiting


@pytest.fixture
def cupy():
    gpu_or_skip()
    return backend._cupy()
