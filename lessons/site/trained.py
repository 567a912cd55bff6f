"""Lessons that train networks, with sliders over what their own picture is made of."""

import math
from types import ModuleType

import numpy as np
from minires.lessons.harness import command, number
from minires.lessons.site.explorer import (
    Chart,
    Control,
    Explorer,
    band,
    logs,
    slider,
    two_digits,
)
from minires.lessons.site.words import change


def degradation(lesson: ModuleType, results: list[dict]) -> Explorer:
    """Lesson 8: four training losses, step by step."""
    (result,) = results
    networks = {f"{'residual' if n['skip'] else 'plain'} {n['depth']}": n for n in result["networks"]}
    curves = {name: np.array([lesson._smooth(losses) for losses in n["losses"]]) for name, n in networks.items()}
    total = next(iter(curves.values())).shape[1]
    steps = sorted({1, *(math.ceil(total * i / 12) for i in range(1, 13))})
    deep = f"plain {result['knobs']['deep']}"
    controls = (
        slider("step", "Step", steps, [f"step {step}" for step in steps], steps[-1]),
        Control("network", "Network", tuple(networks), tuple(networks), deep),
    )
    page = Explorer(
        controls,
        (Chart("Training loss", "step", f"cross-entropy, mean of {lesson.SMOOTH} steps", False),),
        {"theory": "guessing", "faint": "the other networks"},
    )
    at, guess = np.arange(total) + 1, math.log(result["classes"])
    line = ([1, total], [guess, guess])
    drawn = {name: page.curve(0, name, at, c.mean(axis=0), *band(c), line) for name, c in curves.items()}
    built = float(np.mean([pair["deep"] for pair in result["built"]]))
    for step in steps:
        seen = {name: float(c[:, step - 1].mean()) for name, c in curves.items()}
        numbers = [(f"{name} layers", two_digits(loss)) for name, loss in seen.items()]
        for name in networks:
            page.cell(
                (step, name),
                says=f"Step {step}: {name} layers have a training loss of {seen[name]:.2f}; guessing is {guess:.2f}.",
                numbers=[*numbers, (f"{deep} layers, built", number(built))],
                command=command(lesson.LESSON, result["knobs"]),
                show=[drawn[name]],
                faint=[[curve for other, curve in drawn.items() if other != name]],
                marks=[[step, seen[name]]],
            )
    return page


def lesions(lesson: ModuleType, results: list[dict]) -> Explorer:
    """Lesson 9: the accuracy without each block."""
    (result,) = results
    networks = {"residual" if n["skip"] else "plain": n["runs"] for n in result["networks"]}
    names = list(networks["plain"][0]["after"])
    controls = (
        slider("block", "Block deleted", range(len(names)), names, 0),
        Control("network", "Network", tuple(networks), tuple(networks), "residual"),
    )
    places = [(i, str(i + 1)) for i in range(len(names))]
    chart = Chart("Test accuracy", "deleted block, from the image", "share of the test images", False, places)
    page = Explorer(controls, (chart,), {"theory": "nothing deleted", "faint": "the other network"})
    drawn, seen = {}, {}
    for name, runs in networks.items():
        after, base = np.array([list(r["after"].values()) for r in runs]), float(np.mean([r["base"] for r in runs]))
        seen[name] = after.mean(axis=0), base
        line = ([0, len(names) - 1], [base, base])
        drawn[name] = page.curve(0, name, range(len(names)), after.mean(axis=0), *band(after), line)
    for name, (after, base) in seen.items():
        for i, block in enumerate(names):
            page.cell(
                (i, name),
                says=f"Without {block} the {name} network has {after[i]:.0%} of the test right; whole, {base:.0%}.",
                numbers=[
                    ("accuracy that is kept", f"{after[i] / base:.0%}"),
                    ("the same, mean of all deletions", f"{after.mean() / base:.0%}"),
                    ("worst deletion", f"{names[after.argmin()]}, {after.min() / base:.0%}"),
                    ("guessing", f"{result['chance']:.0%}"),
                ],
                command=command(lesson.LESSON, result["knobs"]),
                show=[drawn[name]],
                faint=[[curve for other, curve in drawn.items() if other != name]],
                marks=[[i, float(after[i])]],
            )
    return page


def statistics(lesson: ModuleType, results: list[dict]) -> Explorer:
    """Lesson 12: running against true variances, layer by layer."""
    (result,) = results
    run = result["runs"][0]
    layers = list(zip(run["variances"]["running"], run["variances"]["re-estimated"], strict=True))
    labels = [f"{i + 1} of {len(layers)}" for i in range(len(layers))]
    controls = (slider("layer", "Layer of batch normalisation", range(len(layers)), labels, len(layers) // 2),)
    charts = (
        Chart("This layer's channels", "channels, by their true variance", "variance"),
        Chart("All layers", "layer of batch normalisation", "running over true variance, median"),
    )
    page = Explorer(
        controls, charts, {"this": "running, as evaluation uses it", "theory": "true, of the present weights"}
    )
    off = [float(np.median(logs(running) - logs(true))) for running, true in layers]
    whole = page.curve(1, "all", np.arange(len(layers)) + 1, off, theory=([1, len(layers)], [0, 0]))
    drawn = []
    for i, (running, true) in enumerate(layers):
        order = np.argsort(true)
        at = np.linspace(0, 100, len(true))
        drawn.append(page.curve(0, str(i), at, logs(running)[order], theory=(at, logs(true)[order])))
    for i, (running, true) in enumerate(layers):
        away = np.abs(logs(running) - logs(true))
        page.cell(
            (i,),
            says=f"Layer {i + 1}: the running variance of the middle channel is {10 ** off[i]:.2g} times the true one.",
            numbers=[
                ("running over true, median channel", number(10 ** off[i])),
                ("channels off by more than twice", f"{np.mean(away > math.log10(2)):.0%}"),
                ("test accuracy, running", f"{run['accuracy']['running']:.0%}"),
                ("test accuracy, re-estimated", f"{run['accuracy']['re-estimated']:.0%}"),
            ],
            command=command(lesson.LESSON, result["knobs"]),
            show=[drawn[i], whole],
            faint=[[], []],
            marks=[None, [i + 1, off[i]]],
        )
    return page


def full_network(lesson: ModuleType, results: list[dict]) -> Explorer:
    """Lesson 13: the gradient at each convolution, before and after."""
    (result,) = results
    flows = result["flows"]
    depths = next(iter(flows.values()))["depth"]
    controls = (
        slider("layer", "Layer", range(len(depths)), [f"layer {d}" for d in depths], 0),
        Control("when", "Network", tuple(flows), tuple(flows), "as trained"),
    )
    page = Explorer(
        controls,
        (Chart("Activation gradient at the layer's output", "depth, in layers from the image", "RMS of dL/dy"),),
        {"faint": "the same network, before or after"},
    )
    drawn = {when: page.curve(0, when, flow["depth"], logs(flow["dy_rms"])) for when, flow in flows.items()}
    for when, flow in flows.items():
        sizes = np.array(flow["dy_rms"])
        for i, depth in enumerate(depths):
            ratio = math.log10(sizes[i] / sizes[-2])  # behind the last convolution comes the dense layer
            page.cell(
                (i, when),
                says=f"Layer {depth}, {when}: from the last convolution to here the gradient {change(ratio)}.",
                numbers=[
                    ("RMS of dL/dy here", number(sizes[i])),
                    ("over that of the last convolution", number(sizes[i] / sizes[-2])),
                    ("largest over smallest, all layers", number(sizes.max() / sizes.min())),
                ],
                command=command(lesson.LESSON, result["knobs"]),
                show=[drawn[when]],
                faint=[[curve for other, curve in drawn.items() if other != when]],
                marks=[[depth, math.log10(sizes[i])]],
            )
    return page
