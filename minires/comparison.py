"""Runs beside each other: what differs in their settings, how they did, and whether that can be told from chance.

    found = compare(["runs/a", "runs/b", "runs/c"])
    found.table(), found.tests, found.as_dict()

Runs that are equal but for their seed are one group. Two groups of several seeds each are held against each other by a
permutation test of their mean accuracy, two single runs by McNemar's test of their answers to the same test images.
"""

import json
import math
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
from rich.table import Column, Table

from minires.errors import DataError, MiniresError
from minires.run import PREDICTIONS, read_manifest, read_predictions
from minires.train.checkpoint import read_header
from minires.train.scores import interval_of, with_interval

EXACT = 50_000  # ways to deal out the runs, up to which every one is looked at
DRAWS = 20_000  # random ones of more
LEVEL = 0.05  # the p below which a difference is called one
MEASURED = ("test", "validation")
COLUMNS = 3  # differing settings that have a column each; more have a table of their own
# settings that follow from others: not named where one of those differs too
FOLLOWS = {"fingerprint": ("data", "size", "split seed", "test fraction"), "input shape": ("size",)}


@dataclass(frozen=True)
class Run:
    """A run as it stands. settings: all that was chosen but the seed.

    `accuracy` and `loss`, of the test part, are its last epoch's; where a validation part chose the epoch they are that
    epoch's, measured once at the end: `result`.
    """

    folder: str
    name: str
    seed: int
    settings: dict
    history: list[dict]
    epochs: int  # that were asked for
    stopped: str
    images: int  # in the test part
    test: str | None  # its fingerprint
    result: dict  # what the manifest says of the end; empty before it

    @property
    def accuracy(self) -> float | None:
        return self.history[-1].get("test_accuracy", self.result.get("test accuracy"))

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the accuracy."""
        return None if self.accuracy is None else interval_of(self.accuracy, self.images)

    @property
    def loss(self) -> float:
        """Of the test part; where it was not measured, of the validation part, else of the training part."""
        last = self.history[-1]
        found = last.get("test_loss"), self.result.get("test loss"), last.get("validation_loss"), last["train_loss"]
        return next(loss for loss in found if loss is not None)

    @property
    def best(self) -> tuple[str, int, float] | None:
        """(part, epoch, accuracy) of the highest accuracy on the part that was measured each epoch, which flatters."""
        found = [(part, row["epoch"], row.get(f"{part}_accuracy")) for row in self.history for part in MEASURED]
        return max((one for one in found if one[2] is not None), key=lambda one: one[2], default=None)

    @property
    def seconds(self) -> float:
        return sum(row["seconds"] for row in self.history)

    @property
    def complete(self) -> bool:
        """Whether it was trained to its end."""
        return len(self.history) >= self.epochs or bool(self.stopped)

    def as_dict(self) -> dict:
        """Everything as plain types, for JSON."""
        told = ("accuracy", "interval", "loss", "best", "seconds", "complete")
        return asdict(self) | {key: getattr(self, key) for key in told}


@dataclass(frozen=True)
class Group:
    """Runs that are equal but for the seed. label: the settings that others have not; of many, the runs' names."""

    label: str
    runs: tuple[Run, ...]

    @property
    def accuracies(self) -> np.ndarray:
        return np.array([run.accuracy for run in self.runs if run.accuracy is not None])

    def as_dict(self) -> dict:
        """The accuracy's mean, spread (standard deviation over seeds) and range, for JSON."""
        found = self.accuracies
        numbers = {}
        if len(found):
            spread = found.std(ddof=1) if len(found) > 1 else math.nan
            numbers = {"mean": found.mean(), "spread": spread, "smallest": found.min(), "largest": found.max()}
        numbers = {name: float(value) for name, value in numbers.items()}
        return {"label": self.label, "runs": [run.name for run in self.runs], "accuracy": numbers}

    def __str__(self) -> str:
        found = self.accuracies
        if len(found) < 2:
            return f"{self.label}: {len(self.runs)} run"
        mean, spread = found.mean(), found.std(ddof=1)
        span = f"{found.min():.1%}..{found.max():.1%}"
        return f"{self.label}: accuracy {mean:.2%} ({span}), spread {100 * spread:.2f} points over {len(found)} seeds"


@dataclass(frozen=True)
class Difference:
    """Two groups held against each other. p: how often chance alone gives a difference as large as this or a larger."""

    a: str
    b: str
    difference: float  # accuracy of a less that of b
    method: str
    p: float
    least: float  # the smallest p that so many runs or images can give
    adjusted: float  # for all the tests that were made (Holm)

    def __str__(self) -> str:
        told = "" if self.adjusted == self.p else f", {self.adjusted:.3g} for all tests here (Holm)"
        if self.least >= LEVEL:
            verdict = f"are too few to be told apart (p is never below {self.least:.2g})"
        else:
            verdict = "differ" if self.adjusted < LEVEL else "cannot be told apart"
        difference = f"{100 * self.difference:+.2f} points, p = {self.p:.3g}{told}"
        return f"{self.a} and {self.b} {verdict}: {difference}; {self.method}"


@dataclass(frozen=True)
class Comparison:
    """What `compare` found. differ: names of the settings that are not the same everywhere; left_out: one line each."""

    groups: tuple[Group, ...]
    differ: tuple[str, ...]
    tests: tuple[Difference, ...]
    left_out: tuple[str, ...]

    @property
    def runs(self) -> list[Run]:
        return [run for group in self.groups for run in group.runs]

    def as_dict(self) -> dict:
        """Everything as plain types, for JSON."""
        return {
            "runs": [run.as_dict() for run in self.runs],
            "groups": [group.as_dict() for group in self.groups],
            "differ": list(self.differ),
            "tests": [asdict(test) for test in self.tests],
            "left_out": list(self.left_out),
        }

    def rows(self) -> tuple[list[str], list[list[str]]]:
        """Headings and a row of texts for each run, for a table of any kind."""
        apart = self.differ if len(self.differ) <= COLUMNS else ()
        headings = ["run", *apart, "seed", "epochs", "accuracy (95 % interval)", "best", "loss", "time"]
        rows = []
        for group in self.groups:
            for run in group.runs:
                own = [_said(run.settings.get(name)) for name in apart]
                best, accuracy = run.best, "no test part" if run.accuracy is None else ""
                rows.append(
                    [
                        run.name,
                        *own,
                        str(run.seed),
                        str(len(run.history)) if run.complete else f"{len(run.history)} of {run.epochs}",
                        accuracy or with_interval(run.accuracy, run.interval),
                        f"{best[2]:.1%}, epoch {best[1]}{' (validation)' * (best[0] == 'validation')}" if best else "",
                        f"{run.loss:.4f}",
                        f"{run.seconds:,.0f} s",
                    ]
                )
        return headings, rows

    def apart(self) -> tuple[list[str], list[list[str]]]:
        """The same of the settings that differ, a column a group, where they are too many for `rows`; else no row."""
        if len(self.differ) <= COLUMNS:
            return [], []
        firsts = [group.runs[0].settings for group in self.groups]
        rows = [[name, *(_said(settings.get(name)) for settings in firsts)] for name in self.differ]
        return ["setting", *(group.label for group in self.groups)], rows

    def table(self) -> Table:
        """One row a run, a line between groups."""
        headings, rows = self.rows()
        table = Table(*(Column(heading, overflow="fold") for heading in headings))
        ends = np.cumsum([len(group.runs) for group in self.groups])
        for i, row in enumerate(rows, start=1):
            table.add_row(*row, end_section=i in ends)
        return table

    def sentences(self) -> list[str]:
        """What follows, each in a line: the groups of several seeds, the tests."""
        return [str(group) for group in self.groups if len(group.accuracies) > 1] + list(map(str, self.tests))


def compare(folders) -> Comparison:
    """The runs in these folders beside each other. What is no run, or has no epoch yet, is left out with a word.

    DataError where nothing is left.
    """
    runs, left_out = [], []
    for folder in dict.fromkeys(str(folder).rstrip("/") or "/" for folder in folders):
        try:
            runs.append(read_run(folder))
        except MiniresError as error:
            left_out.append(str(error))
    if not runs:
        raise DataError(f"no run to compare: {left_out[0] if left_out else 'give the folders of runs'}")
    if len({run.name for run in runs}) < len(runs):
        runs = [replace(run, name=run.folder) for run in runs]
    together: dict[str, list[Run]] = {}
    for run in runs:
        together.setdefault(json.dumps(run.settings, sort_keys=True), []).append(run)
    names = dict.fromkeys(name for run in runs for name in run.settings)
    differ = [name for name in names if len({json.dumps(run.settings.get(name, "absent")) for run in runs}) > 1]
    differ = tuple(name for name in differ if not set(FOLLOWS.get(name, ())) & set(differ))
    groups = tuple(_group(members, differ) for members in together.values())
    return Comparison(groups, differ, _tests(groups), tuple(left_out))


def _group(members, differ) -> Group:
    told = [f"{name} {_said(members[0].settings.get(name))}" for name in differ]
    if not 0 < len(told) <= COLUMNS:
        told = [run.name for run in members]
    return Group(", ".join(told), tuple(sorted(members, key=lambda run: run.seed)))


def read_run(folder: str) -> Run:
    """The run in a folder, from its manifest and the checkpoint's header; CheckpointError or DataError, one line."""
    path = Path(folder) / "model.h5"
    if not (path.parent / "manifest.json").exists():
        raise DataError(f"{folder}: is no run (no manifest.json there): give folders that training wrote")
    manifest = read_manifest(folder)
    if not path.exists():
        raise DataError(f"{folder}: nothing was saved there yet: wait for its first epoch")
    training = read_header(path)["training"]
    try:
        data, progress, recipe = manifest["data"], training["progress"], training["recipe"]
        if not progress["history"]:
            raise DataError(f"{folder}: no epoch was finished yet: wait for it, or go on with --resume {folder}")
        fingerprint = f"{data['train fingerprint'][:8]}/{(data['test fingerprint'] or 'none')[:8]}"
        chosen = {"data": Path(data["spec"]).name, **manifest["architecture"], **recipe, "fingerprint": fingerprint}
        chosen |= {key: data[key] for key in ("size", "split_seed", "test_fraction", "flip") if key in data}
        return Run(
            folder=folder,
            name=Path(folder).name,
            seed=chosen.pop("seed"),
            settings=dict(_flat(chosen)),
            history=progress["history"],
            epochs=recipe["epochs"],
            stopped=progress["stopped"],
            images=data["test images"],
            test=data["test fingerprint"],
            result=manifest.get("result", {}),
        )
    except (KeyError, TypeError) as error:
        raise DataError(f"{folder}: its manifest is not of this version ({error!r}): compare newer runs") from None


def _flat(settings: dict):
    """(name, value) of each setting; what is nested is named 'augment rotate'."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from ((f"{name} {inner}", v) for inner, v in _flat(value))
        else:
            yield name.replace("_", " "), list(value) if isinstance(value, tuple) else value


def _said(value) -> str:
    words = {True: "yes", False: "no", None: "none"}
    return words[value] if value is None or isinstance(value, bool) else str(value)


# --- can it be told from chance? ------------------------------------------------------------------------------------


def _tests(groups) -> tuple[Difference, ...]:
    found = [_test(a, b) for a, b in combinations(groups, 2)]
    found = sorted((test for test in found if test), key=lambda test: test.p)
    adjusted = holm([test.p for test in found])
    return tuple(replace(test, adjusted=p) for test, p in zip(found, adjusted, strict=True))


def _test(a: Group, b: Group) -> Difference | None:
    """The test that their runs allow; None where there is none, or the test images are not the same."""
    if len({run.test for run in (*a.runs, *b.runs)}) > 1:
        return None
    first, second = a.accuracies, b.accuracies
    if min(len(first), len(second)) >= 2:
        p, exact = permutation(first, second)
        least = (1 + (len(first) == len(second))) / math.comb(len(first) + len(second), len(first))
        method = f"{'exact' if exact else 'random'} permutation test of the mean, {len(first)} and {len(second)} seeds"
        return Difference(a.label, b.label, float(first.mean() - second.mean()), method, p, least, p)
    if len(a.runs) == len(b.runs) == 1 and (right := _answers(a.runs[0], b.runs[0])):
        only_a, only_b = (int((one & ~other).sum()) for one, other in (right, right[::-1]))
        p = mcnemar(only_a, only_b)
        method = f"McNemar's exact test: {only_a} images right in the first alone, {only_b} in the second"
        return Difference(a.label, b.label, (only_a - only_b) / len(right[0]), method, p, 0.0, p)
    return None


def _answers(a: Run, b: Run):
    """Which test images each has right, in the same order; None where the predictions of one are not there."""
    paths = [Path(run.folder) / PREDICTIONS for run in (a, b)]
    if not all(path.exists() for path in paths):
        return None
    (labels, one, whose), (_, other, whose_other) = map(read_predictions, paths)
    if {whose, whose_other} != {a.test} or len(one) != len(other):
        return None
    return one.argmax(axis=1) == labels, other.argmax(axis=1) == labels


def permutation(a, b, *, seed: int = 0) -> tuple[float, bool]:
    """(p, whether every way was looked at): the share of ways to deal out the numbers that part the means as far.

    Two-sided, of |mean a - mean b|; up to EXACT ways all of them, else DRAWS random ones and the one that happened.
    E. Pitman, "Significance tests which may be applied to samples from any populations", JRSS suppl. 4, 1937.
    """
    both, size = np.concatenate([a, b]), len(a)
    total, seen = both.sum(), abs(np.mean(a) - np.mean(b)) - 1e-12

    def parted(first):
        return np.abs(first / size - (total - first) / (len(both) - size)) >= seen

    if math.comb(len(both), size) <= EXACT:
        return float(parted(np.array([both[list(i)].sum() for i in combinations(range(len(both)), size)])).mean()), True
    rng = np.random.default_rng(seed)
    sums = np.array([rng.permutation(both)[:size].sum() for _ in range(DRAWS)])
    return float((parted(sums).sum() + 1) / (DRAWS + 1)), False


def mcnemar(only_a: int, only_b: int) -> float:
    """p, exact and two-sided, that of images which one alone has right so few fall to either, were both as likely.

    Q. McNemar, "Note on the sampling error of the difference between correlated proportions", Psychometrika 12, 1947.
    """
    n, fewer = only_a + only_b, min(only_a, only_b)
    return min(1.0, 2 * sum(math.comb(n, k) for k in range(fewer + 1)) / 2**n)


def holm(ps: list[float]) -> list[float]:
    """p values, smallest first, adjusted for their number. S. Holm, Scandinavian Journal of Statistics 6, 1979."""
    adjusted, highest = [], 0.0
    for i, p in enumerate(ps):
        highest = max(highest, min(1.0, p * (len(ps) - i)))
        adjusted.append(highest)
    return adjusted
