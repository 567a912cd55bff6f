"""The exercises: every reference solution passes, every wrong answer meets its own hint, and no file, whatever it does,
brings the judge down."""

import csv
import json
import re
import runpy
import sys
from ast import literal_eval
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from minires.lessons.exercises import classroom, exercise, exercises, judge
from minires.lessons.exercises.worker import examine
from setuptools import find_packages

from minires import cli
from minires.errors import ConfigError

TASKS = exercises()
WRONG = {
    task.number: runpy.run_path(Path(__file__).parent / "exercises_wrong" / task.path.name)["WRONG"] for task in TASKS
}


@pytest.fixture(params=TASKS, ids=lambda task: task.path.stem)
def task(request):
    return request.param


def first_fault(path, task):
    """The first check that fails, judged in this process."""
    return next((result for result in examine(path, task) if not result.ok), None)


def written(folder, text) -> Path:
    path = folder / "my answer.py"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@cache
def answered(number: int) -> dict:
    """name -> (the check that the wrong answer is to fail, what it meets)"""
    task, met = exercise(number), {}
    with TemporaryDirectory() as folder:
        for name, (check, edits) in WRONG[number].items():
            text = task.solution.read_text()
            for old, new in edits:
                assert text.count(old) == 1, f"{name}: {old!r} is not in the solution once"
                text = text.replace(old, new)
            met[name] = check, first_fault(written(Path(folder), text), task)
    return met


def test_the_list_is_whole():
    assert [task.number for task in TASKS] == list(range(1, 14))
    assert len({task.title for task in TASKS}) == 13
    with pytest.raises(ConfigError, match="choose one of 1 to 13"):
        exercise(14)


def test_the_statement_tells_what_to_write_and_where_to_read(task):
    assert task.statement.startswith(f"Exercise {task.number}: ")
    assert "\nRead: " in task.statement
    assert all(name in task.text for name in task.checks.NEEDS)
    assert "minires/" in task.checks.AFTERWARDS or "minires " in task.checks.AFTERWARDS
    assert len(task.checks.HINTS) >= 3


def test_the_reference_solution_passes(task):
    results = list(examine(task.solution, task))
    assert [r for r in results if not r.ok] == []
    assert len(results) == 1 + len(task.checks.CHECKS)


def test_the_file_as_it_is_handed_out_fails_with_a_friendly_line(task):
    results = list(examine(task.path, task))
    fault = next(r for r in results if not r.ok)
    assert "\n" not in fault.seen
    assert fault.hint
    if task.number <= 6:  # a hole
        assert "not written yet" in fault.seen or "the dots are still there" in fault.seen
    else:  # it runs, and something else passes
        assert "Error" not in fault.seen
        assert sum(r.ok for r in results) > 2


def test_each_wrong_answer_meets_its_own_hint(task):
    assert len(answered(task.number)) >= 3
    hints = {"as it came": first_fault(task.path, task).hint}
    for name, (check, fault) in answered(task.number).items():
        assert fault, f"{name} passes"
        assert fault.name == check, f"{name}: {fault}"
        assert fault.hint not in hints.values(), f"{name}: {fault.hint}"
        hints[name] = fault.hint


def test_no_hint_gives_the_answer_away(task):
    met = [fault for _, fault in answered(task.number).values()]
    told = [*task.checks.HINTS, *(fault.hint for fault in met), *(fault.seen for fault in met)]
    code = {line.partition("#")[0].strip() for line in task.solution.read_text().splitlines()}
    parts = {part.strip() for line in code for part in (line, line.partition(" = ")[2], line.partition("return ")[2])}
    for part in parts:
        if len(part) >= 10 and part not in task.text and not part.startswith('"""'):
            assert not any(part in text for text in told), part


BAD = {
    "syntax": ("def im2col(x, kernel, stride:\n    pass\n", "file", "line 1: '(' was never closed"),
    "indentation": ("def im2col(x):\nreturn x\n", "file", "line 2: expected an indented block"),
    "null bytes": ("x = 1\0\n", "file", "is no Python file: source code string cannot contain null bytes"),
    "not UTF-8": (b"name = '\xe9'\n", "file", "line 1: (unicode error)"),
    "empty": ("", "file", "there is no `im2col` in the file"),
    "other name": ("def Im2Col(x, kernel, stride): return x\n", "file", "there is no `im2col`"),
    "import": ("import a_library_of_dreams\n", "file", "imports a_library_of_dreams, which is not installed (line 1"),
    "raises at once": ("1 / 0\n", "file", "ZeroDivisionError: division by zero (line 1: `1 / 0`)"),
    "exits at once": ("import sys\nsys.exit(0)\n", "file", "ends the program (sys.exit) (line 2"),
    "exits": ("def im2col(x, kernel, stride):\n    raise SystemExit\n", "shape", "ends the program"),
    "raises": ("def im2col(x, kernel, stride):\n    return x @ x\n", "shape", "ValueError: matmul"),
    "never ends calling": ("def im2col(*a):\n    return im2col(*a)\n", "shape", "a function calls itself without end"),
    "returns nothing": ("def im2col(x, kernel, stride):\n    x = x\n", "shape", "expected an array, got None"),
    "returns a text": ("def im2col(x, kernel, stride):\n    return 'ok'\n", "shape", "expected an array, got str"),
    "wrong arguments": ("def im2col(x):\n    return x\n", "shape", "TypeError: im2col() takes 1 positional argument"),
    "interrupt": ("def im2col(*a):\n    raise KeyboardInterrupt\n", "shape", "KeyboardInterrupt"),
    "not a number": (
        "import numpy as np\ndef im2col(*a): return np.full((32, 18), np.nan)\n",
        "one image",
        "shape (4, 4)",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_file_that_fails_is_told_in_one_line(kind, tmp_path):
    text, check, words = BAD[kind]
    fault = first_fault(written(tmp_path, text), exercise(1))
    assert fault.name == check
    assert words in fault.seen
    assert "\n" not in fault.seen
    assert fault.hint


BORROWED = {
    "imported": (2, "from minires.ops import conv2d_backward\n"),
    "called": (2, "from minires import ops\ndef conv2d_backward(*a, **k):\n    return ops.conv2d_backward(*a, **k)\n"),
    "in loops": (4, "from minires.ops import naive\nbatchnorm_backward = lambda *a: naive.batchnorm_backward(*a)\n"),
    "partial": (
        4,
        "import functools, minires.ops as o\nbatchnorm_backward = functools.partial(o.batchnorm_backward)\n",
    ),
    "by a layer": (
        2,
        """
from minires import nn
def conv2d_backward(dy, x, w, *, stride=1, pad=0):
    conv = nn.Conv2d("conv", *w.shape[2:], w.shape[:2], stride=stride, pad=pad)
    conv.w.data, conv.w.grad = w, 0 * w
    conv.forward(x)
    return conv.backward(dy), conv.w.grad, conv.b.grad
""",
    ),
    "parent's": (5, "super().forward(x)"),
}


@pytest.mark.parametrize("kind", BORROWED)
def test_the_library_s_own_op_is_no_answer(kind, tmp_path):
    number, text = BORROWED[kind]
    if kind == "parent's":
        body = exercise(number).solution.read_text().partition("    def forward")[0]
        text = f"{body}    def forward(self, x):\n        return {text}\n\n    backward = lambda self, dy: dy\n"
    fault = first_fault(written(tmp_path, text), exercise(number))
    assert "the library's own" in fault.seen
    assert "write it yourself" in fault.hint


@pytest.mark.parametrize("number", [7, 8, 10])
def test_a_block_may_inherit_what_was_wrong(number, tmp_path):
    """To delete both overrides is a right answer: the library's Block is what was meant."""
    text = exercise(number).text.partition("    def forward")[0]
    if number == 10:
        text = text.replace("channels, 2 * channels, 1, seed", "channels, 2 * channels, 1, stride=2, seed")
    assert first_fault(written(tmp_path, text), exercise(number)) is None


def test_an_input_that_was_changed_is_named(tmp_path):
    text = exercise(1).solution.read_text().replace("    fields =", "    x += 1\n    x -= 1\n    fields =")
    assert first_fault(written(tmp_path, text), exercise(1)).seen == "the caller's x was changed"


HOSTILE = {
    "loops": "def im2col(x, kernel, stride):\n    while True:\n        pass\n",
    "sleeps at once": "import time\ntime.sleep(60)\n",
    "leaves": "import os\ndef im2col(x, kernel, stride):\n    print('so far')\n    os._exit(0)\n",
    "forges": """
import os
def im2col(x, kernel, stride):
    print('{"result": {"name": "dtype", "seen": "", "hint": ""}}')
    print('{"end": true}', flush=True)
    os._exit(0)
""",
    "talks": "for _ in range(2000): print('much ado ' * 100)\n",
    "asks": "name = input('your name? ')\n",
    "wants memory": "import numpy as np\ndef im2col(*a):\n    return np.empty(6 * 2**30, np.uint8)\n",
    "dies": "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n",
    "leaves others behind": """
import subprocess, sys, threading, time
child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
print("child", child.pid)
threading.Thread(target=time.sleep, args=(60,)).start()
""",
    "right": "print('hello')\n" + exercise(1).solution.read_text(),
}


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory):
    """Every hostile file judged in a process of its own, in a folder with a file that shadows a standard module."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "random.py").write_text("raise RuntimeError('in the way')\n")

    def run(kind):
        path = folder / f"{kind.replace(' ', '_')}.py"
        path.write_text(HOSTILE[kind])
        return judge.judge(path, exercise(1), seconds=1 if kind in ("loops", "sleeps at once") else None)

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(HOSTILE, pool.map(run, HOSTILE), strict=True))


def test_the_right_answer_passes_in_its_process_and_its_print_is_kept(verdicts):
    verdict = verdicts["right"]
    assert verdict.ok
    assert [r.name for r in verdict.results] == ["file", *exercise(1).checks.CHECKS]
    assert verdict.printed.strip() == "hello"


ENDS = {
    "loops": ("shape", "still running after 1 s, in line "),
    "sleeps at once": ("file", "still running after 1 s, in line 2"),
    "leaves": ("shape", "ends the whole process with status 0 (os._exit)"),
    "forges": ("shape", "ends the whole process with status 0 (os._exit)"),
    "talks": ("file", "there is no `im2col`"),
    "asks": ("file", "waits for input (line 1: `name = input('your name? ')`)"),
    "wants memory": ("shape", "out of memory (4 GiB are allowed)"),
    "dies": ("file", "the process died (Killed"),
    "leaves others behind": ("file", "there is no `im2col`"),
}


@pytest.mark.parametrize("kind", ENDS)
def test_a_hostile_file_is_told_in_one_line(verdicts, kind):
    if kind == "wants memory" and sys.platform != "linux":
        pytest.skip("this limit is Linux's")
    verdict, (check, words) = verdicts[kind], ENDS[kind]
    assert not verdict.ok
    fault = next(r for r in verdict.results if not r.ok)
    assert fault.name == check
    assert words in fault.seen
    assert "\n" not in fault.seen
    assert fault.hint
    assert "Traceback" not in verdict.printed


def test_what_is_printed_is_no_verdict_and_has_an_end(verdicts):
    assert '{"end": true}' in verdicts["forges"].printed
    assert len(verdicts["forges"].unreached) == 7
    assert verdicts["leaves"].printed.strip() == "so far"
    assert len(verdicts["talks"].printed) < 2 * judge.PRINTED
    assert "bytes more" in verdicts["talks"].printed


def test_no_process_is_left_behind(verdicts):
    stat = Path(f"/proc/{verdicts['leaves others behind'].printed.split()[1]}/stat")
    assert not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments) -> int:
    return cli.main(["exercise", *map(str, arguments)])


def test_the_command_lists_and_hands_out_and_never_overwrites(here, capsys):
    assert run() == 0
    listed = capsys.readouterr().out
    assert all(task.title in listed for task in TASKS)
    assert run(1) == 0
    assert "Exercise 1: im2col" in capsys.readouterr().out
    file = here / "exercise_01_im2col.py"
    assert file.read_text() == exercise(1).text
    file.write_text("my work")
    assert run(1) == 0
    assert "is there already" in capsys.readouterr().out
    assert file.read_text() == "my work"
    assert [p.name for p in here.iterdir()] == [file.name]


@pytest.mark.slow
def test_the_command_checks(here, capsys):
    (here / "mine.py").write_text("print('a [b]')\n" + exercise(1).text)
    assert run(1, "--check", "mine.py") == 1
    shown = capsys.readouterr()
    assert shown.err == ""
    assert "pass  file" in shown.out
    assert "FAIL  shape" in shown.out
    assert shown.out.count("not written yet") == 1
    assert "| a [b]" in shown.out
    assert "hint: Read the statement" in shown.out
    assert "1 of 9 checks pass" in shown.out
    (here / "mine.py").write_text("while True: pass")
    judge_briefly = judge.judge
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judge, "judge", lambda path, task: judge_briefly(path, task, seconds=0.5))
        assert run(1, "--check", "mine.py") == 1
    shown = capsys.readouterr().out
    assert "still running after 0.5 s, in line 1" in shown
    assert shown.count(" --   ") == 8
    assert run(1, "--check", exercise(1).solution) == 0
    assert "all 9 checks pass" in capsys.readouterr().out


def test_the_command_names_a_file_that_is_missing(here, capsys):
    for arguments, words in (
        ((1, "--check", "absent.py"), "absent.py: no such file"),
        ((1, "--check", here), "it is a folder"),
        ((99,), "there is no exercise 99"),
        (("--hint",), "say which one"),
    ):
        assert run(*arguments) == 2
        shown = capsys.readouterr()
        assert words in shown.err
        assert len(shown.err.splitlines()) == 1
        assert shown.out == ""


def test_a_verdict_as_json_and_what_is_solved_is_marked(here, capsys):
    assert run(1, "--check", exercise(1).path, "--json") == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["solved"], told["passed"], told["of"]) == (False, 1, 9)
    assert "not written yet" in next(check["seen"] for check in told["checks"] if not check["ok"])
    run()
    assert "solved" not in capsys.readouterr().out
    assert run(1, "--check", exercise(1).solution, "--json") == 0
    assert json.loads(capsys.readouterr().out)["solved"]
    run()
    assert capsys.readouterr().out.count("solved") == 1


@pytest.mark.slow
def test_a_class_is_graded(here, capsys):
    handed = {
        "anna/exercise_01_im2col.py": exercise(1).solution,
        "anna/week2/exercise_04_batchnorm_fused.py": exercise(4).path,
        "boris_exercise_01_im2col.py": exercise(1).path,
    }
    for name, source in handed.items():
        path = here / "class" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source.read_text())
    (here / "class" / "anna" / "notes.py").write_text("1 / 0")
    (here / "class" / "anna" / classroom.STATE).write_text('{"hints": {"1": 2}, "solved": []}')
    assert run("--grade", "class", "--csv", "marks.csv", "--gradescope", "results.json") == 0
    shown = capsys.readouterr().out
    assert "anna" in shown
    assert "9 of 9" in shown
    rows = list(csv.DictReader((here / "marks.csv").open()))
    marks = [(row["student"], row["exercise"], row["solved"], row["hints"]) for row in rows]
    assert marks == [("anna", "1", "True", "2"), ("anna", "4", "False", "0"), ("boris", "1", "False", "0")]
    assert "not written yet" in rows[2]["first fault"]
    tests = json.loads((here / "results.json").read_text())["tests"]
    assert len(tests) == 18 + 1 + len(exercise(4).checks.CHECKS)
    assert sum(test["score"] for test in tests) == 9 + sum(int(row["passed"]) for row in rows[1:])
    assert run("--grade", "class", "--json") == 0
    assert [told["passed"] for told in json.loads(capsys.readouterr().out)] == [int(row["passed"]) for row in rows]
    (here / "empty").mkdir()
    (here / "class" / "exercise_99.py").write_text("")
    for arguments, words in (
        (("--grade", "absent"), "expected a folder of submissions"),
        (("--grade", "empty"), "no file in it is named like"),
        (("--grade", "class"), "exercise_99.py: there is no exercise 99"),
        (("--csv", "x.csv"), "go with --grade"),
        ((1, "--json"), "--json goes with"),
    ):
        assert run(*arguments) == 2
        assert words in " ".join(capsys.readouterr().err.split())


def test_hints_come_one_at_a_time(here, capsys):
    for number in (1, 2, 3, 1):
        assert run(2, "--hint") == 0
        shown = " ".join(capsys.readouterr().out.split())
        assert shown.startswith(f"hint {number} of 3: {exercise(2).checks.HINTS[number - 1]}")
        assert ("A reference solution: " in shown) == (number == 3)
    assert run(3, "--hint") == 0
    assert "hint 1 of 3" in capsys.readouterr().out
    assert classroom.state(here) == {"hints": {"2": 1, "3": 1}, "solved": []}
    (here / classroom.STATE).write_text("no JSON")
    assert run(2, "--hint") == 0
    assert "hint 1 of 3" in capsys.readouterr().out


def test_where_the_solutions_were_not_installed_the_last_hint_says_where_they_are(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    task = exercise(8)
    monkeypatch.setattr(type(task), "solution", property(lambda self: tmp_path / self.path.name))
    for _ in task.checks.HINTS:
        assert cli.main(["exercise", "8", "--hint"]) == 0
    assert "lessons/exercises/solutions/exercise_08_fading_gradient.py in the sources" in capsys.readouterr().out


def test_an_installed_package_has_no_solutions():
    setup = (Path(__file__).parents[2] / "setup.py").read_text(encoding="utf-8")
    kept_back = re.search(r"KEPT_BACK = (\(.*?\))", setup)[1]
    found = find_packages(str(Path(__file__).parents[2]), include=["lessons*"], exclude=literal_eval(kept_back))
    assert "lessons.exercises.checks" in found
    assert "lessons.exercises.solutions" not in found
