"""CONTRIBUTING's "Add a layer", followed to the letter in a copy of the checkout."""

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^ *```python file=(\S+)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)

INSTRUMENTS = """
import numpy as np, minires
from minires import nn

layers = nn.Conv2d("conv", 3, 4, 3, pad=1), nn.Softplus("softplus"), nn.GlobalAvgPool2d("pool"), nn.Dense("fc", 4, 6)
net = nn.Network(*layers, input_shape=(16, 16, 3), name="soft")
x, labels = np.random.default_rng(0).standard_normal((4, 16, 16, 3)).astype("f4"), np.arange(4)
told = str(minires.summarize(net)) + minires.audit(net).title
assert "Softplus" in told
assert minires.gradcheck(net, x).ok
assert minires.gradflow(net, x, labels).layers
minires.diagram(net)
steps = minires.record(net, x, labels).steps
assert any("log(1 + exp(x))" in repr(step.maths) for step in steps if step.name == "softplus")
train, test = minires.make_signs(12, 6, size=16)
classifier = minires.Classifier.for_data(net, train)
minires.fit(classifier, train, test, minires.Recipe(epochs=1, batch_size=6), out="run")
minires.evaluate(minires.load("run", model=net), test)
try:
    import onnxruntime
except ImportError:
    raise SystemExit
minires.export_weights(net, "net.onnx")
session = onnxruntime.InferenceSession("net.onnx")
(theirs,) = session.run(None, {session.get_inputs()[0].name: x})
np.testing.assert_allclose(theirs, net.eval().forward(x), rtol=1e-4, atol=1e-5)
"""


@pytest.mark.slow
def test_adding_a_layer_touches_four_files_and_passes_every_instrument(tmp_path):
    shutil.copytree(ROOT / "minires", tmp_path / "minires", ignore=shutil.ignore_patterns("__pycache__"))
    blocks = BLOCK.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert len({file for file, _ in blocks}) == len(blocks) == 4
    for file, text in blocks:
        path, text = tmp_path / file, textwrap.dedent(text)
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        names = re.findall(r"^(?:def|class) (\w+)", text, re.MULTILINE)
        listed = "__all__ = [\n" + "".join(f'    "{name}",\n' for name in names)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(before.replace("__all__ = [\n", listed) + "\n\n" + text, encoding="utf-8")

    def run(*args):
        environment = os.environ | {"PYTHONPATH": str(tmp_path)}
        done = subprocess.run([sys.executable, *args], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    run("-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", "tests/nn/test_softplus.py")
    run("-c", INSTRUMENTS)
