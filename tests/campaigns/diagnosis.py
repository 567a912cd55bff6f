"""Does `minires.diagnose` name the right cause? The collection of symptoms, built and asked about one by one.

    python tests/campaigns/diagnosis.py                               # every symptom, and every healthy setting
    python tests/campaigns/diagnosis.py --only "x += x,by heart"       # some, by their names
    python tests/campaigns/diagnosis.py --area data --jobs 2
    python tests/campaigns/diagnosis.py --measure                      # how each behaves, without a diagnosis

A line each, then a table: how often the right cause is named first, among the first three, or not at all, for each
area and in all. A healthy setting, which is asked about with three seeds, is a false alarm where any cause has the
status "fail"; those that only warn are counted apart. Status 1 where a symptom could not be built or raised.
"""

import argparse
import importlib.util
import json
import math
import os
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__)
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1] / "support")]

import numpy as np  # noqa: E402
from rich.table import Table  # noqa: E402

from minires.console import Console  # noqa: E402
from minires.errors import MiniresError  # noqa: E402

FIRST, THREE, MISSED, RIGHT, WARNED, ALARM, BROKEN = (
    *("first", "among three", "missed"),
    *("nothing found", "warned", "FALSE ALARM"),
    "RAISED",
)


@dataclass(frozen=True)
class Verdict:
    """What became of one symptom with one seed."""

    name: str
    area: str
    seed: int
    outcome: str
    expected: tuple[str, ...]
    named: tuple[str, ...]  # the causes, likeliest first; of healthy ones with their status
    seconds: float  # of the diagnosis
    building: float
    told: str = ""  # the first cause's evidence, or what was raised


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", metavar="NAME,...", help="these symptoms alone")
    parser.add_argument("--area", default="", metavar="AREA,...", help="those of these areas ('healthy' is one)")
    parser.add_argument("--seeds", default="", metavar="N,...", help="with these seeds in place of each one's own")
    parser.add_argument("--file", type=Path, help="another collection: a Python file with a list SYMPTOMS")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the verdicts there")
    parser.add_argument("--jobs", type=int, default=1, help="in so many processes")
    parser.add_argument("--measure", action="store_true", help="tell how each behaves, and ask for no diagnosis")
    options = parser.parse_args(arguments)
    found = collected(options.file)
    known = {symptom.name for symptom in found}
    names = {name.strip() for name in options.only.split(",") if name.strip()}
    if names - known:
        parser.error(f"no such symptom: {', '.join(sorted(names - known))}")
    areas = {area.strip() for area in options.area.split(",") if area.strip()}
    seeds = [int(seed) for seed in options.seeds.split(",") if seed]
    tasks = [
        (symptom.name, seed)
        for symptom in found
        if (not names or symptom.name in names) and (not areas or symptom.area in areas) and possible(symptom)
        for seed in seeds or getattr(symptom, "seeds", (0,))
    ]
    verdicts, console, ask = [], Console(), measured if options.measure else judged
    for verdict in each(ask, tasks, options.file, options.jobs):
        verdicts.append(verdict)
        console.print(line(verdict), soft_wrap=True, highlight=False, markup=False)
    if options.json:
        options.json.write_text(json.dumps([asdict(v) for v in verdicts], indent=1) + "\n", encoding="utf-8")
    if not options.measure and verdicts:
        console.print(table(verdicts))
    return int(any(v.outcome == BROKEN for v in verdicts))


def collected(path: Path | None) -> list:
    """The symptoms of our collection, or of another file."""
    if path is None:
        from symptoms import HEALTHY, SYMPTOMS

        return [*SYMPTOMS, *HEALTHY]
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return list(module.SYMPTOMS)


def possible(symptom) -> bool:
    return getattr(symptom, "possible", True)


def each(ask, tasks, path, jobs):
    """A verdict for each (name, seed), as they come."""
    if jobs == 1:
        known = {symptom.name: symptom for symptom in collected(path)}
        yield from (ask(known[name], seed) for name, seed in tasks)
        return
    os.environ.setdefault("MINIRES_THREADS", "1")
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(_in_child, *zip(*[(ask.__name__, name, seed, path) for name, seed in tasks], strict=True))


def _in_child(ask, name, seed, path):
    symptom = next(symptom for symptom in collected(path) if symptom.name == name)
    return globals()[ask](symptom, seed)


def built(symptom, folder: Path, seed: int) -> dict:
    """The arguments of the diagnosis."""
    return symptom.build(folder, seed=seed) if seed else symptom.build(folder)


def judged(symptom, seed: int) -> Verdict:
    """Build it, ask, and hold the answer against the right causes."""
    from minires import diagnose

    start = time.perf_counter()
    began = None
    causes, told = (), ""
    with tempfile.TemporaryDirectory(prefix="symptom-") as folder:
        try:
            arguments = built(symptom, Path(folder), seed)
            began = time.perf_counter()
            causes = tuple(diagnose(**arguments).causes)
            seconds = time.perf_counter() - began
        except Exception as error:
            seconds = 0.0 if began is None else time.perf_counter() - began
            told, outcome = _one_line(error), BROKEN
        else:
            told = causes[0].evidence if causes else ""
            outcome = compared(symptom.causes, causes)
    named = tuple(f"{c.name} ({c.status})" if not symptom.causes else c.name for c in causes)
    building = (began or time.perf_counter()) - start
    return Verdict(symptom.name, symptom.area, seed, outcome, symptom.causes, named, seconds, building, told)


def compared(expected: tuple, causes: tuple) -> str:
    """What an ordered tuple of causes is worth where `expected` are right, any of them; () where none is."""
    names = [cause.name for cause in causes]
    if not expected:
        failed = any(getattr(cause, "status", "fail") == "fail" for cause in causes)
        return ALARM if failed else WARNED if causes else RIGHT
    at = min((names.index(name) for name in expected if name in names), default=math.inf)
    return FIRST if at == 0 else THREE if at < 3 else MISSED


def _one_line(error) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def line(verdict: Verdict) -> str:
    """One verdict in one line."""
    seed = f", seed {verdict.seed}" if verdict.seed else ""
    head = f"{verdict.outcome:13} {verdict.seconds:5.1f} s  {verdict.area}: {verdict.name}{seed}"
    if verdict.outcome in (FIRST, RIGHT):
        return head
    wanted = f" [{' or '.join(verdict.expected)}]" if verdict.expected else ""
    named = ", ".join(verdict.named[:4]) or "nothing"
    return f"{head}{wanted}: " + (verdict.told if verdict.outcome == BROKEN else f"named: {named}: {verdict.told}")


def table(verdicts: list[Verdict]) -> Table:
    """How often the right cause was named, area by area; then the healthy ones."""
    result = Table(title="what was named", title_justify="left")
    columns = "area", "symptoms", "first", "in three", "not", "raised", "s each", "s at most"
    for heading in columns:
        result.add_column(heading, justify="left" if heading == "area" else "right")
    by_area = defaultdict(list)
    for verdict in verdicts:
        by_area[verdict.area if verdict.expected else ""].append(verdict)
    healthy, planted = by_area.pop("", []), [v for v in verdicts if v.expected]
    for area, group in [*by_area.items(), ("all", planted)] if planted else []:
        result.add_section() if area == "all" else None
        counts = [sum(v.outcome == kind for v in group) for kind in (FIRST, THREE, MISSED, BROKEN)]
        counts[1] += counts[0]
        result.add_row(area, str(len(group)), *map(str, counts), *_seconds(group))
    if healthy:
        result.add_section()
        counts = {kind: sum(v.outcome == kind for v in healthy) for kind in (RIGHT, WARNED, ALARM, BROKEN)}
        result.add_row("healthy", str(len(healthy)), "", "", "", str(counts[BROKEN]), *_seconds(healthy))
        result.caption = (
            f"healthy: {counts[ALARM]} false alarms, {counts[WARNED]} warned, {counts[RIGHT]} nothing found"
        )
    return result


def _seconds(group):
    seconds = [v.seconds for v in group]
    return f"{np.mean(seconds):.1f}", f"{max(seconds):.1f}"


def measured(symptom, seed: int) -> Verdict:
    """Build it, and tell how it behaves: its training, its accuracy, its numbers, its gradients, its files."""
    start = time.perf_counter()
    outcome, told, building = "built", "", 0.0
    with tempfile.TemporaryDirectory(prefix="symptom-") as folder:
        try:
            arguments = built(symptom, Path(folder), seed)
            building = time.perf_counter() - start
            told = "; ".join(behaviour(**arguments))
        except Exception as error:
            outcome, told = BROKEN, _one_line(error)
    name = f"{symptom.name} ({building:.1f} s to build)"
    return Verdict(name, symptom.area, seed, outcome, symptom.causes, (), 0.0, building, told)


def behaviour(what, data=None, test=None, recipe=None, history=None, inputs=None, weights=None):
    """Facts about the arguments of a diagnosis, in words."""
    import minires
    from minires.data import Dataset, load_parts
    from minires.nn import Module

    is_data = isinstance(data, Path) and what == data
    if isinstance(data, Path):
        try:
            parts = load_parts(data)
            yield " | ".join(parts.notes)
            data, test = parts.train, parts.test
        except MiniresError as error:
            yield _one_line(error)
            data = None
    made = None if what is data or is_data else what
    if isinstance(made, Path):
        rows = what / "history.jsonl"
        history = [json.loads(row) for row in rows.read_text().splitlines()] if rows.exists() else history
        try:
            made = minires.load(what)
        except Exception as error:
            yield _one_line(error)
            made = None
    if history:
        keys = (
            "train_loss",
            "train_accuracy",
            "test_loss",
            "test_accuracy",
            "lr",
            "grad_norm",
            "wait_seconds",
            "seconds",
        )
        for key in keys:
            values = [row[key] for row in history if key in row]
            if values:
                yield f"{key} " + " ".join(
                    f"{v:.3g}" for v in (values if len(values) < 8 else values[:: len(values) // 6])
                )
    if isinstance(made, Module) and not isinstance(data, type(None)):
        try:
            made = minires.Classifier.for_data(made, data)
        except MiniresError as error:
            yield _one_line(error)
    if isinstance(made, minires.Classifier) and isinstance(data, Dataset):
        for name, part in (("training", data), ("test", test)):
            try:
                if part is not None:
                    yield f"{name} {minires.evaluate(made, part)}"
            except Exception as error:
                yield f"{name}: {_one_line(error)}"
        if inputs is not None:
            logits = minires.predict_logits(made.model, inputs)
            yield f"fed by hand: {np.mean(logits.argmax(1) == test.labels[: len(inputs)]):.0%} right"
        elif made.model.parameter_count()[0] < 120_000:
            yield from structure(made, data)
    if weights is not None:
        try:
            yield str(minires.import_weights(getattr(made, "model", made), weights)).partition("\n")[0]
        except Exception as error:
            yield _one_line(error)


def structure(made, data):
    """What the checks of gradients and structure say."""
    import minires
    from minires.instruments.gradcheck import gradcheck

    with np.errstate(all="ignore"):
        try:
            x = made.preprocess(data.images(np.arange(2)), np.float64)
            report = gradcheck(made.model, x, epsilon=1e-7, tolerance=1e-5, coordinates=0, hold=True)
            yield from (f"gradcheck: {f.name} {f.detail}" for f in report.findings)
            report = minires.audit(made.model, input_shape=data.shape)
            yield from (f"audit: {f.name} {f.detail}" for f in report.findings)
        except Exception as error:
            yield f"checks: {_one_line(error)}"


if __name__ == "__main__":
    sys.exit(main())
