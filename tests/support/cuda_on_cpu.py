"""CUDA kernels run on the CPU, so that their arithmetic is tested where there is no GPU.

`RawModule(code, options)` compiles the source with g++, behind a few lines that give CUDA's words a meaning: a
block's threads are fibres that take turns between two barriers, blocks run one after the other. It is slow, and it
says nothing about speed, coalescing or races. Launches are checked as nothing checks them on a GPU: the number of
arguments, each one's type, and that arrays are the pretended GPU's (strict.py), contiguous and aligned.
"""

import ctypes
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import strict

PRELUDE = r"""
#include <cmath>
#include <csetjmp>
#include <cstddef>
#include <functional>
#include <ucontext.h>
#include <vector>
#define __global__
#define __device__
#define __shared__ static
static float __fadd_rn(float a, float b) { return a + b; }  // FLAGS allow no fused multiply-add
static float __fmul_rn(float a, float b) { return a * b; }
struct dim3 { unsigned x, y, z; };
static dim3 threadIdx, blockIdx, blockDim, gridDim;
struct Fibre { ucontext_t start; jmp_buf at; bool begun, done; };
static const size_t STACK = 1 << 16;
static std::vector<Fibre> fibres;
static std::vector<char> stacks;
static jmp_buf scheduler;
static size_t running, left;
static const std::function<void()>* kernel;
static void __syncthreads() { if (!_setjmp(fibres[running].at)) _longjmp(scheduler, 1); }
static void place(size_t i) { threadIdx = {unsigned(i % blockDim.x), unsigned(i / blockDim.x), 0}; }
static void fibre() {
    (*kernel)();
    fibres[running].done = true, left--;
    _longjmp(scheduler, 1);
}
static void resume() {  // the fibre `running`, until it waits at a barrier or ends
    if (_setjmp(scheduler)) return;
    place(running);
    if (fibres[running].begun) _longjmp(fibres[running].at, 1);
    fibres[running].begun = true;
    setcontext(&fibres[running].start);
}
static void block(size_t threads) {
    for (size_t i = 0; i < threads; i++) {
        Fibre& f = fibres[i];
        f.begun = f.done = false;
        getcontext(&f.start);
        f.start.uc_stack = {&stacks[i * STACK], 0, STACK};
        makecontext(&f.start, fibre, 0);
    }
    left = threads, running = 0;
    resume();
    if (fibres[0].done)  // no barrier: the others need no stack of their own
        for (running = 1; running < threads; running++) place(running), (*kernel)();
    else
        while (left > 0) {
            running = (running + 1) % threads;
            if (!fibres[running].done) resume();
        }
}
static void launch(const unsigned* size, const std::function<void()>& body) {
    gridDim = {size[0], size[1], size[2]}, blockDim = {size[3], size[4], size[5]}, kernel = &body;
    const size_t threads = (size_t)blockDim.x * blockDim.y;
    stacks.resize(threads * STACK), fibres.resize(threads);
    for (blockIdx.y = 0; blockIdx.y < gridDim.y; blockIdx.y++)
        for (blockIdx.x = 0; blockIdx.x < gridDim.x; blockIdx.x++) block(threads);
}
"""

COMPILER = shutil.which("g++") if sys.platform == "linux" else None
# glibc's check of longjmp knows nothing of fibres
FLAGS = ("-O1", "-std=c++17", "-shared", "-fPIC", "-w", "-U_FORTIFY_SOURCE")
SCALARS = {
    "int": "i",
    "unsigned char": "B",
    "float": "f",
    "unsigned": "I",
    "size_t": "L",
    "double": "d",
    "long long": "q",
}


class RawModule:
    """As cupy.RawModule."""

    def __init__(self, *, code, options=()):
        self.macros = dict(option[2:].split("=") for option in options if option.startswith("-D"))
        code = re.sub(r"#define WINDOW (.*)\n", "", code.replace("WINDOW)", f"{_window(code)})"))
        self.parameters = {
            name: [_split(p) for p in arguments.split(",")]
            for name, arguments in re.findall(r'extern "C" __global__ void (\w+)\(([^)]*)\)', code)
        }
        calls = "\n".join(map(_call, self.parameters, self.parameters.values()))
        self.library = _compile(PRELUDE + code + calls, tuple(o for o in options if o.startswith("-D")))

    def get_function(self, name):
        function, parameters = self.library[f"call_{name}"], self.parameters[name]
        types = {**SCALARS, "T": self.macros["REAL"][0]}

        def launch(grid, block, args):
            assert len(args) == len(parameters), f"{name}: {len(args)} arguments, {len(parameters)} wanted"
            assert np.prod(block) <= 1024
            size = (ctypes.c_uint * 6)(*(*grid, 1, 1)[:3], *(*block, 1, 1)[:3])
            assert all(size), f"{name}: an empty launch {grid} {block}"
            cells = [_cell(name, a, kind, types) for a, (kind, _) in zip(args, parameters, strict=True)]
            function(size, (ctypes.c_void_p * len(cells))(*(c.ctypes.data for c in cells)))

        return launch


def _window(code):
    return re.search(r"#define WINDOW (.*)\n", code).group(1)


def _split(parameter):
    """'const T* x' -> ('T*', 'x')."""
    kind, name = parameter.replace("const ", "").strip().rsplit(" ", 1)
    return kind, name


def _call(name, parameters):
    values = ", ".join(f"*({kind}*)a[{i}]" for i, (kind, _) in enumerate(parameters))
    return f'extern "C" void call_{name}(unsigned* size, void** a) {{ launch(size, [&] {{ {name}({values}); }}); }}'


def _cell(name, value, kind, types):
    """The argument in a cell of memory, where the call reads it."""
    if not kind.endswith("*"):
        assert isinstance(value, np.generic), f"{name}: a {kind} is wanted, got {type(value).__name__}"
        assert value.dtype.char in (types[kind], {"L": "Q"}.get(types[kind])), f"{name}: {kind}, got {value.dtype}"
        return np.array(value)
    if isinstance(value, np.uintp):
        assert value == 0
        return np.array(value)
    host = strict._host(value)
    assert host.dtype.char in (types[kind[:-1]], {"q": "l"}.get(types[kind[:-1]])), f"{name}: {kind}, got {host.dtype}"
    assert host.flags.c_contiguous
    return np.array(host.ctypes.data, np.uintp)


@cache
def _compile(source, options):
    key = hashlib.sha256(repr((source, options, FLAGS)).encode()).hexdigest()
    library = Path(tempfile.gettempdir()) / f"minires-kernels-{key}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            cpp, part = Path(folder, "kernels.cpp"), Path(folder, "kernels.so")
            cpp.write_text(source)
            subprocess.run([COMPILER, *FLAGS, *options, "-o", part, cpp], check=True)
            part.replace(library)  # whole, also where several are at it
    return ctypes.PyDLL(str(library))  # which keeps Python's lock: its statics are for one launch at a time
