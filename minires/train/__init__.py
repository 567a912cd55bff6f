"""Training: optimisers, schedules, the loop, checkpoints, and classifiers that are ready to use."""

from minires.train.checkpoint import load_classifier, save_checkpoint
from minires.train.classifier import Classifier, Evaluation, Preprocess, evaluate, predict_logits
from minires.train.loop import fit, resume
from minires.train.optim import SGD, Adam, AdamW
from minires.train.progress import ConsoleReporter
from minires.train.recipe import Recipe
from minires.train.schedule import Schedule

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Classifier",
    "ConsoleReporter",
    "Evaluation",
    "Preprocess",
    "Recipe",
    "Schedule",
    "evaluate",
    "fit",
    "load_classifier",
    "predict_logits",
    "resume",
    "save_checkpoint",
]
