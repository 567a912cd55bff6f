"""Runs beside each other: what differs is named, groups are groups, and the tests are those of the books."""

import itertools
import json
import math
import shutil

import numpy as np
import pytest
from slowed import undrawn

from minires import cli
from minires.comparison import compare, holm, mcnemar, permutation
from minires.data import make_signs, write_signs
from minires.errors import DataError
from minires.train.scores import wilson

SMALL = ["--arch", "resnet8", "--size", "16", "--device", "cpu", "--no-check", "--batch-size", "32"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """fast0, fast1 and slow0, slow1: two rates, two seeds each; other: another network; begun: stopped at once."""
    root = tmp_path_factory.mktemp("runs")
    train, test = make_signs(n_train=48, n_test=24, size=16)
    write_signs(root, train, test)
    with pytest.MonkeyPatch.context() as patch:
        undrawn(patch.setattr)
        for lr, name in ((0.002, "fast"), (0.0001, "slow")):
            for seed in (0, 1):
                train_one(root, f"{name}{seed}", "--lr", lr, "--seed", seed)
        train_one(root, "other", "--no-skip", "--epochs", 1)
    (root / "foreign").mkdir()
    shutil.copytree(root / "other", root / "begun")
    (root / "begun" / "model.h5").unlink()
    return root


def train_one(root, name, *options):
    data = ["--data", root / "train_signs.h5", "--out", root / name]
    assert cli.main(["train", *SMALL, *map(str, [*data, "--epochs", 2, *options])]) == 0


def of(runs, *names):
    return compare([runs / name for name in names])


def test_runs_equal_but_for_the_seed_are_one_group_and_what_differs_is_named(runs):
    found = of(runs, "fast0", "fast1", "slow0", "slow1")
    assert found.differ == ("lr",)
    assert [group.label for group in found.groups] == ["lr 0.002", "lr 0.0001"]
    assert [[run.name for run in group.runs] for group in found.groups] == [["fast0", "fast1"], ["slow0", "slow1"]]
    for run in found.runs:
        assert run.interval == wilson(round(run.accuracy * 24), 24)
    first = found.groups[0]
    assert first.as_dict()["accuracy"]["mean"] == pytest.approx(first.accuracies.mean())
    assert first.as_dict()["accuracy"]["spread"] == pytest.approx(np.std(first.accuracies, ddof=1))
    (test,) = found.tests
    assert (test.p, test.least) == (permutation(*(g.accuracies for g in found.groups))[0], pytest.approx(1 / 3))
    assert "too few" in str(test)


def test_two_single_runs_are_held_against_each_other_by_their_answers(runs):
    (test,) = of(runs, "fast0", "slow0").tests
    assert "McNemar's exact test" in test.method
    first, second = (run.accuracy for run in of(runs, "fast0", "slow0").runs)
    assert test.difference == pytest.approx(first - second)


@pytest.mark.slow
def test_a_run_whose_epoch_a_validation_part_chose_counts_by_its_one_measurement(tmp_path, monkeypatch):
    undrawn(monkeypatch.setattr)
    train, test = make_signs(n_train=48, n_test=24, size=16)
    sets = {"train": (train, 48), "val": (test, 24), "test": (train, 12)}
    arrays = {f"x_{part}": data.images(np.arange(n)) for part, (data, n) in sets.items()}
    arrays |= {f"y_{part}": data.labels[:n] for part, (data, n) in sets.items()}
    np.savez(tmp_path / "parts.npz", **arrays)
    for seed in (0, 1):
        train_one(tmp_path, f"run{seed}", "--seed", seed, "--data", tmp_path / "parts.npz")
    for run in of(tmp_path, "run0", "run1").runs:
        result = json.loads((tmp_path / run.name / "manifest.json").read_text())["result"]
        assert (run.accuracy, run.loss) == (result["test accuracy"], result["test loss"])
        assert run.images == 12
        assert run.best[0] == "validation"
        assert run.best[2] == max(row["validation_accuracy"] for row in run.history)
    table, _ = of(tmp_path, "run0", "run1").rows()[1]
    assert any("(validation)" in cell for cell in table)


def test_many_settings_have_a_table_of_their_own(runs):
    found = of(runs, "fast0", "other", "slow0")
    assert set(found.differ) == {"skip", "epochs", "lr"}
    assert found.apart()[1] == []
    assert found.rows()[0][1:4] == list(found.differ)


def test_what_is_no_run_gets_a_word(runs, capsys):
    assert cli.main(["compare", *(str(runs / n) for n in ("fast0", "foreign", "begun", "absent", "slow0"))]) == 0
    said = capsys.readouterr()
    left = said.err.splitlines()
    assert len(left) == 3
    assert all(line.startswith("left out: ") for line in left)
    assert "is no run" in left[0]
    assert "nothing was saved there yet" in left[1]
    assert "fast0" in said.out
    with pytest.raises(DataError, match="no run to compare"):
        of(runs, "foreign")
    assert cli.main(["compare", str(runs / "fast0")]) == 2
    assert capsys.readouterr().err == f"minires: {runs / 'fast0'}: the only run given: give two or more to compare\n"


@pytest.mark.slow
def test_picture_page_and_numbers(runs, tmp_path, capsys):
    names = [str(runs / name) for name in ("fast0", "fast1", "slow0")]
    out = ["--out", str(tmp_path / "curves.svg"), "--html", str(tmp_path / "page.html")]
    assert cli.main(["compare", *names, *out, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [run["name"] for run in told["runs"]] == ["fast0", "fast1", "slow0"]
    assert told["differ"] == ["lr"]
    assert (tmp_path / "curves.svg").read_text().startswith("<?xml")
    page = (tmp_path / "page.html").read_text()
    assert "fast1" in page
    assert "lr 0.002" in page
    assert "<script" not in page


def test_permutation_looks_at_every_way():
    a, b = [0.9, 0.8, 0.85], [0.5, 0.6, 0.55]
    assert permutation(a, b) == (pytest.approx(2 / math.comb(6, 3)), True)
    assert permutation(a, a)[0] == 1
    both, as_far = [*a, 0.7, 0.86, 0.88], 0
    for chosen in itertools.combinations(range(6), 3):
        rest = [both[i] for i in range(6) if i not in chosen]
        as_far += abs(np.mean([both[i] for i in chosen]) - np.mean(rest)) >= abs(np.mean(a) - np.mean(both[3:])) - 1e-12
    assert permutation(a, both[3:])[0] == pytest.approx(as_far / 20)
    rng = np.random.default_rng(0)
    p, exact = permutation(rng.normal(0, 1, 15), rng.normal(0, 1, 15))
    assert not exact
    assert 0 < p <= 1


def test_mcnemar_is_a_sign_test_of_the_images_that_part_them():
    assert mcnemar(0, 0) == 1
    assert mcnemar(5, 5) == 1
    assert mcnemar(1, 9) == pytest.approx(2 * (1 + 10) / 2**10)
    assert mcnemar(9, 1) == mcnemar(1, 9)


def test_holm():
    assert holm([0.01, 0.02, 0.5]) == [0.03, 0.04, 0.5]
    assert holm([0.4, 0.45]) == [0.8, 0.8]
