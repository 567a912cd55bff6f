"""The compiled kernels where a mistake cannot hide: GCC's sanitizers, and the code of processors that are not here.

Run it by itself: python tests/support/sanitize.py. It says what held, and ends with status 1 where something did not.
"""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from build_kernels import build

HERE = Path(__file__).parent
TESTS = HERE.parent / "fast/test_kernels_cpu.py"


class Check(NamedTuple):
    """One build of the kernels and the tests that run over it."""

    name: str
    flags: str
    library: str = ""  # the sanitizer's, which must be loaded before Python
    environment: dict = {}  # noqa: RUF012
    select: str = ""  # of the tests, as pytest's -k
    examples: int = 12  # twice as many as each property gets here


MEMORY = Check(
    "memory and arithmetic, AVX-512's code among it (AddressSanitizer, UndefinedBehaviorSanitizer)",
    "-O0 -g1 -fsanitize=address,undefined -fno-sanitize-recover=undefined -DMINIRES_WIDE",
    "libasan.so",
    {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"},  # Python keeps memory until it ends
    # the sanitizer's own allocator keeps its locks over a fork (GCC 12): such a child may wait for them for ever
    "not rounding and not (forked and while)",
)
RACES = Check(
    "races between threads (ThreadSanitizer)",
    "-O1 -g1 -fsanitize=thread -DMINIRES_BASE",
    "libtsan.so",
    {"TSAN_OPTIONS": "die_after_fork=0 exitcode=66"},
    "threads and not forked",
)
ELSEWHERE = Check("the code of other processors", "-O1 -DMINIRES_BASE")


def run(check: Check) -> bool:
    """Build, test, report; whether all held."""
    start = time.monotonic()
    try:
        library = build(*check.flags.split())
        built = time.monotonic()
        environment = {**os.environ, **check.environment, "MINIRES_EXAMPLES": str(check.examples)}
        if check.library:
            command = [*os.environ.get("CC", "cc").split(), f"-print-file-name={check.library}"]
            environment["LD_PRELOAD"] = subprocess.check_output(command, text=True).strip()
        # a sanitizer's report goes past Python, to a file that pytest would drop
        options = ["-p", "no:cacheprovider", "--capture=sys", *(["-k", check.select] if check.select else [])]
        tests = [sys.executable, HERE / "build_kernels.py", library, TESTS, *options]
        both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        result = subprocess.run(tests, env=environment, text=True, timeout=900, **both)
    except (subprocess.SubprocessError, OSError) as error:
        print(f"FAILED: {check.name}: {error}", flush=True)
        return False
    if result.returncode:
        print(result.stdout)
    seconds = f"{built - start:.0f} s to build, {time.monotonic() - built:.0f} s to test"
    last = result.stdout.strip().splitlines()[-1:]
    print(f"{'FAILED' if result.returncode else 'held'}: {check.name}; {seconds}; {''.join(last)}", flush=True)
    return not result.returncode


if __name__ == "__main__":
    with ThreadPoolExecutor(2) as pool:
        held = list(pool.map(run, [MEMORY, RACES, ELSEWHERE]))
    sys.exit(not all(held))
