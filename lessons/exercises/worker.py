"""Runs the checks of one exercise on a student's file. judge.py starts it in a process of its own:

python -m minires.lessons.exercises.worker NUMBER FILE VERDICT SECONDS

VERDICT receives a line of JSON as each check begins and as it ends, so that the judge knows how far a file came
that ended the process. Whatever the file prints goes elsewhere.
"""

import faulthandler
import inspect
import json
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import ModuleType

from minires.lessons.exercises import Exercise, exercise
from minires.lessons.exercises.grading import Wrong

from minires.fast.cpu import as_read

MEMORY = 4 * 2**30  # bytes of address space
LOADS = "file"  # the name of the first check
LIBRARY = "minires.ops", "minires.nn", "minires.fast"
OWN = "`{}` is what this exercise is about: write it yourself, and keep the library's to compare with."


@dataclass(frozen=True)
class Result:
    """One check. seen: what went wrong, in one line, or nothing; hint: where to look."""

    name: str
    seen: str = ""
    hint: str = ""

    @property
    def ok(self) -> bool:
        return not self.seen


def examine(path: Path, task: Exercise, begin: Callable[[str], None] = lambda name: None):
    """Yield the Result of each check, the first being that the file loads; without that, no other runs."""
    begin(LOADS)
    student, result = None, Result(LOADS)
    try:
        student = load(path, task.checks.NEEDS)
    except BaseException as error:
        result = Result(LOADS, *explain(error, path))
    yield result
    answers = getattr(task.checks, "ANSWERS", ())
    for name, check in task.checks.CHECKS.items() if student else ():
        begin(name)
        result = Result(name)
        try:
            with refused(answers, path):
                check(student)
        except BaseException as error:
            result = Result(name, *explain(error, path))
        yield result


@contextmanager
def refused(answers: tuple[Callable, ...], path: Path):
    """Inside, a call of one of the library's own `answers` from the student's file is Wrong, however it is reached."""
    codes = {inspect.unwrap(f).__code__: f for f in answers}

    def on_call(frame, event, _):
        if event == "call" and frame.f_code in codes:
            name, caller = codes[frame.f_code].__qualname__, frame.f_back
            while caller and caller.f_code.co_filename != str(path):
                caller = caller.f_back
            if caller:
                raise Wrong(f"line {caller.f_lineno} has the library's own {name} do the work", OWN.format(name))

    before = sys.getprofile()
    with as_read():  # each op as its own function: kernels would run instead of it
        sys.setprofile(on_call if codes else before)
        try:
            yield
        finally:
            sys.setprofile(before)


def load(path: Path, needs: tuple) -> ModuleType:
    """The file as a module, with all the names that the statement gives."""
    module = ModuleType("student")
    module.__file__ = str(path)
    sys.modules["student"] = module
    try:
        code = compile(path.read_bytes(), str(path), "exec")
    except ValueError as error:  # null bytes
        raise SyntaxError(str(error)) from None
    exec(code, module.__dict__)
    for name in needs:
        found = getattr(module, name, None)
        if not callable(found):
            raise Wrong(f"there is no `{name}` in the file", "Keep the names of the statement; case counts.")
        if isinstance(found, partial) or getattr(found, "__module__", "").startswith(LIBRARY):
            raise Wrong(f"`{name}` is the library's own, under another name", OWN.format(name))
    return module


def explain(error: BaseException, path: Path) -> tuple[str, str]:
    """(what happened, with the line of the student's file; a hint) in place of a traceback."""
    if isinstance(error, Wrong):
        return error.seen, error.hint
    if isinstance(error, SyntaxError):
        hint = "Python could not read the file: the slip is in this line or at the end of the one before."
        if not error.text:
            return f"is no Python file: {error.msg}", "Is it the right file, and saved as plain text in UTF-8?"
        return f"line {error.lineno}: {error.msg}: `{error.text.strip()}`", hint
    where = _place(error, path)
    said = " ".join(str(error).split())
    said = said[:200] + " ..." * (len(said) > 200)
    match error:
        case NotImplementedError():
            return f"not written yet{where}", "Read the statement, then replace the `raise` by your code."
        case ModuleNotFoundError():
            return f"imports {error.name}, which is not installed{where}", "NumPy and minires are all that is needed."
        case SystemExit():
            return f"ends the program (sys.exit){where}", "Let functions return; remove exit() and sys.exit()."
        case MemoryError():
            hint = "Look at the shapes on the way: broadcasting (m, 1) with (m,) gives (m, m)."
            return f"out of memory ({MEMORY >> 30} GiB are allowed): {said or 'no size given'}{where}", hint
        case RecursionError():
            return f"a function calls itself without end{where}", "Which call leads back to the function itself?"
        case EOFError():
            return f"waits for input{where}", "Nobody types while the checks run: remove input()."
    if not where:
        return (
            f"the checks cannot use what came back: {type(error).__name__}: {said}",
            "Compare types with the statement.",
        )
    return (
        f"{type(error).__name__}: {said}{where}",
        "Print the shapes just before this line: what the file prints is shown.",
    )


def _place(error: BaseException, path: Path) -> str:
    """' (line 7: `y = x @ w`)', the innermost line of the file; nothing where none took part."""
    lines = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    return f" (line {lines[-1].lineno}: `{lines[-1].line}`)" if lines else ""


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    for kind, limit in ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_CORE, 0)):
        _, hard = resource.getrlimit(kind)
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        try:
            resource.setrlimit(kind, (limit, hard))
        except (ValueError, OSError):  # macOS refuses some
            continue


def main(number: str, file: str, verdict: str, seconds: str) -> None:
    task, path = exercise(int(number)), Path(file)
    names = [LOADS, *task.checks.CHECKS]
    with open(verdict, "w", encoding="utf-8", buffering=1) as lines, open(f"{verdict}.trace", "w") as trace:

        def tell(**event):
            print(json.dumps(event), file=lines)

        tell(names=names)
        _limit_memory()
        sys.argv = [file]
        sys.path.append(str(path.parent))  # last: a file named random.py there stands in nobody's way
        faulthandler.dump_traceback_later(float(seconds), exit=True, file=trace)
        for result in examine(path, task, begin=lambda name: tell(begins=name)):
            tell(result=asdict(result))
        faulthandler.cancel_dump_traceback_later()
        tell(end=True)
    sys.stdout.flush()
    os._exit(0)  # whatever threads the file has left running


if __name__ == "__main__":
    main(*sys.argv[1:])
