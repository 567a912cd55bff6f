"""What is wrong with a training: read from its recipe and its history, then tried for a few steps at other rates."""

import copy
import math
import os
from dataclasses import replace

import numpy as np

from minires.backend import thread_count
from minires.instruments.diagnose.cause import LIKELY, POSSIBLE, SURE, Cause
from minires.instruments.diagnose.parameters import redrawn
from minires.instruments.overfit import losses_on, undisturbed
from minires.nn import BatchNorm, Conv2d, Dense, Dropout, Network
from minires.train.recipe import USUAL, Recipe

IMAGES, STEPS = 16, 40  # of a trial
LEARNED = 0.5  # of the first loss: what a trial at a right rate comes below
SLOWER, FASTER = (0.1, 0.01, 0.001), (10.0, 100.0, 1000.0)  # times the recipe's rate


def column(history: list[dict], name: str) -> np.ndarray:
    """One number an epoch, of the training part, or, for "held ...", of the part that was held out; maybe none."""
    if name.startswith("held"):
        kind = next((k for k in ("validation", "test") if history and f"{k}_loss" in history[-1]), None)
        name = name.replace("held", kind) if kind else name
    return np.array([row[name] for row in history if row.get(name) is not None], float)


def learns(history: list[dict], classes: int) -> bool:
    """Whether the loss of the training images came well below that of guessing."""
    loss = column(history, "train_loss")
    return bool(len(loss)) and math.isfinite(loss[-1]) and loss[-1] < 0.8 * math.log(classes)


def from_recipe(recipe: Recipe, model: Network, history: list[dict], steps_per_epoch: int) -> list[Cause]:
    """What is unusual in the recipe; a fault where the training shows its mark."""
    found, stuck = [], bool(history) and not learns(history, model.classes)
    train, held = column(history, "train_accuracy"), column(history, "held_accuracy")

    def add(name, area, level, detail, fix, **show):
        found.append(Cause(name, area, level, detail, fix, show))

    smoothing = recipe.label_smoothing
    if smoothing > 0.25:
        detail = (
            f"label smoothing {smoothing:g}: the right class is to get {1 - smoothing + smoothing / model.classes:.0%}"
        )
        add("smoothing too strong", "optimisation", LIKELY if smoothing >= 0.4 else POSSIBLE, detail, "0.1 is usual")
    augment = recipe.augment
    if augment is not None:
        odd = {
            "shift": augment.shift / 0.3,
            "rotate": augment.rotate / 60,
            "scale": augment.scale / 0.45,
            "brightness": augment.brightness / 0.6,
        }
        worst = max(odd, key=odd.get)
        behind = len(train) and len(held) and held[-1] > train[-1] + 0.1
        if odd[worst] >= 1:
            detail = f"training images are changed by {worst} {getattr(augment, worst):g}"
            detail += (
                f": {train[-1]:.0%} of them are told right, of the unchanged held-out ones {held[-1]:.0%}"
                if behind
                else ""
            )
            level = LIKELY if behind or stuck or odd[worst] > 1.2 else POSSIBLE
            fix = "Augment(0.1, 10, 0.1) is the default; look at changed images: minires data show"
            add("augmentation too strong", "optimisation", level, detail, fix)
    drops = [m for m in model.modules() if isinstance(m, Dropout) and m.rate >= 0.75]
    if drops:
        detail = f"{drops[0].name} drops {drops[0].rate:.0%} of its inputs in training"
        add(
            "dropout too strong",
            "optimisation",
            LIKELY if drops[0].rate >= 0.8 else POSSIBLE,
            detail,
            "0.2 to 0.5 is usual",
        )
    usual_lr, usual = USUAL[recipe.optimizer]
    loss, chance = column(history, "train_loss"), math.log(model.classes)
    if recipe.warmup_epochs == 0 and len(loss) > 1 and loss[0] > 1.4 * chance and 2 <= recipe.lr / usual_lr <= 30:
        detail = f"the full rate {recipe.lr:g} from the first step on: in the first epoch the loss is {loss[0]:.3g}, "
        detail += f"where guessing gives {chance:.3g}"
        add("no warm-up", "optimisation", LIKELY, detail, "--warmup-epochs 1, or more")
    if history and stuck and recipe.lr > 30 * usual_lr:
        detail = f"the rate {recipe.lr:g} is {recipe.lr / usual_lr:.0f} times the usual one of {recipe.optimizer}"
        add("rate too large", "optimisation", LIKELY, detail, f"--lr {usual_lr:g}")
    total = recipe.epochs * steps_per_epoch
    wasted = recipe.lr * recipe.weight_decay * total / 2  # decay alone leaves exp(-wasted), a rate falling to 0 at best
    if recipe.weight_decay > 15 * (usual or 1e-3):
        shrunk = _shrunk(model) if history else 1.0
        detail = f"weight decay {recipe.weight_decay:g}, where {usual:g} is usual for {recipe.optimizer}"
        detail += f"; the kernels have {shrunk:.0%} of the size that they are drawn with" if history else ""
        harm = wasted > 0.5 and (stuck or shrunk < 0.3 or not history)
        level = (SURE if stuck and shrunk < 0.5 else LIKELY) if harm else POSSIBLE
        add("decay too strong", "optimisation", level, detail, f"--weight-decay {usual:g}")
    normed = [m for m in model.modules() if isinstance(m, BatchNorm) and not m.frozen]
    if recipe.batch_size <= 4 and normed:
        detail = f"each mean and variance of {len(normed)} batch normalisations is of {recipe.batch_size} images"
        level = (
            LIKELY if history and (stuck or (len(held) and len(train) and held[-1] < train[-1] - 0.15)) else POSSIBLE
        )
        level = LIKELY if recipe.batch_size <= 2 else level
        fix = "--batch-size 16 or more, or a network without batch normalisation (GroupNorm)"
        add("batch too small", "normalisation", level, detail, fix)
    elif recipe.batch_size <= 4:
        level = LIKELY if recipe.batch_size <= 2 and (stuck or not history) else POSSIBLE
        detail = f"each gradient is of {recipe.batch_size} images"
        add("noisy gradient", "gradient", level, detail, "--batch-size 16 or more, or a rate as much smaller")
    norms = column(history, "grad_norm")
    if recipe.clip_norm and len(norms) and np.median(norms) > 3 * recipe.clip_norm:
        ratio = np.median(norms) / recipe.clip_norm
        detail = f"the gradient's norm is {np.median(norms):.3g} (the median epoch's), clipped to {recipe.clip_norm:g}"
        level = LIKELY if ratio > 10 or stuck else POSSIBLE
        fix = f"--clip-norm {float(f'{2 * np.median(norms):.1g}'):g} lets the usual step pass"
        add(
            "always clipped",
            "gradient",
            level,
            detail,
            fix,
            lines={"gradient norm": norms},
            of="norm of the gradient, before it is clipped",
        )
    if not history and total < 30:
        add("too few steps", "optimisation", LIKELY, f"{total} steps in all", "--epochs 10 or more, or smaller batches")
    return found


def _shrunk(model) -> float:
    """The size of the kernels over that of He's rule, the median."""
    kernels = [m.w.data for m in model.modules() if isinstance(m, Conv2d | Dense)]
    sizes = [float(np.sqrt(np.square(w, dtype=float).mean() * np.prod(w.shape[:-1]) / 2)) for w in kernels]
    return float(np.median(sizes)) if sizes else 1.0


def from_history(recipe: Recipe, history: list[dict], classes: int, steps_per_epoch: int) -> list[Cause]:
    """What the curves show."""
    found, chance = [], math.log(classes)
    loss, rates = column(history, "train_loss"), column(history, "lr")
    train, held = column(history, "train_accuracy"), column(history, "held_accuracy")
    held_loss = column(history, "held_loss")
    lines = {"lines": {"training loss": loss, "held-out loss": held_loss}, "level": chance}
    if not len(loss):
        return []
    if not np.isfinite(loss).all() or loss[-1] > 1.15 * max(chance, loss.min()):
        detail = f"the loss goes from {loss[0]:.3g} to {loss[-1]:.3g}, where guessing gives {chance:.3g}"
        found.append(Cause("rate too large", "optimisation", LIKELY, detail, f"--lr {recipe.lr / 10:g}", lines))
    spent = rates < 0.02 * max(recipe.lr, rates.max(initial=0)) if len(rates) else np.zeros(0, bool)
    if spent.sum() >= 2 and 0.3 < spent.mean() < 1 and loss[-1] > 0.1 * chance:
        at = int(np.argmax(spent))
        detail = f"from epoch {at + 1} of {len(rates)} on the rate is below 2 % of its peak, the loss at {loss[-1]:.3g}"
        fix = "give --epochs as many as are to be trained from the start: the schedule is stretched over them"
        found.append(Cause("schedule over", "optimisation", LIKELY, detail, fix, lines | {"rates": rates}))
    done = len(loss) >= recipe.epochs
    if len(held) and len(train) and train[-1] - held[-1] > 0.2 and train[-1] > 0.9:
        rising = (
            f", their loss rose from {held_loss.min():.3g} to {held_loss[-1]:.3g}"
            if held_loss[-1] > 1.2 * held_loss.min()
            else ""
        )
        detail = f"{train[-1]:.0%} of the training images are told right, {held[-1]:.0%} of those held out{rising}"
        fix = "more images, augmentation (leave out --no-augment), --weight-decay, or trained weights (--weights FILE)"
        found.append(Cause("overfitting", "optimisation", LIKELY, detail, fix, lines))
    falling = (len(loss) > 1 and loss[-1] < 0.97 * loss[-2]) or len(loss) == 1
    if done and len(loss) * steps_per_epoch < 60 and loss[-1] > 0.5 * chance:
        detail = f"{len(loss) * steps_per_epoch} steps in all; the loss is {loss[-1]:.3g}"
        found.append(Cause("too few steps", "optimisation", LIKELY, detail, f"--epochs {4 * recipe.epochs}", lines))
    elif falling and loss[-1] > 0.35 * chance and len(train) and train[-1] < 0.9 and loss[-1] < 1.1 * chance:
        steps = len(loss) * steps_per_epoch
        detail = f"after {steps} steps the loss is {loss[-1]:.3g}" + (
            f" and still falls (from {loss[-2]:.3g})" if len(loss) > 1 else ""
        )
        level = LIKELY if done and steps < 300 and loss[-1] > 0.5 * chance else POSSIBLE
        found.append(Cause("too few steps", "optimisation", level, detail, f"--epochs {4 * recipe.epochs}", lines))
    seconds, waited = column(history, "seconds"), column(history, "wait_seconds")
    if len(waited) and waited.sum() > 0.3 * seconds.sum() and seconds.sum() > 1:
        detail = f"{waited.sum() / seconds.sum():.0%} of the time a step waits for its images"
        fix = "store them decoded and in their final size: minires data convert DATA OUT.h5 --size N"
        found.append(Cause("waits for data", "speed", LIKELY, detail, fix))
    return found


def threads() -> list[Cause]:
    """Whether more threads are asked for than there are cores to run them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = thread_count()  # of the kernels there are never more than cores
    if asked <= cores:
        return []
    detail = f"the matrix products use {asked} threads on {cores} cores: they wait for each other"
    fix = f"export OMP_NUM_THREADS={cores}"
    return [Cause("too many threads", "speed", LIKELY, detail, fix)]


def tried(model: Network, recipe: Recipe, x, labels, tick) -> list[Cause]:
    """Some steps on one batch at the recipe's rate; where they fail, at others. The model is a fresh one."""
    plain = replace(recipe, weight_decay=0.0, freeze={}, rates={}, label_smoothing=0.0, clip_norm=None)

    def falls(factor, warm=0):
        with undisturbed(model):
            losses = losses_on(model, (x, labels), plain, recipe.lr * factor, STEPS, LEARNED / 10, tick, warm=warm)
        calm = len(losses) > 1 and max(losses) < 3 * losses[0] + 1
        return calm and min(losses[-3:]) < LEARNED * losses[0], losses

    fine, losses = falls(1)
    if fine or not losses:
        fine = fine or None
    if fine:
        return []
    show = {"lines": {f"at {recipe.lr:g}": losses}}
    end = f"{losses[-1]:.3g}" if losses else "not finite"
    start = f"one batch of {len(labels)} images: at {recipe.lr:g} its loss is {end} after {STEPS} steps"
    if not recipe.warmup_epochs and recipe.warmup_epochs is not None and falls(1, STEPS // 2)[0]:
        detail = f"{start}, with a warm-up of {STEPS // 2} steps it falls"
        return [Cause("no warm-up", "optimisation", LIKELY, detail, "--warmup-epochs 1", show)]
    rising = not losses or losses[-1] > 0.9 * losses[0]
    for name, factors in (("rate too large", SLOWER), ("rate too small", FASTER))[:: 1 if rising else -1]:
        for factor in factors:
            right, others = falls(factor)
            if right:
                lr = recipe.lr * factor
                show["lines"][f"at {lr:g}"] = others
                detail = f"{start}, at {lr:g} it is {others[-1]:.3g}"
                return [
                    Cause(name, "optimisation", SURE, detail, f"--lr {lr:g}, or look for one: minires lr-find", show)
                ]
    return []


def fresh(model: Network) -> Network:
    """The network as it was drawn, where what builds it is known; else a copy of what there is."""
    return redrawn(model) or copy.deepcopy(model)
