"""The tape's two players: the terminal with scripted keys, the page as a file; and `minires step`."""

import base64
import io
import json
import os
import re
import select
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from minires import cli
from minires.data import Parts, make_signs, write_signs
from minires.errors import ConfigError, DataError
from minires.instruments.step.page import follow, page, write_page
from minires.instruments.step.tape import record
from minires.instruments.step.terminal import play, print_steps, screen
from minires.nn import plain_twin, resnet
from minires.run import DataSource, begin
from minires.train import Classifier, Recipe, load_classifier
from minires.train.checkpoint import save_checkpoint


def tapes(arch="resnet8", size=16, **options):
    """(residual, plain) tapes of two small signs."""
    part, _ = make_signs(n_train=2, n_test=1, size=size)
    images = part.images(np.arange(2))
    x = (images / 255 - 0.5).astype(np.float32)
    model = resnet(arch, (size, size, 3), 6, **options)
    return tuple(record(m, x, part.labels, classes=part.classes, image=images[0]) for m in (model, plain_twin(model)))


@pytest.fixture(scope="module")
def pair():
    return tapes()


def console(width=100, height=40):
    return Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system="truecolor")


class Scripted:
    """A keyboard on which these keys are pressed and these lines typed."""

    def __init__(self, keys, answers):
        self.keys, self.answers = iter(keys), iter(answers)

    def __enter__(self):
        return self

    def __exit__(self, *failure):
        pass

    def key(self):
        return next(self.keys)

    def line(self, prompt):
        return next(self.answers)


def played(tape, keys, answers=(), **size):
    """(last position, everything that was written) for these key presses."""
    out = console(**size)
    return play(tape, out, Scripted(keys, answers)), out.file.getvalue()


def test_keys_step_forward_and_back(pair):
    assert played(pair[0], ["q"])[0] == 0
    assert played(pair[0], ["n", "right", "n", "p", "q"])[0] == 2
    assert played(pair[0], ["p", "left", "x", "q"])[0] == 0
    last = len(pair[0].steps) - 1
    assert played(pair[0], ["j", "n", "n", "n", "q"], [str(last)])[0] == last


def test_jump_by_number_and_by_name(pair):
    tape = pair[0]
    assert played(tape, ["j", "q"], ["12"])[0] == 11
    at, text = played(tape, ["j", "q"], ["layer2.0.add"])
    assert (tape.steps[at].name, tape.steps[at].direction) == ("layer2.0.add", "forward")
    assert "layer2.0.add" in text
    at, _ = played(tape, ["j", "j", "q"], ["loss", "layer2.0.fork"])  # exists in the other direction only
    assert (tape.steps[at].name, tape.steps[at].direction) == ("layer2.0.fork", "backward")
    at, text = played(tape, ["n", "j", "q"], ["nowhere"])
    assert at == 1
    assert "no step of that number or name" in text
    assert played(tape, ["j", "q"], ["0"])[0] == played(tape, ["j", "q"], [""])[0] == 0


def test_a_screen_shows_the_step(pair):
    tape = pair[0]
    out = console(height=60)
    out.print(screen(tape, tape.find("layer1.0.conv1", "backward"), out))
    text = re.sub(r"\x1b\[[\d;]*m", "", out.file.getvalue())
    step = tape.steps[tape.find("layer1.0.conv1", "backward")]
    assert "layer1.0.conv1 (Conv2d)  backward" in text
    assert step.maths.formula in text
    assert "2×16×16×16" in text
    assert "keeps" not in text
    assert "used x" in text
    assert "def conv2d_backward(" in text
    assert "▀" in text


def test_source_key_and_small_windows(pair):
    tape = pair[0]
    _, text = played(tape, ["s", "q"], height=18)
    assert "s shows the source alone" in text
    for source in (False, True):
        for position in range(0, len(tape.steps), 5):
            out = console(80, 24)
            lines = out.render_lines(screen(tape, position, out, source=source))
            assert len(lines) == 24
            assert "q quit" in "".join(segment.text for segment in lines[-1])


def test_printed_steps(pair):
    out = Console(file=io.StringIO(), width=200)
    print_steps(pair[0], out)
    lines = out.file.getvalue().splitlines()
    assert len(lines) == 1 + 2 * len(pair[0].steps)
    for step, line in zip(pair[0].steps, lines[1::2], strict=True):
        assert f"{step.direction:8} {step.name} ({step.kind})" in line


def test_a_real_terminal():
    """A pseudo-terminal, real key presses, the arrow keys as a terminal sends them."""
    pty = pytest.importorskip("pty", reason="no pseudo-terminals here")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "minires.cli", "step", "--arch", "resnet8", "--batch-size", "1"]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, text=True)
    os.close(theirs)

    def read_until(wanted):
        seen = ""
        while wanted not in seen:
            assert select.select([ours], [], [], 60)[0], f"{wanted!r} did not come; last: {seen[-200:]!r}"
            seen += os.read(ours, 65536).decode(errors="ignore")

    read_until("conv1 (Conv2d)")
    for keys, wanted in (
        (b"n", "step 2 of 65"),
        (b"\x1b[C", "step 3 of 65"),
        (b"\x1bOC", "step 4 of 65"),
        (b"\x1b[D", "step 3 of 65"),
        (b"p", "step 2 of 65"),
        (b"jfork\n", "layer3.0.fork (Fork)"),
        (b"pp", "step 42 of 65"),  # typed ahead: neither is lost
    ):
        os.write(ours, keys)
        read_until(wanted)
    os.write(ours, b"q")
    read_until("\x1b[?1049l")  # back on the usual screen
    assert process.communicate(timeout=60)[1].startswith("recording 1 images")
    assert process.returncode == 0
    os.close(ours)


class Balanced(HTMLParser):
    """Collects tags and attributes; every tag that needs it is closed in order."""

    VOID = frozenset({"meta", "input", "br", "link", "img", "hr"})

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.ids = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def data_of(text):
    return json.loads(re.search(r'<script type="application/json" id="tape">(.*?)</script>', text, re.DOTALL)[1])


def test_the_page_needs_nothing_else(pair, tmp_path):
    path = write_page(*pair, tmp_path / "step.html", note="minires step <b>")
    text = path.read_text(encoding="utf-8")
    parser = Balanced()
    parser.feed(text)
    assert parser.open == []
    assert len(parser.ids) == len(set(parser.ids))
    assert "://" not in text
    own = re.sub(r"(?s)<script type.*?</script>", "", text)
    assert not re.search(r"url\((?!#)|@import|import\(|^\s*import\s|fetch\(|XMLHttpRequest", own, re.MULTILINE)
    assert not any({"src", "href"} & set(attrs) for _, attrs in parser.tags)
    assert "{{" not in text
    assert "minires step &lt;b&gt;" in text
    assert "default-src 'none'" in text


def test_the_page_links_to_the_one_it_belongs_to(pair):
    assert '<a href="a&quot;b.html">All lessons</a>' in page(*pair, home='a"b.html')


def test_the_page_holds_both_tapes(pair):
    data = data_of(page(*pair))
    assert [n["label"] for n in data["networks"]] == ["with skips", "plain, no skips"]
    for network, tape in zip(data["networks"], pair, strict=True):
        assert [s["name"] for s in network["steps"]] == [s.name for s in tape.steps]
        for shown, tensor in zip(network["tensors"], tape.tensors, strict=True):
            pixels = np.frombuffer(base64.b64decode(shown["pixels"]), np.uint8).reshape(shown["tiles"])
            assert (pixels == tensor.tiles).all()
            assert shown["rms"] == pytest.approx(tensor.rms, rel=1e-5)
    assert data["sources"] == pair[0].sources() | pair[1].sources()
    picture = np.frombuffer(base64.b64decode(data["image"]["pixels"]), np.uint8).reshape(data["image"]["shape"])
    assert (picture == pair[0].image).all()


def test_the_plain_cursor_waits_at_add_nodes(pair):
    residual, plain = pair
    for step, (at, own) in zip(residual.steps, follow(residual, plain), strict=True):
        assert own == (step.kind not in ("Add", "Fork") and step.path != "shortcut")
        if own:
            assert plain.steps[at].name == step.name
    assert follow(residual, plain)[-1] == (len(plain.steps) - 1, True)


def test_one_tape_is_enough_and_none_is_too_few(pair):
    assert len(data_of(page(None, pair[1]))["networks"]) == 1
    with pytest.raises(ConfigError, match="no tape"):
        page(None, None)


def test_what_is_not_finite_becomes_null():
    model = resnet("resnet8", (16, 16, 3), 6)
    model.params()[0].data[:] = np.inf
    with np.errstate(all="ignore"):
        tape = record(model, np.ones((2, 16, 16, 3), np.float32), np.zeros(2, int))
    assert data_of(page(tape, None))["networks"][0]["loss"] is None


def test_a_resnet50_page_stays_small():
    """The tiles make the size, and the widths hardly matter to them: eight channels are shown of any."""
    assert len(page(*tapes("resnet50", 64, widths=(8, 8, 8, 8)))) < 3_000_000


def step(capsys, *arguments):
    """(exit status, stdout, stderr) of `minires step`."""
    status = cli.main(["step", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_command_prints_and_writes_a_page(tmp_path, capsys):
    status, text, _ = step(capsys, "--arch", "resnet8", "--batch-size", 2, "--text")
    assert status == 0
    assert "layer3.0.add (Add)" in text
    assert "layer3.0.fork (Fork)" in text
    status, text, _ = step(capsys, "--arch", "resnet8", "--batch-size", 2, "--no-skip", "--seed", 1)
    assert "(Add)" not in text
    assert "plain" in text
    assert "seed 1" in text
    status, text, _ = step(capsys, "--arch", "resnet8", "--batch-size", 2, "--html", tmp_path / "step.html")
    assert status == 0
    assert str(tmp_path / "step.html") in text
    networks = data_of((tmp_path / "step.html").read_text())["networks"]
    assert [any(s["kind"] == "Add" for s in n["steps"]) for n in networks] == [True, False]


def test_command_takes_a_picture_and_its_label(tmp_path, capsys):
    Image.new("RGB", (50, 40), (10, 200, 30)).save(tmp_path / "green.png")
    base = ("--arch", "resnet8", "--batch-size", 2, "--image", tmp_path / "green.png", "--html", tmp_path / "step.html")
    assert step(capsys, *base, "--label", "4")[0] == 0
    data = data_of((tmp_path / "step.html").read_text())
    assert data["label"] == 4
    assert base64.b64decode(data["image"]["pixels"])[:3] == bytes((10, 200, 30))
    assert step(capsys, *base)[0] == 0
    assert data_of((tmp_path / "step.html").read_text())["label"] in range(6)


def make_run(folder, parts, source, **options):
    """A run's folder as training leaves it, though nothing was learnt."""
    classifier = Classifier.for_data(resnet("resnet8", parts[0].shape, 6, seed=5, **options), parts[0])
    folder.mkdir()
    begin(folder, classifier, source, Parts(*parts), Recipe())
    save_checkpoint(folder / "model.h5", classifier)
    return folder


def test_command_steps_through_a_run(tmp_path, capsys):
    parts = make_signs(n_train=12, n_test=6, size=16)
    write_signs(tmp_path, *parts)
    source = DataSource(str(tmp_path), 16)
    run = make_run(tmp_path / "run", parts, source, last_gamma=0.25)
    assert step(capsys, "--run", run, "--html", tmp_path / "step.html")[0] == 0
    data = data_of((tmp_path / "step.html").read_text())
    for name in ("layer1.0.conv1", "layer3.0.bn2"):
        seen = [next(s["params"][0]["rms"] for s in n["steps"] if s["name"] == name) for n in data["networks"]]
        assert seen[0] == seen[1]  # the plain network is the run's own, its shortcuts cut
    status, text, _ = step(capsys, "--run", run, "--no-skip", "--batch-size", 4)
    assert status == 0
    assert "plain" in text
    assert "seed 5, batch of 4" in text
    plain = make_run(tmp_path / "plain", parts, source, skip=False)
    assert step(capsys, "--run", plain, "--html", tmp_path / "plain.html")[0] == 0
    assert len(data_of((tmp_path / "plain.html").read_text())["networks"]) == 1


def test_command_shows_two_runs_beside_one_another(tmp_path, capsys):
    """On the same images, each with its own weights and preprocessing; what cannot be compared is refused."""
    parts = make_signs(n_train=12, n_test=6, size=16)
    write_signs(tmp_path, *parts)
    source = DataSource(str(tmp_path), 16)
    run, plain = make_run(tmp_path / "run", parts, source), make_run(tmp_path / "plain", parts, source, skip=False)
    assert step(capsys, "--run", run, "--beside", plain, "--html", tmp_path / "two.html")[0] == 0
    data = data_of((tmp_path / "two.html").read_text())
    assert [n["label"] for n in data["networks"]] == ["run", "plain"]
    for network, folder in zip(data["networks"], (run, plain), strict=True):
        weights = load_classifier(folder).model.state()["conv1.w"]
        shown = next(s["params"][0]["rms"] for s in network["steps"] if s["name"] == "conv1")
        assert shown == pytest.approx(np.sqrt(np.mean(weights.astype(float) ** 2)), rel=1e-5)
    assert step(capsys, "--run", run, "--beside", run, "--html", tmp_path / "same.html")[0] == 0
    assert data_of((tmp_path / "same.html").read_text())["networks"][1]["label"] == f"2: {run}"
    larger = make_signs(n_train=12, n_test=6, size=24)
    other = make_run(tmp_path / "other", larger, source)
    status, _, errors = step(capsys, "--run", run, "--beside", other, "--html", tmp_path / "no.html")
    assert status == 2
    assert "takes other images ((24, 24, 3)) than --run ((16, 16, 3))" in errors.splitlines()[-1]


def test_command_errors_are_one_line(tmp_path, capsys):
    wrong = {
        "give --run RUN and --html FILE too": ["--beside", tmp_path],
        "--label names the class": ["--label", "3"],
        "--batch-size: expected a whole number from 1 to 1,000,000, got 0": ["--batch-size", "0"],
        "no such file": ["--image", tmp_path / "absent.png"],
        "no model.h5": ["--run", tmp_path],
    }
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    wrong["unknown --label 'six'"] = ["--image", tmp_path / "a.png", "--label", "six"]
    for message, arguments in wrong.items():
        status, _, errors = step(capsys, "--arch", "resnet8", "--batch-size", 2, *arguments)
        assert status == 2
        assert len(errors.splitlines()) == 1
        assert message in errors


def test_a_page_that_cannot_be_written_leaves_nothing(pair, tmp_path):
    with pytest.raises(DataError, match="create the folder"):
        write_page(*pair, tmp_path / "absent" / "step.html")
    assert list(tmp_path.iterdir()) == []
