"""A run's folder: model.h5, best.h5, history.jsonl, manifest.json, and report.html with its pictures.

The manifest says what was run on what, so that every figure can be made again.
"""

import json
import os
import platform
import shlex
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np

import minires
from minires.backend import choose_device, device_of, thread_count, to_device
from minires.data.dataset import Dataset
from minires.data.hdf5 import atomic_hdf5, open_hdf5
from minires.data.source import Parts, is_there, load_parts
from minires.errors import CheckpointError, DataError
from minires.fast import cpu
from minires.files import write_text
from minires.instruments.gradflow import gradflow
from minires.instruments.maps import gradcam
from minires.instruments.report import write_report
from minires.instruments.watch import read_film
from minires.ranges import check_fields
from minires.train.checkpoint import load_classifier
from minires.train.classifier import Classifier, Evaluation, evaluate
from minires.train.progress import Progress

PREDICTIONS = "predictions.h5"


@dataclass(frozen=True)
class DataSource:
    """Where a run's images come from, and how they are split; enough to load the same data again."""

    spec: str = "builtin"
    size: int | None = 64
    split_seed: int = 0
    test_fraction: float = 0.15
    flip: bool | None = None

    def __post_init__(self):
        check_fields(self)
        if self.spec != "builtin":  # the same data from wherever one asks
            object.__setattr__(self, "spec", os.path.abspath(os.path.expanduser(self.spec)))

    def load(self) -> tuple[Dataset | None, Dataset | None]:
        """Training and test part."""
        parts = self.parts()
        return parts.train, parts.test

    def parts(self, **options) -> Parts:
        """All parts, and what they were taken for; options: further ones of `load_parts`."""
        split = {"seed": self.split_seed, "test_fraction": self.test_fraction}
        return load_parts(self.spec, size=self.size, flip_ok=self.flip, **split, **options)


def environment(device: str) -> dict:
    """Versions and machine, as facts for a manifest or a benchmark."""
    packages = ("numpy", "h5py", "pillow", "matplotlib")
    return {
        "versions": {
            "minires": minires.__version__,
            "python": platform.python_version(),
            **{name: version(name) for name in packages},
        },
        "machine": {
            "system": platform.platform(terse=True),
            "processor": _processor(),
            "cores": os.cpu_count(),
            "blas threads": thread_count(),
            "ops": cpu.description(),
            "device": device if device == "cpu" else f"gpu: {choose_device('gpu')[1]}",
        },
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def begin(out: Path, classifier: Classifier, source: DataSource, parts: Parts, recipe, *, log=(), watch=None) -> dict:
    """Write the manifest of a run that starts now; returns it. log, watch: how it is seen, see `seen`."""
    train = parts.train
    held = {"train": train, "test": parts.test} | ({"validation": parts.validation} if parts.validation else {})
    config = asdict(classifier.model.config)
    trained, kept = classifier.model.parameter_count()
    manifest = {
        "command": shlex.join(["minires", *sys.argv[1:]]),
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "seed": recipe.seed,
        "arch": config.get("arch") or config["builder"] or classifier.model.name,
        **({"variant": config["variant"]} if "variant" in config else {}),
        "parameters": trained + kept,
        **({"log": list(log)} if log else {}),
        **({"watch": watch} if watch else {}),
        "architecture": config,
        "recipe": asdict(recipe),
        "data": {
            **asdict(source),
            "source": train.source,
            "classes": train.classes,
            **{f"{name} images": 0 if part is None else len(part) for name, part in held.items()},
            **{f"{name} fingerprint": None if part is None else part.fingerprint() for name, part in held.items()},
            "read as": parts.notes,
            "chooses the epoch": "test" if parts.validation is None else "validation",
        },
        **environment(device_of(classifier.model.params()[0].data)),
    }
    write_text(out / "manifest.json", json.dumps(manifest, indent=2))
    return manifest


def finish(out: Path, classifier: Classifier, test: Dataset | None, train: Dataset, progress: Progress) -> Evaluation:
    """Evaluate once more, complete the manifest and write the report; the evaluation is of the test set if any.

    Where a validation part chose the epoch, it is that epoch's network that is measured, as `load_classifier` gives it.
    """
    manifest = read_manifest(out)
    if progress.judge == "validation" and progress.best_epoch:
        device = device_of(classifier.model.params()[0].data)
        classifier = load_classifier(out)
        classifier.model.to(device)
    result = None if test is None else evaluate(classifier, test)
    manifest |= {"step": progress.how, "check": progress.check}
    manifest["seconds"] = round(sum(row["seconds"] for row in progress.history), 1)
    if result is not None:
        manifest["result"] = {"test accuracy": result.accuracy, "95 % interval": result.interval}
        manifest["result"] |= {"test loss": result.loss, "mistakes": result.mistakes}
        if progress.judge == "validation":
            manifest["result"] |= {"epoch": progress.best_epoch, "chosen by": "the lowest validation loss"}
        write_predictions(out / PREDICTIONS, result, manifest["data"]["test fingerprint"])
    write_text(out / "manifest.json", json.dumps(manifest, indent=2))
    index = np.arange(min(len(train), manifest["recipe"]["batch_size"]))
    weights = classifier.model.params()[0].data
    device = device_of(weights)
    x = classifier.preprocess(to_device(train.images(index), device), weights.dtype)
    write_report(
        out,
        history=progress.history,
        manifest=manifest,
        classes=classifier.classes,
        labels=None if result is None else result.labels,
        probs=None if result is None else result.probs,
        images=None if test is None else test.images,
        flow=gradflow(classifier.model, x, to_device(train.labels[index], device)),
        explain=None if test is None else lambda index: gradcam(classifier, test.images(index)).maps,
        watched=read_film(out),
    )
    return result


def write_predictions(path: Path, result: Evaluation, fingerprint: str) -> None:
    """What the network says of each test image: labels (N,), probs (N, K), and whose they are."""
    with atomic_hdf5(path) as file:
        file.attrs["test fingerprint"] = fingerprint
        file["labels"], file["probs"] = result.labels, result.probs


def read_predictions(path: Path) -> tuple[np.ndarray, np.ndarray, str]:
    """(labels, probs, the data's fingerprint) of `write_predictions`; DataError, one line, for anything else."""
    with open_hdf5(path, "the predictions of a run") as file:
        try:
            labels, probs, fingerprint = file["labels"][()], file["probs"][()], file.attrs["test fingerprint"]
        except Exception as error:  # in a file of others anything may be in the place of anything
            raise DataError(f"{path}: holds no predictions of a run ({error!r:.80}): use minires report") from None
    shapes = [(np.ndim(each), getattr(each, "dtype", np.dtype(object)).kind) for each in (labels, probs)]
    if shapes != [(1, "i"), (2, "f")] or len(labels) != len(probs) or not isinstance(fingerprint, str):
        raise DataError(f"{path}: holds no predictions of a run: make them anew with minires report")
    return labels, probs, fingerprint


def seen(out: Path) -> dict:
    """How a run is seen while it trains: the kinds of its log, and every how many steps it is watched (None: not)."""
    manifest = read_manifest(out) if (Path(out) / "manifest.json").exists() else {}
    return {"log": manifest.get("log", []), "watch": manifest.get("watch")}


def read_manifest(out: Path) -> dict:
    """The manifest of a run's folder, or of the folder that a run's file is in; CheckpointError where there is none."""
    out = Path(out)
    if not out.exists():
        raise CheckpointError(f"{out}: no such file or folder: give the folder of a run")
    path = (out if out.is_dir() else out.parent) / "manifest.json"
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file: give the folder of a run, or say what --data to use") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged ({error}): say what --data to use") from None


def data_for(out: Path, classifier: Classifier, source: DataSource | None = None) -> Parts:
    """The data to measure the classifier of the run, or file, `out` on: its own, or what `source` says.

    Data of others without parts are not split: all of them are the test part. The run's own, wherever they lie now, are
    split as they were for training.
    """
    if source is None:
        return own_parts(out, classes=classifier.classes)
    if source.size is None:
        source = replace(source, size=classifier.model.input_shape[0])
    if replace(source, spec="builtin", size=64, flip=None) != DataSource():
        return source.parts(classes=classifier.classes)  # a split was asked for
    with suppress(CheckpointError, DataError, KeyError):  # a file without a run, or other data
        parts = replace(data_source(out, source.spec), size=source.size).parts()
        facts = read_manifest(out)["data"]
        if len(parts.train or ()) == facts["train images"] and parts.train.fingerprint() == facts["train fingerprint"]:
            line = f"{source.spec}: the data of the run itself, split as they were for training"
            return replace(parts, notes=(line, *parts.notes))
    return source.parts(whole=True, classes=classifier.classes)


def data_source(out: Path, spec: str | None = None) -> DataSource:
    """The data that the run in `out` was trained on, from `spec` where given; DataError where they are not there."""
    try:
        data = read_manifest(out)["data"]
        named = {k: data[k] for k in DataSource.__dataclass_fields__}
        source = DataSource(**named | ({"spec": spec} if spec else {}))
    except (KeyError, TypeError, AttributeError):  # JSON of others
        raise CheckpointError(
            f"{out}: its manifest.json does not say what its data are: name them with --data"
        ) from None
    if spec is None and not is_there(source.spec):
        raise DataError(
            f"{out}: its manifest.json names {named['spec']} as the run's data, and no such file or folder is "
            f"{'there' if os.path.isabs(named['spec']) else f'in {os.getcwd()}'}: say with --data where they are"
        )
    if not is_there(source.spec):
        raise DataError(f"{spec}: no such file or folder: say with --data where the data of {out} are")
    return source


def own_parts(out: Path, **options) -> Parts:
    """The data that the manifest of the run in `out` names; its errors say so, since nobody has typed that path."""
    try:
        return data_source(out).parts(**options)
    except DataError as error:
        if str(error).startswith(f"{out}: "):
            raise
        raise type(error)(
            f"{out}: of the data that its manifest.json names, {error}, or give others with --data"
        ) from None
