"""What is to be diagnosed: opened from whatever was given, as far as it can be opened."""

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from minires.data import Parts, load_parts
from minires.data.arrays import as_dataset
from minires.data.dataset import Dataset
from minires.data.source import is_there
from minires.errors import CheckpointError, ConfigError, MiniresError, ShapeError
from minires.instruments.diagnose.cause import POSSIBLE, SURE, Cause
from minires.instruments.doctor_file import RUN_FILES
from minires.nn import Module, Network, as_network
from minires.train.checkpoint import is_checkpoint, load_classifier
from minires.train.classifier import Classifier, Preprocess
from minires.train.folder import locked
from minires.train.recipe import Recipe
from minires.weights import import_classifier, import_weights
from minires.weights.archives import file_kind

# what an error's line says of a file -> the cause
_WORDS = {
    "value range": r"expected pixels in 0\.\.1",
    "damaged images": r"expected finite pixels",
    "weights not finite": r"not finite",
    "file in use": r"in use|holds? it open|held open|another program|unable to lock|is writing",
    "damaged file": r"truncated|damaged|checksum|cut off",
    "other classes": r"its classifier .* knows|classes are",
    "no weights": r"expected (a )?weights|TorchScript|plain weights|pickle|no tensor|unknown data|no arrays",
    "other network": r"",
}


@dataclass
class Subject:
    """All that is known. causes: what opening it showed; again: options that name the data on the command line."""

    title: str
    classifier: Classifier | None = None
    model: Module | None = None
    parts: dict[str, Dataset] = field(default_factory=dict)  # training, validation, test
    recipe: Recipe | None = None
    history: list[dict] = field(default_factory=list)
    steps: int | None = None  # updates that the weights have seen
    inputs: np.ndarray | None = None
    again: str = ""
    causes: list[Cause] = field(default_factory=list)

    @property
    def network(self) -> Network | None:
        return self.model if isinstance(self.model, Network) else None


def of_a_file(error: MiniresError) -> Cause:
    """The cause that an error's line tells of."""
    line = str(error)
    name = next(name for name, words in _WORDS.items() if re.search(words, line))
    at = max(line.rfind(": "), line.rfind("; "))
    area = {"value range": "data", "damaged images": "data", "weights not finite": "numbers"}.get(name, "files")
    return Cause(name, area, SURE, line[:at], line[at + 2 :])


def opened(what, data, test, recipe, history, inputs, weights, model) -> Subject:
    """The subject; ConfigError for what nothing can be made of."""
    subject = Subject(_title(what), recipe=recipe, history=list(history or []), inputs=inputs)
    _guard(subject, lambda: _take(subject, what, model))
    _guard(subject, lambda: _data(subject, data, test))
    if weights is not None and subject.model is not None:
        _guard(subject, lambda: _weights(subject, Path(weights)))
    if subject.network and subject.classifier is None and not subject.causes:
        train = subject.parts.get("training")
        if train is not None and len(train.classes) == subject.network.classes:
            subject.classifier = Classifier.for_data(subject.network, train)
        elif train is None:
            names = tuple(map(str, range(subject.network.classes)))
            subject.classifier = Classifier(subject.network, names, Preprocess())
    return subject


def _guard(subject, act: Callable) -> None:
    try:
        act()
    except ConfigError:
        raise
    except ShapeError as error:
        fix = "minires summary shows the shape behind every layer"
        subject.causes.append(Cause("shapes", "network", SURE, str(error), fix))
    except MiniresError as error:
        subject.causes.append(of_a_file(error))


def _title(what) -> str:
    if isinstance(what, str | os.PathLike):
        return str(what)
    return getattr(what, "source", "") or getattr(what, "title", "") or getattr(what, "name", "") or type(what).__name__


def _take(subject, what, model):
    if isinstance(what, Classifier):
        subject.classifier, subject.model = what, what.model
    elif isinstance(what, Module):
        subject.model = what
    elif isinstance(what, Dataset | tuple | list):
        subject.parts["training"] = as_dataset(what)
    elif isinstance(what, str | os.PathLike):
        _path(subject, Path(what).expanduser() if str(what) != "builtin" else what, model)
    else:
        raise ConfigError(
            f"diagnose: expected a run's folder, a file, a network, a layer or data, got {type(what).__name__}"
        )


def _path(subject, path, model):
    if not is_there(str(path)):
        raise ConfigError(f"{path}: no such file or folder: give a run, data, weights, or a network's name")
    if path != "builtin" and path.is_dir() and any((path / name).exists() for name in (*RUN_FILES, "manifest.json")):
        _run(subject, path, model)
    elif path != "builtin" and path.is_file() and is_weights(path):
        found = load_classifier(path, model=model) if is_checkpoint(path) else import_classifier(path, model)[0]
        subject.classifier, subject.model = found, found.model
    else:
        subject.again = f"--data {path}"
        _named(subject, load_parts(path))


def is_weights(path: Path) -> bool:
    """Whether a file is a checkpoint or weights, not data."""
    if path.name.endswith((".weights.h5", ".keras")) or path.suffix in (
        ".pth",
        ".pt",
        ".onnx",
        ".safetensors",
        ".ckpt",
    ):
        return True
    return file_kind(path) not in (None, ".npz") or is_checkpoint(path)


def _run(subject, path, model):
    from minires.run import data_source, read_manifest
    from minires.train.checkpoint import read_header

    file = next((path / name for name in RUN_FILES if (path / name).exists()), None)
    manifest = read_manifest(path) if (path / "manifest.json").exists() else {}
    if file:
        training = read_header(file).get("training", {})
        subject.steps = training.get("steps")
        fields = training.get("recipe") or manifest.get("recipe")
        if fields and subject.recipe is None:
            subject.recipe = Recipe(**fields)
    log = path / "history.jsonl"
    if log.exists() and not subject.history:
        subject.history = [json.loads(line) for line in log.read_text().splitlines() if line.strip()]
    if manifest:
        subject.again = f"--data {manifest['data']['spec']}"
        _guard(subject, lambda: _named(subject, data_source(path).parts()))
    found = load_classifier(path, model=model)
    subject.classifier, subject.model = found, found.model
    try:
        with locked(path):
            pass
    except CheckpointError as error:
        at = str(error).rfind(": ")
        subject.causes.append(Cause("file in use", "files", POSSIBLE, str(error)[:at], str(error)[at + 2 :]))


def _named(subject, parts: Parts):
    subject.parts |= {{"train": "training"}.get(name, name): part for name, part in parts.named().items()}


def _data(subject, data, test):
    for name, given in (("training", data), ("test", test)):
        if given is None:
            continue
        if isinstance(given, str | os.PathLike):
            size = subject.network.input_shape[:2] if subject.network else None
            subject.again = f"--data {given}"
            parts = load_parts(given, size=size, whole=name == "test")
            if name == "training":
                _named(subject, parts)
                continue
            given = parts.test
        classes = subject.classifier.classes if subject.classifier and isinstance(given, tuple | list) else None
        subject.parts[name] = as_dataset(given, classes)
    if isinstance(subject.model, Module) and not isinstance(subject.model, Network) and subject.parts:
        subject.model = as_network(subject.model, next(iter(subject.parts.values())).shape)


def _weights(subject, path):
    if is_checkpoint(path):
        load_classifier(path, model=subject.model)
    else:
        import_weights(subject.network, path)
