"""Lessons that train nothing, with sliders: over what their own picture is made of, or a few measurements more."""

import math
from types import ModuleType

import numpy as np
from minires.lessons.harness import command, number
from minires.lessons.site.explorer import (
    SMALLEST,
    Chart,
    Control,
    Explorer,
    band,
    logs,
    seeds,
    slider,
    two_digits,
    with_range,
)
from minires.lessons.site.words import change, tick


def one_block(lesson: ModuleType, results: list[dict]) -> Explorer:
    """Lesson 1: the size of every tensor of a block and of its gradient, with and without the shortcut."""
    names = [tensor["name"] for tensor in next(r for r in results if r["knobs"]["skip"])["tensors"]]
    controls = (
        slider("block", "Block", (1, 2, 3), ("1, identity", "2, projection", "3, projection"), 1),
        Control("skip", "Shortcut", ("on", "off"), ("on", "off"), "on"),
    )
    places = tuple(enumerate(names))
    charts = (
        Chart("Forward", "tensor", "RMS of the values", False, places),
        Chart("Back", "tensor", "RMS of the gradient", True, places),
    )
    page = Explorer(controls, charts, {"this": "this block", "faint": "the same block, shortcut on or off"})
    drawn = {}
    for result in results:
        knobs, tensors = result["knobs"], result["tensors"]
        key = knobs["block"], "on" if knobs["skip"] else "off"
        at = [i for i, name in enumerate(names) if knobs["skip"] or name != "add"]
        values, gradients = ([t[part]["rms"] for t in tensors] for part in ("value", "gradient"))
        name = f"{key[0]}|{key[1]}"
        drawn[key] = page.curve(0, name, at, values), page.curve(1, name, at, logs(gradients))
    for result in results:
        knobs, seen = result["knobs"], result["numbers"][0]
        key = knobs["block"], "on" if knobs["skip"] else "off"
        numbers = [("gradient at x", number(seen["dx_rms"])), ("through the branch", number(seen["branch_rms"]))]
        says = f"Block {key[0]}: without a shortcut all of the gradient at x comes through the branch."
        if knobs["skip"]:
            numbers += [
                ("through the shortcut", number(seen["shortcut_rms"])),
                ("cosine of the two paths", two_digits(seen["cosine"])),
                ("dx, less the sum of both", number(seen["sum_error"])),
            ]
            share = seen["shortcut_rms"] ** 2 / (seen["shortcut_rms"] ** 2 + seen["branch_rms"] ** 2)
            says = f"Block {key[0]}: the shortcut brings {share:.0%} of the power that arrives at x."
        page.cell(
            key,
            says=says,
            numbers=numbers,
            command=command(lesson.LESSON, knobs),
            show=drawn[key],
            faint=[[d[i] for other, d in drawn.items() if other != key and other[0] == key[0]] for i in range(2)],
        )
    return page


def epsilon(lesson: ModuleType, results: list[dict]) -> Explorer:
    """Lesson 2: the error at each epsilon."""
    (result,) = results
    epsilons = result["epsilons"]
    at, ticks = np.log10(epsilons), [(power, tick(power)) for power in range(-11, 0, 2)]
    labels = [f"{e:.3g}" for e in epsilons]
    controls = (
        slider("epsilon", "Epsilon", epsilons, labels, 1e-5),
        Control("act", "Activation", ("ReLU", "softplus"), ("ReLU", "softplus"), "ReLU"),
        Control("dtype", "Precision", ("float64", "float32"), ("float64", "float32"), "float64"),
    )
    charts = (
        Chart("Error", "epsilon", "over the gradient's norm", True, ticks),
        Chart("Kinks", "epsilon", "share of stencils that cross one", False, ticks),
    )
    page = Explorer(controls, charts, {"this": "this one", "faint": "the others"})
    drawn = {}
    for curve in result["curves"]:
        errors = logs(curve["errors"])
        drawn[curve["label"]] = (
            page.curve(0, curve["label"], at, np.median(errors, axis=0), *band(errors)),
            page.curve(1, curve["label"], at, curve["crossed"]),
        )
    for curve in result["curves"]:
        act, dtype = curve["label"].split(", ")
        errors = np.median(curve["errors"], axis=0)
        best = int(errors.argmin())
        for i, value in enumerate(epsilons):
            digits = max(0, math.floor(-math.log10(max(errors[i], SMALLEST))))
            page.cell(
                (value, act, dtype),
                says=f"{act}, {dtype}, epsilon {value:.3g}: the difference agrees with the gradient to "
                f"{digits if digits else 'no'} digit{'s' * (digits != 1)}.",
                numbers=[
                    ("error, median of the networks", number(errors[i])),
                    ("stencils that cross a kink", f"{curve['crossed'][i]:.0%}"),
                    ("smallest error, and where", f"{number(errors[best])} at {epsilons[best]:.0e}"),
                ],
                command=command(lesson.LESSON, result["knobs"]),
                show=drawn[curve["label"]],
                faint=[[d[k] for other, d in drawn.items() if other != curve["label"]] for k in range(2)],
                marks=[[at[i], float(logs(errors[i]))], [at[i], curve["crossed"][i]]],
            )
    return page


def trust(lesson: ModuleType, results: list[dict]) -> Explorer:
    """Lesson 7: what is left of direction and promise after a step."""
    shares, kinds = lesson.SHARES, tuple(lesson.KINDS)
    at, ticks = np.log10(shares), [(round(math.log10(s)), tick(round(math.log10(s)))) for s in shares]
    controls = (
        slider("share", "Length of the step", shares, [tick(round(math.log10(s))) for s in shares], 1e-5),
        Control("kind", "Network", kinds, kinds, "residual"),
        Control("moved", "What moves", ("all", "each"), ("all as one vector", "each array alike"), "all"),
    )
    charts = (
        Chart("Direction", "step, over the weights' size", "cosine of gradients, before and after", False, ticks),
        Chart("Promise", "step, over the weights' size", "fall of the loss, measured / promised", False, ticks),
    )
    page, drawn = Explorer(controls, charts, {"faint": "the other network"}), {}
    for result in results:
        moved = "each" if result["knobs"]["each_layer"] else "all"
        for kind in kinds:
            # a loss that leaps up at the longest steps would flatten all else
            seen = np.array(result["cosine"][kind]), np.maximum(result["kept"][kind], -1)
            name = f"{kind}|{moved}"
            drawn[kind, moved] = [page.curve(i, name, at, c.mean(axis=0), *band(c)) for i, c in enumerate(seen)]
    for result in results:
        moved = "each" if result["knobs"]["each_layer"] else "all"
        for kind in kinds:
            cosines, kept = np.array(result["cosine"][kind]), np.array(result["kept"][kind])
            beside = next(curves for (k, m), curves in drawn.items() if k != kind and m == moved)
            radius = 10 ** np.mean([math.log10(lesson.radius(walk)) for walk in result["cosine"][kind]])
            for i, share in enumerate(shares):
                mean, part = float(cosines[:, i].mean()), float(kept[:, i].mean())
                left = "still points the same way" if mean > 0.9 else "points elsewhere" if mean < 0.5 else "has turned"
                page.cell(
                    (share, kind, moved),
                    says=f"After a step of {share:.0e} of the weights' size the {kind} network's gradient {left}: "
                    f"its cosine is {mean:.2f}.",
                    numbers=[
                        (f"cosine, {seeds(result)}", with_range(cosines[:, i], two_digits)),
                        ("part of the promise kept", with_range(kept[:, i], two_digits)),
                        ("radius of trust", number(radius)),
                    ],
                    command=command(lesson.LESSON, result["knobs"]),
                    show=drawn[kind, moved],
                    faint=[[curve] for curve in beside],
                    marks=[[at[i], mean], [at[i], max(part, -1)]],
                )
    return page


def paths(lesson: ModuleType, results: list[dict]) -> Explorer:
    """Lesson 10: the power by path length at initialisation, over depth."""
    archs = list(dict.fromkeys(r["knobs"]["arch"] for r in results))
    controls = (
        slider("arch", "Network", archs, [f"ResNet-{a.removeprefix('resnet')}" for a in archs], archs[-1]),
        Control("block", "ReLUs", ("pre", "post"), ("pre-activation", "post-activation"), "pre"),
    )
    places = [(tenth / 10, f"{tenth * 10} %") for tenth in range(0, 11, 2)]
    chart = Chart("Power by path length", "share of the branches taken", "over that of an even spread", False, places)
    page = Explorer(controls, (chart,), {"theory": "the count of paths", "faint": "the other order of ReLUs"})
    drawn, seen = {}, {}
    for result in results:
        key = result["knobs"]["arch"], result["knobs"]["block"]
        shares, count = (np.array([one["shares"] for one in result["moments"]["init"]]), np.array(result["count"]))
        n = len(count) - 1
        at, heights = np.arange(n + 1) / n, (n + 1) * shares  # so that networks of all depths fit one axis
        drawn[key] = page.curve(0, "|".join(key), at, heights.mean(axis=0), *band(heights), (at, (n + 1) * count))
        seen[key] = result, shares, n
    for key, (result, shares, n) in seen.items():
        lengths = shares @ np.arange(n + 1)
        coins = [np.arange(n + 1) @ one["expected"] for one in result["moments"]["init"]]
        mean = float(lengths.mean())
        page.cell(
            key,
            says=f"{n} blocks make {2**n:,} paths, {n / 2:g} branches long in the mean. The gradient's power travels "
            f"{mean:.1f} branches.",
            numbers=[
                (f"mean length, {seeds(result)}", with_range(lengths, two_digits)),
                ("over that of the count", with_range(lengths / (n / 2), two_digits)),
                ("foretold by the coins", with_range(coins, two_digits)),
            ],
            command=command(lesson.LESSON, result["knobs"]),
            show=[drawn[key]],
            faint=[[curve for other, curve in drawn.items() if other[0] == key[0] and other != key]],
        )
    return page


def highway(lesson: ModuleType, results: list[dict]) -> Explorer:
    """Lesson 11: the whole gradient and the pure path by the shortcut's factor."""
    scales = results[0]["knobs"]["scales"]
    depths = [r["knobs"]["depth"] for r in results]
    controls = (
        slider("scale", "Shortcut times", scales, [f"{s:g}" for s in scales], 0.9),
        Control("depth", "Depth", depths, [f"{d} layers" for d in depths], 50),
    )
    charts = (
        Chart("All paths", "blocks from the input", "RMS of dL/dy, over the output's"),
        Chart("The pure shortcut path", "blocks from the input", "RMS of dL/dy, over the output's"),
    )
    page = Explorer(controls, charts, {"faint": "other factors, same depth"})
    for result in results:
        depth, drawn = result["knobs"]["depth"], {}
        blocks = depth // 2
        flows = {flow["shortcut"]: flow for flow in result["flows"] if flow["branch"] == 1}
        for scale, flow in flows.items():
            expected = logs(lesson.theory(blocks, 1.0, scale))
            seen = logs(flow["total"]), logs(flow["pure"])
            at, name = range(blocks + 1), f"{depth}|{scale}"
            drawn[scale] = [
                page.curve(i, name, at, c.mean(axis=0), *band(c), theory)
                for i, (c, theory) in enumerate(zip(seen, ((at, expected), None), strict=True))
            ]
        for scale, flow in flows.items():
            total, pure = logs(flow["total"])[:, 0], float(logs(flow["pure"])[:, 0].mean())
            page.cell(
                (scale, depth),
                says=f"Shortcut times {scale:g}, {blocks} blocks: on its way back the whole gradient "
                f"{change(float(total.mean()))}, the pure path {change(pure)}.",
                numbers=[
                    (f"log10 of the growth, {seeds(result)}", with_range(total, two_digits)),
                    ("theory", two_digits(math.log10(lesson.theory(blocks, 1.0, scale)[0]))),
                    ("log10 of the pure path's", two_digits(pure)),
                ],
                command=command(lesson.LESSON, result["knobs"]),
                show=drawn[scale],
                faint=[[c[i] for other, c in drawn.items() if other != scale] for i in range(2)],
            )
    return page


def how_fast(lesson: ModuleType, results: list[dict]) -> Explorer:
    """Lesson 14: multiplications and rounding by the number of channels."""
    (result,) = results
    channels = [int(c) for c in result["rounding"]]
    rungs = {"im2col": "im2col", "F(2x2)": "F(2x2)", "F(4x4)": "F(4x4)", lesson.USUAL_NAME: "F(4x4), usual points"}
    controls = (
        slider("channels", "Channels", channels, [str(c) for c in channels], 64),
        Control("rung", "Rung", tuple(rungs), tuple(rungs.values()), "F(4x4)"),
    )
    places = [(math.log2(c), str(c)) for c in channels]
    charts = (
        Chart("Multiplications", "channels", "for each output and channel", False, places),
        Chart("Rounding", "channels", "error of float32, over the result", True, places),
    )
    page = Explorer(controls, charts, {"this": "this rung", "faint": "the other rungs"})
    at = [place for place, _ in places]
    size, images = result["knobs"]["size"], result["knobs"]["images"]
    drawn, seen = {}, {}
    for rung in rungs:
        name = "F(4x4)" if rung == lesson.USUAL_NAME else rung  # other points take as many products
        work = [lesson.work(name, images, size, size, c, c) for c in channels]
        totals = zip(work, channels, strict=True)
        each = [(w["products"] + w["constants"]) / (images * size**2 * c**2) for w, c in totals]
        errors = np.array([[errors[rung] for errors in several] for several in result["rounding"].values()])
        seen[rung] = each, errors
        powers = logs(errors)
        drawn[rung] = page.curve(0, rung, at, each), page.curve(1, rung, at, powers.mean(axis=1), *band(powers.T))
    for rung, (each, errors) in seen.items():
        for i, c in enumerate(channels):
            beside = errors[i].mean() / seen["im2col"][1][i].mean()
            page.cell(
                (c, rung),
                says=f"{c} channels, {rungs[rung]}: {each[i]:.3g} multiplications an output and channel, where the "
                f"sum has 9, and {beside:.2g} times im2col's rounding.",
                numbers=[
                    ("multiplications, transforms included", number(each[i])),
                    (f"error of float32, {seeds(result)}", with_range(errors[i])),
                    ("over that of im2col", number(beside)),
                ],
                command=command(lesson.LESSON, result["knobs"]),
                show=drawn[rung],
                faint=[[d[k] for other, d in drawn.items() if other != rung] for k in range(2)],
                marks=[[at[i], each[i]], [at[i], float(logs(errors[i]).mean())]],
            )
    return page
