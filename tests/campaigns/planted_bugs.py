"""Bugs planted one at a time: do the tests of the bug's own room notice?

    python tests/campaigns/planted_bugs.py                        # every bug of planted_bugs.toml
    python tests/campaigns/planted_bugs.py "*momentum*" --quick   # some by their names, without slow tests
    python tests/campaigns/planted_bugs.py --room train --set survivor --jobs 2

Each is planted in a copy of the checkout, which itself is never written to; what was compiled or proven there is made
anew, so that neither a fingerprint nor a stale kernel gives the bug away. Then the room's tests run until one fails:
the file of the bug's own name first, the slow ones last. An op that has a kernel is tested as it reads before that, as
.ci/run does. A test that fails without the bug as well has caught nothing, and is reported. Exit status 1 where a bug
survives, 2 where one cannot be judged.
"""

import argparse
import fnmatch
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
DATA = Path(__file__).with_suffix(".toml")
LEFT_OUT = shutil.ignore_patterns(".*", "runs", "build", "dist", "*.egg-info", "__marimo__")
# lessons and benchmarks are installed as parts of minires: in a copy, Python reads this at its start and finds them
BESIDE = """
import sys
from importlib.util import spec_from_file_location
from pathlib import Path

class Beside:
    def find_spec(self, name, path=None, target=None):
        package, _, part = name.rpartition(".")
        if package == "minires" and part in ("lessons", "benchmarks"):
            folder = Path(__file__).parent / part
            return spec_from_file_location(name, folder / "__init__.py", submodule_search_locations=[str(folder)])

sys.meta_path.insert(0, Beside())
"""
# a case that fails need not be made small
UNSHRUNK = """
from hypothesis import Phase
settings.register_profile("planted", settings.get_profile("minires"), phases=(Phase.explicit, Phase.generate))
settings.load_profile("planted")
"""
PATIENCE = 900  # seconds that a room's tests may take: a bug may make one wait for ever
# behind these stand kernels, which would run in their place
WITH_KERNELS = "minires/ops/*.py", "minires/optim.py", "minires/geometry.py", "minires/fast/fused_ops.py"
CAUGHT, SURVIVED, UNJUDGED = "caught", "SURVIVED", "NOT JUDGED"


@dataclass(frozen=True)
class Bug:
    """`old`, which stands once in `file`, becomes `new`; the tests in `room` have to notice."""

    name: str
    file: str
    old: str
    new: str
    why: str
    set: str
    room: str = ""

    @property
    def home(self) -> str:
        parts = Path(self.file).parts
        return self.room or (parts[1] if parts[0] == "minires" else parts[0])


@dataclass(frozen=True)
class Verdict:
    bug: Bug
    outcome: str
    by: str  # the test that noticed; or what is in the way
    seconds: float


def read(data: Path = DATA) -> list[Bug]:
    return [Bug(**entry) for entry in tomllib.loads(data.read_text("utf-8"))["bug"]]


def judge(bug: Bug, root: Path = ROOT, *, slow: bool = True) -> Verdict:
    """Plant it in a copy of the checkout `root`, and run the tests of its room."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="minires-planted-") as folder:
        copy = copied(root, Path(folder) / "minires")
        outcome, by = _planted(bug, copy) or _tested(bug, copy, root, slow)
    return Verdict(bug, outcome, by, time.perf_counter() - start)


def copied(root: Path, target: Path) -> Path:
    """A checkout that runs without being installed."""
    shutil.copytree(root, target, ignore=LEFT_OUT)
    (target / "sitecustomize.py").write_text(BESIDE, "utf-8")
    with (target / "tests/conftest.py").open("a") as file:
        file.write(UNSHRUNK)
    return target


def _planted(bug: Bug, copy: Path) -> tuple[str, str] | None:
    """Plant it; None, or the verdict where that cannot be done or ends all at once."""
    file = copy / bug.file
    text = file.read_text("utf-8") if file.exists() else ""
    if (count := text.count(bug.old)) != 1:
        return UNJUDGED, f"anchor not found: {bug.file} has its old text {count} times, not once"
    file.write_text(text.replace(bug.old, bug.new), "utf-8")
    if file.suffix in (".c", ".h"):
        built = _python(copy, "tests/support/build_kernels.py", "build", "-O1")
        if built.returncode:
            return UNJUDGED, f"it does not compile: {built.stderr.strip().splitlines()[-1]}"
        library = Path(built.stdout.strip())
        shutil.move(library, copy / "minires/fast/cpu/_kernels.abi3.so")
    elif file.suffix == ".py" and (copy / "minires/fast/__main__.py").exists():
        renewed = _python(copy, "-m", "minires.fast")  # that a file was edited says not what is wrong in it
        if renewed.returncode:
            return CAUGHT, "importing it"
    return None


def _tested(bug: Bug, copy: Path, root: Path, slow: bool) -> tuple[str, str]:
    files = _files(copy / "tests" / bug.home, copy / bug.file)
    if not files:
        return UNJUDGED, f"tests/{bug.home} has no tests"
    ways = [("numpy", "not slow")] if any(fnmatch.fnmatch(bug.file, known) for known in WITH_KERNELS) else []
    ways += [("auto", "not slow"), ("auto", "slow")][: 1 + slow]
    for kernels, chosen, some in ((*way, some) for way in ways for some in (files[:1], files[1:]) if some):
        run = _pytest(copy, kernels, "-m", chosen, *some)
        if run is None:
            return CAUGHT, f"a test that had not ended after {PATIENCE} s"
        if run.returncode < 0:
            return CAUGHT, f"a crash of the tests, signal {-run.returncode}"
        if run.returncode not in (0, 5):  # 5: none of them is chosen
            failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", run.stdout, re.M)
            if not failed:
                return UNJUDGED, f"pytest ended with {run.returncode}: {(run.stderr or run.stdout).strip()[-300:]}"
            return _fails_without_it(failed[1], kernels, root) or (CAUGHT, failed[1])
    return SURVIVED, ""


@cache
def _fails_without_it(test: str, kernels: str, root: Path) -> tuple[str, str] | None:
    """The verdict where this test fails in an untouched copy too."""
    with tempfile.TemporaryDirectory(prefix="minires-planted-") as folder:
        run = _pytest(copied(root, Path(folder) / "minires"), kernels, test)
    passes = run is not None and run.returncode == 0
    return None if passes else (UNJUDGED, f"{test} fails without it")


def _files(room: Path, source: Path) -> list[str]:
    """The room's test files: first those with the words of the source's name, then those that name what it defines."""
    words = set(re.split(r"[/._]", str(source.relative_to(room.parents[1]))))
    defined = re.findall(r"^ *(?:def|class) ([A-Za-z]\w+)", source.read_text("utf-8"), re.M)

    def strange(file: Path):
        own, text = file.stem.removeprefix("test_").split("_"), file.read_text("utf-8")
        return sum(word not in words for word in own) / len(own), -sum(map(text.count, defined)), file.name

    return [f"tests/{room.name}/{file.name}" for file in sorted(room.glob("test_*.py"), key=strange)]


def _pytest(copy: Path, kernels: str, *arguments: str):
    """The run of pytest in a copy; None where it takes too long."""
    quiet = "-x", "-q", "--tb=no", "-rfE", "-p", "no:cacheprovider"
    few = {"MINIRES_EXAMPLES": "30", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # a quarter of the usual cases
    try:
        return _python(copy, "-m", "pytest", *quiet, *arguments, MINIRES_KERNELS=kernels, **few)
    except subprocess.TimeoutExpired:
        return None


def _python(copy: Path, *arguments: str, **variables: str):
    """The run of Python in a copy, on one core."""
    one = {"PYTHONPATH": str(copy), "MINIRES_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    options = {"capture_output": True, "text": True, "timeout": PATIENCE, "env": os.environ | one | variables}
    return subprocess.run([sys.executable, *arguments], cwd=copy, **options)


def main() -> int:
    bugs = read()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="only bugs of these names; * stands for anything")
    parser.add_argument("--room", choices=sorted({bug.home for bug in bugs}), help="only bugs of this room")
    parser.add_argument("--set", choices=sorted({bug.set for bug in bugs}), help="only bugs of this set")
    parser.add_argument("--quick", action="store_true", help="never run a slow test")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="bugs at a time (default: 1)")
    args = parser.parse_args()
    bugs = [bug for bug in bugs if args.room in (None, bug.home) and args.set in (None, bug.set)]
    if args.names:
        bugs = [bug for bug in bugs if any(fnmatch.fnmatch(bug.name, name) for name in args.names)]
    start, verdicts = time.perf_counter(), []
    with ThreadPoolExecutor(args.jobs) as pool:
        for verdict in pool.map(lambda bug: judge(bug, slow=not args.quick), bugs):
            verdicts.append(verdict)
            bug = verdict.bug
            print(f"{verdict.outcome:10} {verdict.seconds:4.0f} s  {bug.home}: {bug.name}  {verdict.by}", flush=True)
    for bug in (verdict.bug for verdict in verdicts if verdict.outcome == SURVIVED):
        print(f"survived: {bug.file}: {bug.name}: {bug.why}")
    outcomes = [verdict.outcome for verdict in verdicts]
    counts = ", ".join(f"{outcomes.count(outcome)} {outcome.lower()}" for outcome in (CAUGHT, SURVIVED, UNJUDGED))
    print(f"{len(outcomes)} bugs: {counts}, in {time.perf_counter() - start:.0f} s")
    return 2 if UNJUDGED in outcomes else int(SURVIVED in outcomes)


if __name__ == "__main__":
    sys.exit(main())
