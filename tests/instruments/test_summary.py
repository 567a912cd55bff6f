"""The summary against what really happens: counts, shapes, and the bytes that a forward pass keeps."""

import json
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from minires.fast import cpu
from minires.instruments.cost.summary import show_bytes, summarize
from minires.nn import resnet, resnet50

NARROW = {"widths": (4, 8, 8, 8)}
NETWORKS = [
    ("resnet8", {}),
    ("resnet8", {"preact": True}),
    ("resnet8", {"skip": False}),
    ("resnet8", {"norm": False}),
    ("resnet8", {"dropout": 0.3}),
    ("resnet8", {"variant": "course"}),
    ("resnet50", NARROW),
    ("resnet50", {**NARROW, "variant": "v1"}),
    ("resnet50", {**NARROW, "variant": "v1.5", "preact": True}),
    ("resnet18", NARROW),
]


def bytes_held(model):
    """Bytes of the distinct arrays in the slots; a view counts as what it looks into."""
    held = {}
    for module in model.modules():
        for array in module._slot or ():
            if isinstance(array, np.ndarray):
                while array.base is not None:
                    array = array.base
                held[id(array)] = array.nbytes
    return sum(held.values())


def images(model, batch):
    return np.random.default_rng(0).random((batch, *model.config.input_shape), np.float32)


def test_course_network_in_numbers():
    summary = summarize(resnet50(), batch=32)
    assert summary.total == 23_600_006
    assert (summary.trained, summary.not_trained) == (23_546_886, 53_120)
    assert sum(row.trained + row.kept for row in summary.rows) == summary.total
    # worked out by hand: conv1 makes 32x32x64 numbers of 7*7*3 products each
    conv1 = next(row for row in summary.rows if row.name == "conv1")
    assert conv1.flops == 2 * 32 * 32 * 64 * 7 * 7 * 3
    assert summary.flops_training == 3 * summary.flops_forward - conv1.flops
    assert summary.flops_training * 32 == pytest.approx(58.55e9, rel=1e-3)


def test_published_cost_of_resnet50():
    """3.8 billion multiply-adds at 224x224 in the paper's table 1, where the first 1x1 has the stride."""
    summary = summarize(resnet50((224, 224, 3), 1000, variant="v1"))
    assert summary.flops_forward / 2 == pytest.approx(3.8e9, rel=0.02)
    assert (summary.trained, summary.total) == (25_583_592, 25_636_712)  # keras.applications.ResNet50


@pytest.mark.parametrize(("arch", "options"), NETWORKS)
def test_kept_bytes_are_those_in_the_slots(arch, options):
    model = resnet(arch, (64, 64, 3), 6, **options)
    summary = summarize(model, batch=2)
    model.forward(images(model, 2))
    assert summary.memory.activations == bytes_held(model)


@pytest.mark.parametrize(("arch", "options"), [NETWORKS[0], NETWORKS[1], NETWORKS[7]])
def test_shapes_and_inputs_are_those_of_a_run(arch, options):
    model = resnet(arch, (64, 64, 3), 6, **options)
    rows = {row.name: row for row in summarize(model).rows}
    outputs = {}

    def watch(module):
        forward = module.forward

        def watched(*inputs):
            names = [next((n for n, a in outputs.items() if a is x), None) for x in inputs]
            y = forward(*inputs)
            outputs[module.name] = y
            assert rows[module.name].shape == (None, *y.shape[1:])
            assert rows[module.name].inputs == tuple(names)
            return y

        module.forward = watched

    leaves = [m for m in model.modules() if not m.children()]
    for module in leaves:
        watch(module)
    x = outputs["input"] = images(model, 2)
    model.forward(x)
    assert [row.name for row in summarize(model).rows] == list(outputs)  # forward order
    assert all(len(rows[m.name].inputs) == 2 for m in leaves if type(m).__name__ == "Add")


def test_total_bounds_the_peak_of_a_step():
    model = resnet("resnet8", (64, 64, 3), 6)
    memory = summarize(model, batch=4).memory
    x = images(model, 4)
    tracemalloc.start()
    y = model.forward(x)
    model.backward(np.ones_like(y), need_dx=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    predicted = memory.gradients + memory.activations + memory.workspace
    least = 0.5 if cpu.enabled() else 0.6  # kernels copy no columns
    assert least * predicted < peak + x.nbytes < 1.05 * predicted


def test_memory_follows_optimiser_batch_and_precision():
    model = resnet("resnet8", (32, 32, 3), 6)
    memory = summarize(model, batch=1).memory
    assert memory.gradients == sum(p.data.nbytes for p in model.params())
    assert memory.total("adam") - memory.total("sgd") == memory.gradients
    statistics = sum(4 * 2 * b.data.size for b in model.buffers()) // 2  # a mean and a rstd each, whatever the batch
    doubled = summarize(model, batch=2).memory
    assert doubled.activations - statistics == 2 * (memory.activations - statistics)
    assert summarize(model.astype(np.float64), batch=1).memory.activations == 2 * memory.activations
    with pytest.raises(ValueError, match="at least 1"):
        summarize(model, batch=0)


def test_table_and_json():
    summary = summarize(resnet50())
    console = Console(width=120)
    with console.capture() as capture:
        console.print(summary.table())
    text = capture.get()
    assert "23,600,006" in text
    assert "block2a.add" in text
    assert "(None, 15, 15, 256)" in text
    assert json.loads(json.dumps(summary.as_dict()))["memory"]["total"]["adam"] == summary.memory.total("adam")


def test_bytes_are_shown_with_a_unit():
    assert [show_bytes(n) for n in (0, 999, 1000, 94_400_024, 5e12)] == ["0 B", "999 B", "1.0 kB", "94.4 MB", "5.0 TB"]


def test_a_result_prints_as_its_table_and_is_html_in_a_notebook(monkeypatch):
    """At any width of the terminal no name is broken; names that come from elsewhere stay text."""
    monkeypatch.setenv("COLUMNS", "40")
    report = summarize(resnet50((64, 64, 3), 6), 32)
    assert "res5c_branch2c (Conv2d)" in str(report)
    html = report._repr_html_()
    assert html.count("<tr>") == 1 + len(report.rows)
    assert '<td style="text-align: right">23,600,006</td>' not in html
    assert "23,600,006" in html
    name = "<b>\x1b[31m"
    shown = replace(report, name=name)
    assert "&lt;b&gt;␛[31m" in shown._repr_html_()
    assert "<b>␛[31m" in str(shown)
