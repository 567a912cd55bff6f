"""Lessons 3 to 6 with sliders: a grid of dense networks at initialisation."""

import base64
import math
from types import ModuleType

import numpy as np
from minires.lessons.harness import command, number
from minires.lessons.networks import SKIPS, label
from minires.lessons.site.explorer import Chart, Control, Explorer, band, seeds, two_digits, with_range
from minires.lessons.site.words import change, count

UNITS = {"none": "layer", "pre": "block", "post": "block"}
REGIME = (
    Control("skip", "Skip connections", tuple(SKIPS), ("none", "pre-activation", "post-activation"), "none"),
    Control("bn", "Batch normalisation", ("off", "on"), ("off", "on"), "on"),
    Control("init", "Initial weights", ("he", "glorot"), ("He", "Glorot"), "he"),
)


def _depth(results: list[dict], start: int) -> Control:
    depths = [result["knobs"]["depth"] for result in results]
    return Control("depth", "Depth", depths, [f"{depth} layers" for depth in depths], start, slider=True)


def _regime(regime: dict) -> tuple[str, str, str]:
    return regime["skip"], "on" if regime["bn"] else "off", regime["init"]


def _narrowed(lesson: ModuleType, result: dict, regime: dict) -> str:
    """The command that measures this one kind of network."""
    one = dict(zip(("skip", "bn", "init"), _regime(regime), strict=True))
    return command(lesson.LESSON, result["knobs"] | one)


def _named(depth: int, regime: dict) -> str:
    return f"{depth} layers, {label(regime['skip'], regime['bn'], regime['init'])}"


def vanish_or_explode(lesson: ModuleType, results: list[dict]) -> Explorer:
    """Lesson 3: the activation gradient by depth, theory dashed, for every kind of network."""
    chart = Chart("Activation gradient", "layers from the input", "RMS of dL/dy, over the output's")
    page = Explorer((_depth(results, 50), *REGIME), (chart,))
    for result in results:
        depth, drawn = result["knobs"]["depth"], {}
        for regime in result["regimes"]:
            units = len(regime["mean"]) - 1
            at = np.linspace(0, depth, units + 1)
            factor = regime["theory"]
            theory = factor and (at[[0, -1]], [units * math.log10(factor), 0])
            name = "|".join((str(depth), *_regime(regime)))
            band = (regime["low"], regime["high"]) if len(regime["log10_ratio"]) > 1 else (None, None)
            drawn[name] = page.curve(0, name, at, regime["mean"], *band, theory)
        for regime, (name, curve) in zip(result["regimes"], drawn.items(), strict=True):
            ratios, units, unit = regime["log10_ratio"], len(regime["mean"]) - 1, UNITS[regime["skip"]]
            mean = float(np.mean(ratios))
            numbers = [
                (f"log10 of input over output, {seeds(result)}", with_range(ratios, two_digits)),
                (f"factor in each {unit}", f"{10 ** (mean / units):.3f}"),
                ("theory", f"{regime['theory']:.3f}" if regime["theory"] else "no closed form"),
            ]
            page.cell(
                name.split("|"),
                says=f"{_named(depth, regime)}: on its way back the gradient {change(mean)}.",
                numbers=numbers,
                command=_narrowed(lesson, result, regime),
                show=[curve],
                faint=[[other for other in drawn.values() if other != curve]],
            )
    return page


def weight_gradients(lesson: ModuleType, results: list[dict]) -> Explorer:
    """Lesson 4: the gradients of activations and of weights beside each other."""
    charts = (
        Chart("Activation gradient", "layers from the input", "RMS of dL/dy, over the output's"),
        Chart("Weight gradient", "layers from the input", "norm of dL/dw, over that of w"),
    )
    page = Explorer((_depth(results, 50), *REGIME), charts)
    for result in results:
        depth, drawn = result["knobs"]["depth"], {}
        for regime in result["regimes"]:
            name = "|".join((str(depth), *_regime(regime)))
            at = np.linspace(0, depth, len(regime["activations"])), np.arange(1, depth + 1)
            curves = regime["activations"], regime["weights"]
            drawn[name] = [page.curve(i, name, at[i], curves[i]) for i in range(2)]
        for regime, (name, curves) in zip(result["regimes"], drawn.items(), strict=True):
            activations, weights = (float(np.mean(regime[f"{of}_ratio"])) for of in ("activation", "weight"))
            if regime["bn"]:
                identity = ("largest cosine of w and dw", number(max(regime["largest_cosine"])))
            else:
                identity = ("spread of ⟨w, dw⟩ over the layers", number(max(regime["product_spread"])))
            numbers = [
                ("log10 of first over last layer, activations", two_digits(activations)),
                ("log10 of first over last layer, weights", two_digits(weights)),
                identity,
            ]
            page.cell(
                name.split("|"),
                says=f"{_named(depth, regime)}: from the last layer to the first the activation gradient "
                f"{change(activations)}, the weight gradient {change(weights)}.",
                numbers=numbers,
                command=_narrowed(lesson, result, regime),
                show=curves,
                faint=[[other[i] for other in drawn.values() if other is not curves] for i in range(2)],
            )
    return page


def where_121_comes_from(lesson: ModuleType, results: list[dict]) -> Explorer:
    """Lesson 5: the factor by batch size, and a convolutional network's first steps."""
    batches, steps = results[0]["knobs"]["batches"], list(results[0]["conv"][0]["flows"])
    controls = (
        _depth(results, 56),
        Control("batch", "Batch", batches, [f"{batch} rows" for batch in batches], 64, slider=True),
        Control("steps", "Steps of SGD", steps, ["none", *steps[1:]], "0"),
    )
    places = [(math.log2(batch), str(batch)) for batch in batches]
    charts = (
        Chart("Dense plain network with BN", "rows in the batch", "factor on the mean square, a layer", False, places),
        Chart("Convolutional plain network with BN", "blocks from the image", "RMS of dL/dy, over the last block's"),
    )
    page, limit = Explorer(controls, charts), math.pi / (math.pi - 1)
    at = [place for place, _ in places]
    for result in results:
        depth, factors = result["knobs"]["depth"], np.array(result["factors"])
        mean = factors.mean(axis=1)
        theory = (at, [limit] * len(at))
        dense = page.curve(0, str(depth), at, mean, *band(factors.T), theory)
        flows = {step: _convolutional(result, step) for step in steps}
        drawn = {
            step: page.curve(1, f"{depth}|{step}", range(flow.shape[1]), flow.mean(axis=0), *band(flow))
            for step, flow in flows.items()
        }
        for i, batch in enumerate(batches):
            for step, flow in flows.items():
                grown, ratio = depth / 2 * math.log10(mean[i]), float(flow[:, 0].mean())
                when = "at initialisation" if step == "0" else f"after {step} step{'s' * (step != '1')}"
                numbers = [
                    (f"factor on the mean square, {seeds(result)}", with_range(factors[i], two_digits)),
                    ("theory for large batches", f"{limit:.3f}"),
                    ("factor on the size", f"{math.sqrt(mean[i]):.3f}"),
                    ("log10 of first block over last", with_range(flow[:, 0], two_digits)),
                ]
                page.cell(
                    (depth, batch, step),
                    says=f"With {batch} rows a layer multiplies the gradient by {math.sqrt(mean[i]):.2f}, which makes "
                    f"{count(grown)} times in {depth} layers. In the convolutional plain-{depth} {when} it "
                    f"{change(ratio)} from the last block to the first.",
                    numbers=numbers,
                    command=command(lesson.LESSON, result["knobs"]),
                    show=[dense, drawn[step]],
                    faint=[[], [curve for other, curve in drawn.items() if other != step]],
                    marks=[[at[i], round(float(mean[i]), 4)], None],
                )
    return page


def _convolutional(result: dict, step: str) -> np.ndarray:
    """(seeds, blocks + 1): log10 of the gradient over the last block's."""
    flow = np.log10([seen["flows"][step] for seen in result["conv"]])
    return flow - flow[:, -1:]


def shattering(lesson: ModuleType, results: list[dict]) -> Explorer:
    """Lesson 6: how well gradients agree by depth and between neighbours; the gradients of the path as a strip."""
    kinds = tuple(results[0]["agreement"])
    controls = (_depth(results, 50), Control("kind", "Network", kinds, ("plain", "residual"), "plain"))
    charts = (
        Chart("Unrelated random inputs", "layers from the input", "mean cosine of gradients", powers=False),
        Chart("Neighbours on the path", "images apart on the path", "mean cosine of gradients", powers=False),
    )
    page = Explorer(controls, charts)
    for result in results:
        depth, drawn = result["knobs"]["depth"], {}
        for kind in kinds:
            agreement = np.array(result["agreement"][kind])
            lags = np.column_stack([np.ones(len(agreement)), result["lags"][kind]])
            places = np.linspace(0, depth, agreement.shape[1])
            theory = (places, lesson.theory(kind, depth))
            drawn[kind] = [
                page.curve(i, f"{depth}|{kind}", at, curves.mean(axis=0), *band(curves), expected)
                for i, (at, curves, expected) in enumerate(
                    ((places, agreement, theory), (range(lags.shape[1]), lags, None))
                )
            ]
        page.strips[str(depth)] = {kind: _strip(result["strips"][kind]) for kind in kinds}
        for kind, curves in drawn.items():
            arrived = np.array(result["agreement"][kind])[:, 0]
            near = np.array(result["lags"][kind])[:, 0]
            numbers = [
                (f"mean cosine at the input, {seeds(result)}", with_range(arrived)),
                ("theory", number(lesson.theory(kind, depth)[0])),
                (f"neighbours on the path, {seeds(result)}", with_range(near, two_digits)),
            ]
            agree = "agree" if near.mean() > 0.5 else "agree in part" if near.mean() > 0.15 else "do not agree"
            page.cell(
                (depth, kind),
                says=f"{depth} layers, {kind}: neighbouring images {agree} on the gradient, their mean cosine is "
                f"{near.mean():.2f}. That of unrelated inputs is {arrived.mean():.4f}.",
                numbers=numbers,
                command=command(lesson.LESSON, result["knobs"]),
                show=curves,
                faint=[[other[i] for other in drawn.values() if other is not curves] for i in range(2)],
            )
    return page


def _strip(rows: list[list[float]]) -> dict:
    """Base64 of uint8, row by row of pixels: 128 is zero, 1 and 255 are the 98th percentile of the size."""
    rows = np.array(rows).T
    limit = np.quantile(abs(rows), 0.98) or 1
    levels = np.clip(128 + 127 * rows / limit, 1, 255).round().astype(np.uint8)
    return {"height": len(rows), "width": rows.shape[1], "pixels": base64.b64encode(levels.tobytes()).decode()}
