"""Training: optimisers, schedules, the loop, checkpoints, and classifiers that are ready to use."""

from importlib import import_module

_HOMES = {
    "minires.optim": ("SGD", "Adam", "AdamW"),
    "minires.train.checkpoint": (
        "load_classifier",
        "save_checkpoint",
    ),
    "minires.train.classifier": (
        "Classifier",
        "Evaluation",
        "Preprocess",
        "evaluate",
        "predict_logits",
    ),
    "minires.train.loop": (
        "fit",
        "resume",
    ),
    "minires.train.progress": ("ConsoleReporter",),
    "minires.train.recipe": ("Recipe",),
    "minires.train.schedule": ("Schedule",),
}
__all__ = sorted(name for names in _HOMES.values() for name in names)


def __getattr__(name):
    """Each name when it is first asked for: who needs an optimiser alone does not load all that training needs."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'minires.train' has no attribute {name!r}")
