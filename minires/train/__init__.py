"""Training: optimisers, schedules, the loop, checkpoints, and classifiers that are ready to use."""

from minires.lazy import lazily

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
    "minires.train.finetune": ("with_classes",),
    "minires.train.loop": (
        "fit",
        "resume",
    ),
    "minires.train.progress": (
        "ConsoleReporter",
        "Progress",
        "Reporter",
        "Reporters",
    ),
    "minires.train.recipe": ("Recipe",),
    "minires.train.schedule": ("Schedule",),
}
__all__ = sorted(name for names in _HOMES.values() for name in names)
__getattr__, __dir__ = lazily(__name__, _HOMES)
