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
    seeds,
    slider,
    two_digits,
    with_range,
)
from minires.lessons.site.words import change


def degradation(lesson: ModuleType, results: list[dict]) -> Explorer:
    """Lesson 8: four training losses, step by step."""
    (result,) = results
    networks = {f"{'residual' if n['skip'] else 'plain'} {n['depth']}": n for n in result["networks"]}
    curves = {name: np.array([lesson.smooth(losses) for losses in n["losses"]]) for name, n in networks.items()}
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


def finetuning(lesson: ModuleType, results: list[dict]) -> Explorer:
    """Lesson 17: how far a part went, and what it still computes, on each way to the new task."""
    (result,) = results
    runs, ways = result["runs"], tuple(lesson.WAYS)
    names = lesson.short(result["parts"])[:-1]
    controls = (
        slider("part", "Part", range(len(names)), names, len(names) - 1),
        Control("way", "Way", ways, ways, "all"),
    )
    places = list(enumerate(names))
    charts = (
        Chart("How far it went", "part, from the image", "change of the weights, % of their size", False, places),
        Chart("What it still computes", "part, from the image", "CKA with the pretrained part", False, places),
    )
    faint = {"theory": "pretraining, and a network never trained", "faint": "the other ways"}
    page = Explorer(controls, charts, {"this": "this way"} | faint)
    at = list(range(len(names)))
    learnt = 100 * np.array([r["change"][:-1] for r in runs])
    untrained = np.array([r["untrained"] for r in runs])
    drawn, seen = {}, {}
    for way in ways:
        change = 100 * lesson._each(result, way, "change")[:, :-1]
        similar, drift = (lesson._each(result, way, key) for key in ("cka", "statistics"))
        seen[way] = change, similar, drift, lesson._each(result, way, "accuracy")
        drawn[way] = (
            page.curve(0, way, at, change.mean(axis=0), *band(change), (at, learnt.mean(axis=0))),
            page.curve(1, way, at, similar.mean(axis=0), *band(similar), (at, untrained.mean(axis=0))),
        )
    for way, (change, similar, drift, accuracy) in seen.items():
        for i, name in enumerate(names):
            went, like = float(change[:, i].mean()), float(similar[:, i].mean())
            page.cell(
                (i, way),
                says=f"{way}, {name}: the weights went {went:.1f} % of their size, and what they compute is like the "
                f"pretrained part's to {like:.2f}.",
                numbers=[
                    (f"change of the weights, %, {seeds(result)}", with_range(change[:, i])),
                    ("pretraining's, %", with_range(learnt[:, i])),
                    ("similarity (CKA)", with_range(similar[:, i], two_digits)),
                    ("running means, in deviations", with_range(drift[:, i], two_digits)),
                    ("accuracy of this way", with_range(accuracy, two_digits)),
                ],
                command=command(lesson.LESSON, result["knobs"]),
                show=list(drawn[way]),
                faint=[[d[k] for other, d in drawn.items() if other != way] for k in range(2)],
                marks=[[i, went], [i, like]],
            )
    return page


def without_batches(lesson: ModuleType, results: list[dict]) -> Explorer:
    """Lesson 15: what neighbours in the batch do to an image and to the gradient, by the size of the batch."""
    (result,) = results
    runs, batches = result["runs"], result["batches"]
    names = {"BN": "batch normalisation", "GN": "group normalisation"}
    controls = (
        slider("batch", "Images in the batch", batches, [str(b) for b in batches], batches[0]),
        Control("norm", "Normalisation", tuple(names), tuple(names.values()), "BN"),
    )
    places = [(math.log2(b), str(b)) for b in batches]
    charts = (
        Chart("An image's answer", "images in the batch", "change with its neighbours", False, places),
        Chart("The gradient", "images in the batch", "distance from that of all at once", False, places),
    )
    page = Explorer(controls, charts, {"this": "this normalisation", "faint": "the other one"})
    at, drawn, seen = [place for place, _ in places], {}, {}
    for name in names:
        told, off = (np.array([r[key][name] for r in runs]) for key in ("neighbours", "gradient"))
        seen[name] = told, off
        drawn[name] = [page.curve(i, name, at, c.mean(axis=0), *band(c)) for i, c in enumerate((told, off))]
    for name, (told, off) in seen.items():
        accuracy = np.array([r["trained"][name]["accuracy"] for r in runs])
        for i, batch in enumerate(batches):
            moves = "moves nothing" if told[:, i].max() == 0 else f"moves it by {told[:, i].mean():.2f} of that"
            page.cell(
                (batch, name),
                says=f"Batches of {batch}, {names[name]}: two images' answers differ by 1; other neighbours beside an "
                f"image {moves}.",
                numbers=[
                    (f"change with the neighbours, {seeds(result)}", with_range(told[:, i])),
                    ("gradient's distance", with_range(off[:, i])),
                    (f"test accuracy, learnt {result['knobs']['batch']} at a time", with_range(accuracy, two_digits)),
                ],
                command=command(lesson.LESSON, result["knobs"]),
                show=drawn[name],
                faint=[[d[k] for other, d in drawn.items() if other != name] for k in range(2)],
                marks=[[at[i], float(told[:, i].mean())], [at[i], float(off[:, i].mean())]],
            )
    return page


def warm_up(lesson: ModuleType, results: list[dict]) -> Explorer:
    """Lesson 16: loss and size of the update, step by step, with and without a warm-up."""
    (result,) = results
    cases, ways = tuple(lesson.CASES), {"cold": "none", "warm": f"{result['knobs']['warmup']} steps"}
    total = result["knobs"]["steps"]
    steps = sorted({1, 2, 3, 5, *(math.ceil(total * i / 12) for i in range(1, 13))})
    controls = (
        slider("step", "Step", steps, [f"step {step}" for step in steps], 1),
        Control("case", "Network", cases, cases, cases[0]),
        Control("way", "Warm-up", tuple(ways), tuple(ways.values()), "cold"),
    )
    charts = (
        Chart("Training loss", "step", f"cross-entropy, drawn up to {lesson.HIGH:g}", False),
        Chart("Update", "step", "RMS, over the full rate"),
    )
    page = Explorer(controls, charts, {"faint": "the other way", "theory": "guessing; Adam on pure noise"})
    at, guess = np.arange(total) + 1, math.log(result["classes"])
    drawn, seen = {}, {}
    for case in cases:
        theory = (at, logs(result["noise"])) if case.startswith("Adam") else None
        for way in ways:
            runs = [r["cases"][case][way] for r in result["runs"]]
            losses, updates = (np.array([one[key] for one in runs]) for key in ("losses", "updates"))
            seen[case, way] = losses, updates, np.array([one["accuracy"] for one in runs])
            shown, name = np.minimum(losses, lesson.HIGH), f"{case}|{way}"
            drawn[case, way] = [
                page.curve(0, name, at, shown.mean(axis=0), *band(shown), ([1, total], [guess, guess])),
                page.curve(1, name, at, logs(updates).mean(axis=0), *band(logs(updates)), theory),
            ]
    for (case, way), (losses, updates, accuracy) in seen.items():
        beside = next(curves for (c, w), curves in drawn.items() if c == case and w != way)
        for step in steps:
            loss, update = (seen_by[:, step - 1] for seen_by in (losses, updates))
            page.cell(
                (step, case, way),
                says=f"{case}, {'without a warm-up' if way == 'cold' else 'warmed up'}, step {step}: the loss is "
                f"{loss.mean():.2f}, where guessing has {guess:.2f}.",
                numbers=[
                    (f"loss, {seeds(result)}", with_range(loss)),
                    ("update over the full rate", with_range(update)),
                    (f"loss, last {lesson.LAST} steps", with_range(losses[:, -lesson.LAST :].mean(axis=1))),
                    ("test accuracy", with_range(accuracy, two_digits)),
                ],
                command=command(lesson.LESSON, result["knobs"]),
                show=drawn[case, way],
                faint=[[curve] for curve in beside],
                marks=[
                    [step, float(np.minimum(loss, lesson.HIGH).mean())],
                    [step, float(logs(update).mean())],
                ],
            )
    return page


def machines(lesson: ModuleType, results: list[dict]) -> Explorer:
    """Lesson 18: what is learnt in as many epochs by more ranks, by how the rate follows their number."""
    (result,) = results
    knobs, ways, ranks = result["knobs"], tuple(lesson.WAYS), lesson.RANKS
    controls = (
        slider("ranks", "Ranks", ranks, [f"{n} rank{'s' * (n > 1)}" for n in ranks], ranks[-1]),
        Control("way", "Rate", ways, ways, ways[0]),
    )
    places = [(math.log2(n), str(n)) for n in ranks]
    charts = (
        Chart("Training loss", "epoch", "mean of the epoch's steps", False),
        Chart("At the end", "ranks", "training loss, statistics estimated anew", False, places),
    )
    page = Explorer(controls, charts, {"this": "this rate", "faint": "the other rates"})
    epochs, at, drawn = np.arange(knobs["epochs"]) + 1, [place for place, _ in places], {}
    for way in ways:
        losses, ends = (lesson.final(result, "scaled", way, key) for key in ("losses", "loss"))
        end = page.curve(1, way, at, ends.mean(axis=0), *band(ends))
        for i, n in enumerate(ranks):
            curve = page.curve(0, f"{n}|{way}", epochs, losses[:, i].mean(axis=0), *band(losses[:, i]))
            drawn[n, way] = [curve, end]
    for n, way in drawn:
        i, batch = ranks.index(n), n * knobs["images"]
        steps = knobs["count"] // batch * knobs["epochs"]
        ends, running, right = (
            lesson.final(result, "scaled", way, key)[:, i] for key in ("loss", "running", "accuracy")
        )
        rate = knobs["lr"] * n ** lesson.WAYS[way][0]
        page.cell(
            (n, way),
            says=f"{n} rank{'s' * (n > 1)}, {batch} images a step: {steps:,} steps at {number(rate)} end at a loss of "
            f"{ends.mean():.2f}.",
            numbers=[
                (f"loss at the end, {seeds(result)}", with_range(ends, two_digits)),
                ("by running statistics", with_range(running, two_digits)),
                ("test accuracy", with_range(right, two_digits)),
            ],
            command=command(lesson.LESSON, knobs),
            show=drawn[n, way],
            faint=[[drawn[n, other][k] for other in ways if other != way] for k in range(2)],
            marks=[
                [knobs["epochs"], float(lesson.final(result, "scaled", way, "losses")[:, i, -1].mean())],
                [at[i], float(ends.mean())],
            ],
        )
    return page
