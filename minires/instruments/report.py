"""A run's report: one HTML file that needs nothing else, and its pictures as PNG files beside it.

No network, and no script unless the run was watched: the pictures are embedded, in a wide and in a narrow version, and
the page follows the reader's light or dark preference.
"""

import base64
import html
import math
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from minires.errors import DataError
from minires.files import write_bytes, write_text
from minires.instruments import plots, run_plots
from minires.instruments.diagnose.training import from_history
from minires.instruments.gradflow import GradFlow
from minires.instruments.style import DPI, picture_bytes, untitled
from minires.instruments.watch import Film, film
from minires.train.recipe import Recipe
from minires.train.scores import calibration, top_k, wilson, with_interval

_STYLE = """
:root { color-scheme: light dark; --ink: #1f2933; --muted: #5b6776; --page: #f6f7f9; --card: #ffffff; --line: #dfe4ea;
  --accent: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaf0; --muted: #9fabba; --page: #14181d; --card: #1d232b;
  --line: #323b47; --accent: #56b4e9; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 1rem/1.55 system-ui, sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 0 0 .6rem; }
p { margin: .4rem 0; max-width: 46rem; }
.muted { color: var(--muted); overflow-wrap: anywhere; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 1.2rem;
  margin-top: 1.2rem; }
.wide { overflow-x: auto; }
.wide td { white-space: nowrap; }
.score { font-size: 3.2rem; font-weight: 700; line-height: 1.1; color: var(--accent); }
dl.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .8rem; margin: 1rem 0 0; }
dl.facts div { border-left: 3px solid var(--line); padding-left: .7rem; }
dt { color: var(--muted); font-size: .85rem; }
dd { margin: 0; font-weight: 600; }
figure { margin: .8rem 0 0; }
figure img { display: block; max-width: 100%; height: auto; margin: 0 auto; border-radius: 8px; background: #fff; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; margin-top: .8rem; }
th, td { text-align: left; vertical-align: top; padding: .35rem .4rem; border-bottom: 1px solid var(--line); }
td { overflow-wrap: anywhere; }
table.facts th { width: 30%; font-weight: 600; }
table.facts th[colspan] { padding-top: 1.1rem; color: var(--accent); }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
code { font-family: ui-monospace, monospace; font-size: .9em; }
"""

_HOW_TO_READ = (
    "Read it from the right, where the loss is, to the left, where the image is. Each point is the typical size of "
    "the gradient that arrives there, for one training batch. A line that stays within a few powers of ten is "
    "healthy; one that falls to the left by many vanishes, one that rises by many explodes. At a block the "
    "gradients of the branch and of the shortcut add up to what the block before receives. These are gradients of "
    "activations, not of weights."
)


def write_report(
    out: Path,
    *,
    history: list[dict],
    manifest: dict,
    classes: tuple[str, ...],
    labels: np.ndarray | None,
    probs: np.ndarray | None,
    images: Callable | None,
    flow: GradFlow | None = None,
    explain: Callable | None = None,
    watched: Film | None = None,
) -> Path:
    """Write `out`/report.html and `out`/pictures/*.png; returns the path of the report.

    history   rows with epoch, train_loss, train_accuracy, and maybe test_loss, test_accuracy, seconds; or
              validation_loss, validation_accuracy, where a validation part chose the epoch that was tested
    manifest  facts of the run; seed and command go into every picture's corner
    labels    int (N,) of the test set, probs float (N, K), images index (n,) -> uint8 (n, H, W, 3); each None
              without a test set, and the report says so
    flow      the gradient by depth, as `gradflow` gives it
    explain   index (n,) -> heat (n, h, w), where in these test images the evidence for the network's answers lies
    watched   the run layer by layer, as `read_film` gives it

    Each file is replaced only when it is complete. Raises DataError where the system refuses to write.
    """
    out = Path(out)
    note = ", ".join(
        filter(None, (f"seed {manifest['seed']}" if "seed" in manifest else "", str(manifest.get("command", ""))))
    )
    show = _Pictures(out / "pictures", note)
    tested = labels is not None and len(labels) > 0
    sections = [_headline(history, manifest, labels, probs, classes) if tested else _untested(history, manifest)]
    if history:
        sections.append(_curves(history, show))
        sections += _causes(history, manifest, classes, out)
    if tested:
        predictions, sure = probs.argmax(axis=1), probs.max(axis=1)
        sections.append(_confusion(labels, predictions, classes, show))
        sections.append(_mistakes(images, labels, predictions, sure, classes, explain, show))
        sections.append(_calibration(labels, probs, show))
    if flow is not None:
        alt = f"Gradient by depth: from {_power(flow.blocks[-1].dy_rms)} at the last block's output to "
        alt += f"{_power(flow.blocks[0].dx_rms)} at the first block's input."
        picture = show("gradient", alt, plots.plot_gradient_norms, flow)
        sections.append(section("The gradient, layer by layer", f"<p>{_HOW_TO_READ}</p>{picture}"))
    if watched is not None:
        sections.append(_film(watched, history, manifest, show))
    sections.append(section("The run", _facts(manifest)))
    skips = {True: "with skips", False: "no skips"}.get(manifest.get("architecture", {}).get("skip"))
    about = " · ".join(map(str, filter(None, (manifest.get("arch", "Network"), skips, manifest.get("started")))))
    path = out / "report.html"
    style = film.style() if watched is not None else ""
    write_text(path, page(_data_name(manifest.get("data", {})), about, sections, style))
    return path


class _Pictures:
    """Draws a picture twice: the wide version goes to a file, both go into the page."""

    def __init__(self, folder: Path, note: str):
        self.folder, self.note = folder, note
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{folder}: the folder cannot be created ({error.strerror}): choose another") from None

    def __call__(self, name: str, alt: str, plot: Callable, *args) -> str:
        wide, narrow = (plot(*args, note=self.note, narrow=narrow) for narrow in (False, True))
        png = picture_bytes(wide)
        write_bytes(self.folder / f"{name}.png", png)
        return embedded(untitled(png, wide), untitled(picture_bytes(narrow), narrow), alt)


def embedded(wide: bytes, narrow: bytes, alt: str) -> str:
    """A picture in a page, as PNG for a desk and for a phone."""
    with Image.open(BytesIO(wide)) as image:
        width, height = (round(pixels * 96 / DPI) for pixels in image.size)
    return (
        f'<figure><picture><source media="(max-width: 640px)" srcset="{_data_uri(narrow)}">'
        f'<img src="{_data_uri(wide)}" width="{width}" height="{height}" alt="{html.escape(alt)}">'
        "</picture></figure>"
    )


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _headline(history, manifest, labels, probs, classes) -> str:
    right, N = int((probs.argmax(axis=1) == labels).sum()), len(labels)
    low, high = wilson(right, N)
    chance = np.bincount(labels).max() / N
    wrong = N - right
    verdict = "" if low > chance else ": this result cannot be told from that"
    return section(
        "Test accuracy",
        f'<div class="score">{right / N:.1%}</div>'
        f"<p>{wrong} {'mistake' if wrong == 1 else 'mistakes'} in {N:,} test images. On further images like these, "
        f"expect between {low:.1%} and {high:.1%} (95 % confidence, Wilson interval). "
        f"Always naming the commonest class would give {chance:.1%}{verdict}.</p>{_numbers(history, manifest)}",
    )


def _causes(history, manifest, classes, out) -> list[str]:
    """What the curves show to be wrong, if anything."""
    if "recipe" not in manifest or not manifest.get("data", {}).get("train images"):
        return []
    recipe = Recipe(**manifest["recipe"])
    steps = math.ceil(manifest["data"]["train images"] / recipe.batch_size)
    causes = [c for c in from_history(recipe, history, len(classes), steps) if c.status == "fail"]
    if not causes:
        return []
    rows = "".join(
        f"<li><b>{html.escape(c.name)}</b>: {html.escape(c.evidence)}. <code>{html.escape(c.fix)}</code></li>"
        for c in causes
    )
    command = f"<code>minires diagnose {html.escape(str(out))}</code>"
    more = f"<p>{command} looks at the images, the weights and the gradients too.</p>"
    return [section("What the curves say", f"<ul>{rows}</ul>{more}")]


def _untested(history, manifest) -> str:
    trained = (
        "No epoch was finished."
        if not history
        else (
            f"The last epoch got {history[-1]['train_accuracy']:.1%} of its training images right, which says how well "
            "they were learnt, not how well new ones would be recognised."
        )
    )
    return section("No test set", f"<p>There were no test images. {trained}</p>{_numbers(history, manifest)}")


def _numbers(history, manifest) -> str:
    """The few numbers that one wants at a glance."""
    last = history[-1] if history else {}
    seconds = manifest.get("seconds") or sum(row.get("seconds") or 0 for row in history)
    known = {
        "Parameters": _when(manifest.get("parameters"), "{:,}"),
        "Epochs": _when(last.get("epoch"), "{}"),
        "Training accuracy": _when(last.get("train_accuracy"), "{:.1%}"),
        "Training loss": _when(last.get("train_loss"), "{:.4f}"),
        "Test loss": _when(last.get("test_loss"), "{:.4f}"),
        "Validation loss": _when(last.get("validation_loss"), "{:.4f}"),
        "Images a second": _when(last.get("images_per_second"), "{:,.0f}"),
        "Training time": _duration(seconds) if seconds else None,
    }
    items = (f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in known.items() if value is not None)
    return f'<dl class="facts">{"".join(items)}</dl>'


def _curves(history, show) -> str:
    last = history[-1]
    alt = f"Loss and accuracy over {len(history)} epochs, ending at a training loss of {last['train_loss']:.4f}."
    text = ""
    for part in ("test", "validation"):
        losses = [(row[f"{part}_loss"], row["epoch"]) for row in history if _finite(row.get(f"{part}_loss"))]
        if losses:
            then = ", which chose that epoch: the test images were measured once, with it" * (part == "validation")
            text = f"<p>The {part} loss was lowest, {min(losses)[0]:.4f}, after epoch {min(losses)[1]}{then}.</p>"
    return section("Training", text + show("curves", alt, plots.plot_curves, history))


def _confusion(labels, predictions, classes, show) -> str:
    wrong = int((labels != predictions).sum())
    alt = f"Confusion matrix of {len(labels)} test images and {len(classes)} classes, {wrong} off the diagonal."
    picture = show("confusion", alt, plots.plot_confusion, labels, predictions, classes)
    rows = []
    for k, name in enumerate(classes):
        mine = predictions[labels == k]
        others = np.bincount(mine[mine != k], minlength=len(classes))
        taken = html.escape(f"{classes[others.argmax()]} ({others.max()})") if others.any() else "never"
        right = int((mine == k).sum())
        found = with_interval(right / len(mine), wilson(right, len(mine))) if len(mine) else "no images"
        rows.append(
            f'<tr><th scope="row">{html.escape(str(name))}</th><td class="number">{len(mine)}</td>'
            f'<td class="number">{found}</td><td>{taken}</td></tr>'
        )
    head = '<th scope="col">Class</th><th scope="col" class="number">Images</th>'
    head += '<th scope="col" class="number">Recognised (95 % interval)</th><th scope="col">Taken for</th>'
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return section("Which classes it confuses", picture + table)


def _mistakes(images, labels, predictions, sure, classes, explain, show) -> str:
    wrong = plots.worst_mistakes(labels, predictions, sure)
    if not len(wrong):
        return section("Worst mistakes", f"<p>None: all {len(labels)} test images were classified right.</p>")
    worst = wrong[0]
    alt = (
        f"The wrong answers the network was surest of. The first: class {classes[labels[worst]]} "
        f"taken for {classes[predictions[worst]]} with probability {sure[worst]:.0%}."
    )
    text = "The wrong answers that the network was surest of, surest first."
    if explain is not None:
        text += " Beside each, where in the image the evidence for that answer lies (Grad-CAM, arXiv:1610.02391)."
    drawn = images, labels, predictions, sure, classes, explain
    return section("Worst mistakes", f"<p>{text}</p>{show('mistakes', alt, plots.plot_mistakes, *drawn)}")


def _calibration(labels, probs, show) -> str:
    found = calibration(probs, labels)
    sure, right = probs.max(axis=1).mean(), (probs.argmax(axis=1) == labels).mean()
    text = (
        f"On average it gave its answer a probability of {sure:.1%}, and {right:.1%} were right. The calibration error "
        f"(ECE) is {found.ece:.1%}: over {len(found.counts)} bins of that probability, the distance between the mean "
        "probability and the share of right answers, weighted by the images in the bin (Guo et al., arXiv:1706.04599, "
        "equation 3). Numbers in the picture count a bin's images, grey bars show their share; of few, little follows."
    )
    more = [f"{top_k(probs, labels, k):.1%} among its first {k}" for k in (2, 3, 5) if k < probs.shape[1]]
    if more:
        text += f" The right class is {', '.join(more)}."
    alt = f"Reliability diagram of {len(labels)} test images; calibration error {found.ece:.1%}."
    picture = show("calibration", alt, run_plots.plot_calibration, found)
    return section("Can its probabilities be believed?", f"<p>{text}</p>{picture}")


def _film(watched, history, manifest, show) -> str:
    cost = watched.cost(sum(row.get("seconds") or 0 for row in history))
    kind = {True: "with skips", False: "without skips"}.get(manifest.get("architecture", {}).get("skip"), "")
    about = f"The network {kind}, {cost}. Each column is a step, each row a layer, from the image down to the loss."
    alt = f"Activation gradient and update to weight by layer, over {len(watched.steps)} records."
    return film.section(watched, html.escape(about), show("watch", alt, film.plot_film, watched))


def _facts(manifest: dict) -> str:
    """A table of the manifest; what is nested follows as a group with a heading."""
    plain = {name: value for name, value in manifest.items() if not isinstance(value, dict)}
    groups = {name: value for name, value in manifest.items() if isinstance(value, dict)}
    bodies = [_rows(plain)] if plain else []
    for name, group in groups.items():
        heading = f'<tr><th colspan="2" scope="rowgroup">{html.escape(name.capitalize())}</th></tr>'
        bodies.append(heading + _rows(group))
    if not bodies:
        return "<p>Nothing was recorded.</p>"
    return f'<table class="facts">{"".join(f"<tbody>{body}</tbody>" for body in bodies)}</table>'


def _rows(facts: dict) -> str:
    rows = []
    for name, value in facts.items():
        if isinstance(value, (list, tuple)):
            value = ", ".join(map(str, value))
        text = html.escape("none" if value is None else f"{value:,}" if name == "parameters" else str(value))
        text = f"<code>{text}</code>" if name == "command" else text
        label = html.escape(str(name).replace("_", " "))
        rows.append(f'<tr><th scope="row">{label}</th><td>{text}</td></tr>')
    return "".join(rows)


def section(title: str, body: str) -> str:
    return f"<section><h2>{html.escape(title)}</h2>{body}</section>"


def _data_name(data: dict) -> str:
    """What the data are called: the last part of their path."""
    spec = data.get("spec") or data.get("source") or "unknown data"
    return "Built-in hand signs" if spec == "builtin" else Path(spec).stem


def page(title: str, about: str, sections: list[str], style: str = "") -> str:
    """A whole page of one's sections. style: what they need beyond that of every report."""
    title = html.escape(title)
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}{style}</style></head><body><main>"
        f'<header><h1>{title}</h1><p class="muted">{html.escape(about)}</p></header>{"".join(sections)}'
        "</main></body></html>\n"
    )


def _finite(value) -> bool:
    return value is not None and math.isfinite(value)


def _when(value, form: str) -> str | None:
    """The value in this form; None where there is none."""
    return None if value is None else form.format(value)


def _power(value: float | None) -> str:
    return "nothing" if value is None else f"{value:.2g}"


def _duration(seconds: float) -> str:
    """'1 h 02 min', '3 min 20 s', '41 s'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
