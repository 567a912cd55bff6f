"""Contenders of `minires bench gpu-vs-cpu`: a process a library and device, which builds networks and times them.

A process is asked by turns (see harness): prepare, name, case; measure, name, seconds; drop; ceilings.
On a GPU a step is timed by events that the device itself records between steps, so nothing waits inside a
measurement; on a CPU by the clock. The batch lies on the device; copying it there is not part of a step.
"""

import gc
import time
from contextlib import ExitStack, nullcontext
from copy import deepcopy
from functools import cache
from itertools import pairwise

import numpy as np
from minires.benchmarks import contenders, harness

WARMUP = 3  # calls before the clock runs: kernels are compiled, graphs captured, convolutions chosen
# of the rows that compare devices: an inference of ours has no TF32
PRECISION = {"training": "tf32", "inference": "fp32"}
CALLS = 100
SLOW = 2.0  # seconds after which warming up ends
SQUARE = 8192
FLOATS = 2**28  # an array for the bandwidth: 1 GiB


@cache
def _drawn(arch, size, width):
    return contenders.network({"arch": arch, "size": size, "width": width})


def network(case):
    """The network of a case; its initial weights are drawn once a process."""
    return deepcopy(_drawn(case["arch"], case["size"], case.get("width", 1)))


class Lane:
    """What a process answers. `work`: name -> (callable, seconds of a call)."""

    def __init__(self, options):
        self.options, self.work, self.stay = options, {}, ExitStack()

    def __call__(self, request, *arguments):
        return getattr(self, request)(*arguments)

    def prepare(self, name, case) -> dict:
        """Build, warm up, and tell how it works, what it holds on the device (MiB) and the first step's loss."""
        self.release()
        before, began = self.free(), time.perf_counter()
        call, how = self.make(name, case)
        loss = call()
        for _ in range(WARMUP - 1):
            call()
            self.wait()
            if time.perf_counter() - began > SLOW:
                break
        held = (before - self.free()) / 2**20
        self.work[name] = call, min(self.clock(call, 1))
        return {"how": how(), "memory_mib": held or None, "first_loss": None if loss is None else float(loss)}

    def measure(self, name, seconds) -> list[float]:
        """The seconds of single calls, to four digits: as many as fit, at least one and at most CALLS."""
        call, once = self.work[name]
        return [float(f"{t:.4g}") for t in self.clock(call, max(1, min(CALLS, int(seconds / once))))]

    def drop(self):
        """Let go of all that was prepared."""
        self.work.clear()
        self.stay.close()
        gc.collect()
        self.release()

    def clock(self, call, count) -> list[float]:
        times = []
        for _ in range(count):
            began = time.perf_counter()
            call()
            times.append(time.perf_counter() - began)
        return times

    def wait(self):
        pass

    def free(self) -> int:
        """Bytes of the device that nobody holds; 0 on a CPU, whose memory a process shares between its contenders."""
        return 0

    def release(self):
        """Hand back to the device what the library keeps for later."""


class Cpu(Lane):
    """Either library on the CPU."""

    def make(self, name, case):
        if name == "ours":
            work = contenders.build_ours(case["task"], case, stay=self.stay)
        else:
            work = contenders.build_torch(case["task"], case, channels_last=True)
        return (lambda: _loss(work())), lambda: "CPU"


def _loss(told):
    """A number where the call gave one, nothing where it gave logits."""
    return told if getattr(told, "ndim", 1) == 0 else None


def _how(predictor) -> str:
    """The way a Predictor computes on a GPU, in words."""
    if predictor.reason:
        return "plain ops"
    reason = predictor.replay.reason
    return "CUDA kernels, " + (f"no graph: {reason}" if reason else "replayed as a graph")


class Cupy(Lane):
    """minires on the GPU: as `fit` runs it, without a graph, and layer by layer with the plain ops."""

    def __init__(self, options):
        super().__init__(options)
        from minires.backend import choose_device

        choose_device("gpu")
        import cupy

        self.cupy = cupy

    def make(self, name, case):
        from minires.backend import to_device
        from minires.fast.cpu import as_read
        from minires.fast.inference import Predictor
        from minires.fast.step import make_step

        tf32, model = case["precision"] == "tf32", network(case).to("gpu")
        x, labels = (to_device(array, "gpu") for array in contenders.batch(case))
        if tf32 and (name == "plain" or case["task"] == "inference"):
            raise harness.Unavailable("products in TF32 are for training by kernels alone")
        if case["task"] == "inference":
            predictor = Predictor(model, check=False)

            def infer():
                predictor(x)

            return infer, lambda: _how(predictor)
        optimizer = contenders.make_optimizer(model.params(), case)
        step = make_step(model, optimizer, by_layers=name == "plain", graph=name == "ours", tf32=tf32)
        self.stay.enter_context(step)

        def train():
            with as_read() if name == "plain" else nullcontext():
                return step(x, labels, contenders.LEARNING_RATE)[0]

        return train, lambda: step.how

    def clock(self, call, count):
        events = [self.cupy.cuda.Event() for _ in range(count + 1)]
        events[0].record()
        for event in events[1:]:
            call()
            event.record()
        events[-1].synchronize()
        return [self.cupy.cuda.get_elapsed_time(a, b) / 1e3 for a, b in pairwise(events)]

    def wait(self):
        self.cupy.cuda.Device().synchronize()

    def free(self):
        self.wait()
        return self.cupy.cuda.runtime.memGetInfo()[0]

    def release(self):
        self.cupy.get_default_memory_pool().free_all_blocks()

    def ceilings(self) -> dict:
        """FLOP/s of a large product, in float32 and rounded to TF32, bytes/s of a copy, and what the device is."""
        runtime = self.cupy.cuda.runtime
        properties = runtime.getDeviceProperties(self.cupy.cuda.Device().id)
        found = {
            "fp32": 2 * SQUARE**3 / self._product(tf32=False),
            "tf32": 2 * SQUARE**3 / self._product(tf32=True),
            "copy": 2 * 4 * FLOATS / self._copy(),
            "gpu": properties["name"].decode(),
            "cuda": {"driver": runtime.driverGetVersion(), "runtime": runtime.runtimeGetVersion()},
        }
        self.release()
        return found

    def _product(self, tf32) -> float:
        from minires.ops import blas

        cupy = self.cupy
        a = cupy.asarray(np.random.default_rng(0).standard_normal((SQUARE, SQUARE), np.float32))
        b, y = a.copy(), cupy.empty_like(a)
        with blas.tensor_cores(tf32):
            return min(self.clock(lambda: blas.matmul(a, b, y), 12))

    def _copy(self) -> float:
        source, target = (self.cupy.zeros(FLOATS, self.cupy.float32) for _ in range(2))
        return min(self.clock(lambda: self.cupy.copyto(target, source), 12))


class Torch(Lane):
    """PyTorch on the GPU: eager in both layouts, and compiled with and without CUDA graphs."""

    def __init__(self, options):
        super().__init__(options)
        import torch

        if not torch.cuda.is_available():
            raise harness.Unavailable(f"PyTorch {torch.__version__} finds no GPU")
        torch.backends.cudnn.benchmark = True  # it chooses the fastest convolution for each shape
        self.torch = torch

    def make(self, name, case):
        torch, tf32 = self.torch, case["precision"] == "tf32"
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        compiled = name.startswith("torch_compile")
        mode = "reduce-overhead" if name == "torch_compile_graph" else None
        work = contenders.build_torch(
            case["task"],
            case,
            channels_last=name != "torch",
            fused=case["task"] == "training",
            compiled=compiled,
            mode=mode,
            device="cuda",
        )
        return (lambda: _loss(work())), lambda: f"torch.compile, {mode or 'default mode'}" if compiled else "eager"

    def clock(self, call, count):
        events = [self.torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
        events[0].record()
        for event in events[1:]:
            call()
            event.record()
        events[-1].synchronize()
        return [a.elapsed_time(b) / 1e3 for a, b in pairwise(events)]

    def wait(self):
        self.torch.cuda.synchronize()

    def free(self):
        self.wait()
        return self.torch.cuda.mem_get_info()[0]

    def release(self):
        self.torch.cuda.empty_cache()


LANES = {"cupy": Cupy, "torch-gpu": Torch, "torch-compile": Torch, "cpu": Cpu, "torch-cpu": Cpu}


def build(name, _task, options):
    """A process's lane; see harness."""
    return LANES[name](options)
