"""`minires bench` as a user meets it: tables, records, pictures; and one line for what went wrong."""

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from demand import on_demand
from minires.benchmarks import (
    bench_ops,
    breakdown,
    contenders,
    floors,
    gpu_vs_cpu,
    harness,
    isa,
    plots,
    scaling,
    tables,
    waiting,
    watch,
)
from minires.benchmarks.harness import Spread, Unavailable

from minires import backend, cli, resnet
from minires.fast.cpu import enabled
from minires.fast.step import make_step
from minires.ops import conv
from minires.train import Adam

pytestmark = pytest.mark.slow

CONVOLUTION = bench_ops.Case("conv", (6, 6, 4), (3, 3, 4, 8), (("stride", (1, 1)), ("pad", (1, 1))))
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
RECORDS = sorted(RESULTS.glob("*.jsonl"))
LIMITS = floors.Floors(square=1e11, best=1.2e11, best_shape=(2048, 2048, 2048), copy=2e10, triad=1.5e10)


@pytest.fixture
def limits(monkeypatch):
    """A machine whose limits need no measuring."""
    monkeypatch.setattr(floors, "measure", lambda *_: LIMITS)
    return LIMITS


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_step(limits, tmp_path, capsys):
    path, pictures = tmp_path / "r.jsonl", tmp_path / "pictures"
    small = ["--arch", "resnet8", "--size", "8", "--batch", "2", "--steps", "2", "--warmup", "1"]
    # what stands before the benchmark's name counts too
    arguments = ["bench", "--json", str(path), "step", *small, "--peers", "ours,textbook,keras", "--out", str(pictures)]
    assert cli.main(arguments) == 0
    told = capsys.readouterr()
    assert "textbook" in told.out
    assert "x floor" in told.out
    assert "keras: left out: the Keras twin exists for resnet50 alone" in told.err
    records = lines(path)
    assert {(r["task"], r["contender"]) for r in records} == {
        (task, name) for task in ("training", "inference") for name in ("ours", "textbook", "keras")
    }
    timed = [r for r in records if "seconds" in r]
    assert all(len(r["seconds"]) == 2 and r["benchmark"] == "step" for r in timed)
    training = next(r for r in timed if r["task"] == "training")
    needed = floors.work(resnet("resnet8", (8, 8, 3), 6), 2)
    assert (training["flops"], training["floor_seconds"]) == (needed.flops, limits.seconds(needed))
    assert (pictures / "resnet8-8-2-bars.png").read_bytes()[:4] == b"\x89PNG"

    # the same table again, from the file
    assert cli.main(["bench", "table", str(path)]) == 0
    text = capsys.readouterr().out
    median = Spread.of(training["seconds"]).median
    assert f"| minires | {tables.ms(median)} | 1.00 (1.00-1.00) |" in text
    assert "left out: the Keras twin" in text
    assert cli.main(["bench", "table", "--brief", str(path)]) == 0
    brief = capsys.readouterr().out
    over = next(r for r in timed if r["task"] == "training" and r["contender"] == "textbook")["ours_over_this"][
        "median"
    ]
    instructions = f", {isa.name(training)}" if isa.name(training) else ""  # as the processor has
    cpu = f"{training['cpu']}, {training['cores']} cores"
    assert f"| training, resnet8, batch 2, 8x8{instructions} | {cpu} | {tables.ms(median)} | {over:.2f} |" in brief


def test_step_by_one_instruction_set(limits, monkeypatch, tmp_path, capsys):
    """Short inferences are called many times a turn; the records tell what was asked for and what came of it."""
    if not isa.FLAGS["avx2"] <= set(isa.flags()):
        pytest.skip("this processor has no AVX2")
    monkeypatch.setattr(isa, "flags", lambda: ["avx2", "fma"])
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Nehalem")
    path = tmp_path / "r.jsonl"
    small = ["--arch", "resnet8", "--size", "8", "--batch", "1", "--steps", "2", "--tasks", "inference"]
    arguments = ["step", *small, "--peers", "ours,numpy,plain", "--isa", "avx2", "--json", str(path)]
    assert cli.main(["bench", *arguments, "--out", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "inference: resnet8, batch 1, 8x8, AVX2" in told
    assert "Not taken over from the shell: OPENBLAS_CORETYPE=Nehalem" in told
    assert "Says of itself: minires NumPy" in told
    ours, numpy, plain = lines(path)
    assert {r["options"]["isa"] for r in (ours, numpy, plain)} == {"avx2"}
    assert ours["flags"] == ["avx2", "fma"]
    assert ours["calls"] > 1
    assert f"turn of 50 ms or more: ours {ours['calls']}" in told
    assert max(ours["seconds"]) < 0.05
    assert {"ours_over_this", "numpy_over_this", "plain_over_this"} < plain.keys()
    assert numpy["told"]["OpenBLAS"] == "Haswell"

    text = tables.markdown(lines(path))
    assert (
        "| inference, resnet8, batch 1, 8x8, AVX2 | ms | minires, C / this (quartiles) | minires, NumPy / this" in text
    )
    brief = tables.brief(lines(path))
    assert "| inference, resnet8, batch 1, 8x8, AVX2 | C |" in brief
    assert "| inference, resnet8, batch 1, 8x8, AVX2 | NumPy |" in brief
    assert (tmp_path / "resnet8-8-1-avx2-bars.png").stat().st_size > 10_000


def stepped(contender, cpu="a processor", over=2.0, **options):
    """A record of `minires bench step`."""
    options = {"arch": "resnet8", "size": 8, "batch": 2} | options
    case = {"benchmark": "step", "date": "2026-01-02", "command": "", "cpu": cpu, "cores": 2, "options": options}
    times = {"time": {"median": 1.0, "low": 1.0, "high": 1.0}, "floor_seconds": 0.5, "peak_mib": 10}
    return case | times | {"task": "inference", "contender": contender, "ours_over_this": {"median": over}}


def test_the_brief_table_keeps_processors_and_instruction_sets_apart():
    old = [stepped("ours"), stepped("torch")]
    wide = {"flags": sorted(set.union(*isa.FLAGS.values()))}
    both = [stepped(name, over=0.5, isa=asked) | wide for asked in isa.NAMES for name in ("ours", "onnxruntime")]
    there = [stepped("ours", "another"), stepped("torch", "another", 3.0)]
    header, _, *rows = tables.brief([*old, *both, *there]).splitlines()
    assert header == (
        "| minires over | processor | ms | PyTorch | onnxruntime | times the floor | peak MiB, minires / PyTorch |"
    )
    assert rows == [
        "| inference, resnet8, batch 2, 8x8 | a processor, 2 cores | 1000 | 2.00 |  | 2.00 | 10 / 10 |",
        # which cannot be held to less than its processor has
        "| inference, resnet8, batch 2, 8x8, AVX2 | a processor, 2 cores | 1000 |  | 0.50 (AVX-512) | 2.00 | 10 |",
        "| inference, resnet8, batch 2, 8x8, AVX-512 | a processor, 2 cores | 1000 |  | 0.50 | 2.00 | 10 |",
        "| inference, resnet8, batch 2, 8x8 | another, 2 cores | 1000 | 3.00 |  | 2.00 | 10 / 10 |",
    ]


@pytest.mark.parametrize(
    "path",
    # one of those of many pictures is enough
    [pytest.param(p, marks=on_demand if p.name == "cpu-avx2.jsonl" else ()) for p in RECORDS],
    ids=lambda path: path.name,
)
def test_records_of_earlier_versions_are_read(path, tmp_path):
    records = tables.read(path)
    assert tables.markdown(records).startswith("`minires bench")
    kinds = {r["benchmark"] for r in records}
    assert bool(tables.brief(records)) == bool(kinds & {"step", "gpu-vs-cpu"})
    if drawn := [r for r in records if r["benchmark"] in ("step", "breakdown", "scale-out")]:
        assert plots.draw(drawn, tmp_path)


def test_a_picture_names_the_runs_it_is_of_and_their_versions():
    run = {"cpu": "a processor", "cores": 2, "python": "3.99", "versions": {"numpy": "9.9"}, "date": "2026-01-02T03:04"}
    first, again = run | {"command": "one"}, run | {"command": "two"}
    moved = run | {"command": "three", "cpu": "another"}
    where = "2 cores, Python 3.99, numpy 9.9"
    note = f"one, 2026-01-02; two, 2026-01-02; a processor, {where}; three, 2026-01-02; another, {where}"
    assert plots.origin([first, first, again, moved]) == {"note": note, "versions": False}


def test_bad_input(tmp_path, monkeypatch, capsys):
    def fails(*arguments) -> str:
        assert cli.main(["bench", *arguments]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "cannot be read" in fails("table", str(tmp_path / "none.jsonl"))
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"benchmark": "step", "options": {}}\n{"benchmark": \n')
    assert f"{broken}, line 2" in fails("table", str(broken))
    broken.write_text("")
    assert "holds no results" in fails("table", str(broken))
    assert "cannot be written" in fails("step", "--json", str(tmp_path / "no" / "where.jsonl"))
    assert "name it with --json" in fails("gpu-vs-cpu", "--device", "cpu", "--resume")
    assert "cannot be written" in fails("breakdown", "--out", str(broken / "pictures"))
    assert "--isa is for step" in fails("--isa", "avx2", "waiting")
    monkeypatch.setattr(isa, "flags", lambda: ["avx2", "fma"])
    assert "no avx512bw, avx512dq" in fails("step", "--isa", "avx512")
    monkeypatch.setattr(isa, "flags", list)
    assert "only Linux tells" in fails("scaling", "--isa", "avx2")
    for arguments, expected in (
        (["step", "--peers", "ours,nobody"], "unknown nobody"),
        (["step", "--batch", "0"], "--batch: expected a whole number from 1"),
        (["step", "--arch", "resnet51"], "invalid choice"),
        (["scaling", "--axes", "height"], "unknown height"),
        (["gpu-vs-cpu", "--seconds", "soon"], "--seconds: invalid float value: 'soon'"),
        (["step", "--isa", "mmx"], "invalid choice"),
        (["nothing"], "invalid choice"),
    ):
        assert expected in fails(*arguments)


def test_an_overview_of_everything(limits, tmp_path, monkeypatch, capsys):
    from minires.benchmarks import overview

    cases = {(arch, size, batch) for arch, size, batch, task, *_ in overview.CASES if task == "inference"}
    assert cases == {
        *(("resnet50", 64, n) for n in (32, 1)),
        *(("resnet20", 32, n) for n in (32, 1)),
        ("resnet50", 224, 1),
    }
    monkeypatch.setattr(overview, "CASES", (("resnet8", 8, 2, "training", ("ours", "textbook"), 0.1),))
    monkeypatch.setattr(overview, "SETTINGS", overview.SETTINGS | {"images": 12, "steps": 1, "warmup": 1})
    monkeypatch.setattr(waiting, "CASES", {"resnet8": 16})
    path = tmp_path / "r.jsonl"
    assert cli.main(["bench", "--json", str(path)]) == 0
    assert [r["benchmark"] for r in lines(path)] == ["step", "step", "waiting"]
    wait = lines(path)[-1]
    assert 0 <= wait["share"] == wait["wait_seconds"] / wait["seconds"] < 1
    assert wait["epoch"] == 2
    assert "waited s" in capsys.readouterr().out
    assert f"{wait['share']:.1%}" in tables.markdown(lines(path))


# --- the breakdown ----------------------------------------------------------------------------------------


def test_every_product_of_a_step_is_seen_and_counted():
    """Layer by layer the calling thread does the whole batch: its FLOPs are those of the summary."""
    from minires import ops

    model = resnet("resnet8", (16, 16, 3), 6)
    x, labels = np.random.default_rng(0).standard_normal((4, 16, 16, 3), np.float32), np.array([0, 1, 2, 3])
    original = ops.conv2d_forward
    make = make_step(model, Adam(model.params()), by_layers=True)
    with make as step, breakdown.recorded() as recorder:
        step(x, labels, 1e-3)
    tallies = breakdown.summed(recorder.tallies)
    products = [t for op, t in tallies.items() if op.startswith(("conv2d", "dense"))]
    assert sum(t.flops for t in products) == floors.work(model, 4).flops
    assert tallies["conv2d_forward 3x3"].calls == tallies["conv2d_backward 3x3"].calls == 7
    assert tallies["conv2d_forward 1x1"].calls == 2
    assert tallies["batchnorm_forward"].calls == 9
    assert tallies[breakdown.UPDATE].seconds > 0
    assert all(t.seconds >= 0 and t.bytes >= 0 for t in tallies.values())
    assert tallies["relu_forward"].bytes == 2 * 4 * 4 * (3 * 16 * 16 * 16 + 2 * 8 * 8 * 32 + 2 * 4 * 4 * 64)
    assert ops.conv2d_forward is original  # as before


def test_fused_ops_are_seen_and_counted():
    model = resnet("resnet8", (16, 16, 3), 6)
    x, labels = np.random.default_rng(0).standard_normal((4, 16, 16, 3), np.float32), np.array([0, 1, 2, 3])
    with make_step(model, Adam(model.params())) as step, breakdown.recorded() as recorder:
        step(x, labels, 1e-3)
    tallies = breakdown.summed(recorder.tallies)
    assert (
        sum(t.flops for op, t in tallies.items() if op.startswith(("conv2d", "dense"))) == floors.work(model, 4).flops
    )
    assert tallies["norm_add_relu_forward"].calls == tallies["norm_add_relu_backward"].calls == 9
    assert not any(op.startswith(("relu", "add")) for op in tallies)


def test_breakdown(limits, tmp_path, capsys):
    path = tmp_path / "r.jsonl"
    small = ["--arch", "resnet8", "--size", "16", "--batch", "4", "--steps", "2"]
    assert cli.main(["bench", "breakdown", *small, "--json", str(path), "--out", str(tmp_path)]) == 0
    assert breakdown.UPDATE in capsys.readouterr().out
    records = lines(path)
    assert {breakdown.UPDATE, breakdown.REST, "conv2d_forward 3x3"} <= {r["op"] for r in records}
    assert "im2col" not in {r["op"] for r in records} or not enabled()
    assert all(r["seconds"] >= 0 for r in records)
    for name in ("breakdown", "roofline"):
        assert (tmp_path / f"resnet8-16-4-{name}.png").stat().st_size > 10_000
    assert "conv2d_backward 3x3" in tables.markdown(records)
    assert cli.main(["bench", "breakdown", *small, "--json", str(path), "--contender", "numpy"]) == 0
    assert "im2col" in {r["op"] for r in lines(path)[len(records) :]}


# --- how cost grows ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sweep", "module", "constant", "case"),
    [
        ("--chunks", backend, "CHUNK", bench_ops.Case("norm", (4, 4, 8))),
        ("--workspace", conv, "MAX_WORKSPACE", CONVOLUTION),
    ],
    ids=["chunks", "workspace"],
)
def test_a_sweep_leaves_the_constant_as_it_was(tmp_path, monkeypatch, capsys, sweep, module, constant, case):
    monkeypatch.setattr(bench_ops, "cases", lambda size: Counter({case: 2}))
    kept, path, met = getattr(module, constant), tmp_path / "r.jsonl", []
    command = ["bench", "ops", sweep, "--batch", "2", "--rounds", "2", "--json", str(path)]
    assert cli.main(command) == 0
    assert getattr(module, constant) == kept
    values = [r[constant] for r in lines(path)]
    assert kept in values
    assert all(len(r["seconds"]) == 2 and min(r["seconds"]) > 0 for r in lines(path))
    assert f"{kept:,} (now)" in capsys.readouterr().out

    def forward():
        met.append(getattr(module, constant))
        if len(met) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(bench_ops, "ours", lambda case, N: (forward, lambda: None, None))
    cli.main(command)
    assert met == [kept, *values[:3]]
    assert getattr(module, constant) == kept


def test_scaling(limits, tmp_path, monkeypatch, capsys):
    small = {"arch": "resnet8", "size": 8, "batch": 2, "width": 1}
    axes = {"batch": (small, {1: {"batch": 1}, 2: {"batch": 2}}), "width": (small, {2: {"width": 2}})}
    monkeypatch.setattr(scaling, "AXES", axes)
    monkeypatch.setattr(scaling, "PEERS", ("ours",))
    path = tmp_path / "r.jsonl"
    arguments = ["bench", "scaling", "--axes", "batch,width", "--rounds", "1"]
    assert cli.main([*arguments, "--json", str(path), "--out", str(tmp_path)]) == 0
    assert "images in a batch" in capsys.readouterr().out
    records = lines(path)
    assert [(r["axis"], r["point"]) for r in records] == [("batch", 1), ("batch", 2), ("width", 2)]
    wide = resnet("resnet8", (8, 8, 3), 6, widths=(32, 64, 128))
    assert records[2]["floor_seconds"] == limits.seconds(floors.work(wide, 2))
    assert (tmp_path / "scaling.png").stat().st_size > 10_000


def test_threads_are_the_machines():
    assert list(scaling.points("threads", 6)[1]) == [1, 2, 4, 6]


def test_pytorchs_better_layout():
    rows = [
        {"contender": "ours", "seconds": [1.0]},
        {"contender": "torch", "seconds": [3.0, 9.0, 3.0]},
        {"contender": "torch_channels_last", "seconds": [4.0]},
        {"contender": "torch_compile", "left_out": "no compiler"},
    ]
    assert scaling.better(rows) is rows[1]
    assert scaling.better(rows[:1]) is None


# --- GPU and CPU ------------------------------------------------------------------------------------------


def test_without_a_gpu_it_says_so_and_does_the_cpus_part(limits, tmp_path, monkeypatch, capsys):
    def choose(request):
        if request == "gpu":
            raise harness.MiniresError("no card here")
        return "cpu", "no card here"

    monkeypatch.setattr(gpu_vs_cpu, "choose_device", choose)
    plan = [
        ("resnet8", 8, 2, "training", "tf32", ("ours", "ours (CPU)")),
        ("resnet8", 8, 4, "training", "tf32", ("ours (CPU)",)),
        ("resnet8", 8, 2, "training", "fp32", ("ours",)),
    ]
    monkeypatch.setattr(gpu_vs_cpu, "plan", lambda quick: plan)
    path = tmp_path / "r.jsonl"
    assert cli.main(["bench", "gpu-vs-cpu", "--json", str(path), "--out", str(tmp_path)]) == 0
    assert "device: cpu (no card here): the CPU's part alone" in capsys.readouterr().out
    ceilings, row, larger = lines(path)
    assert larger["options"]["batch"] == 4
    assert ceilings["ceilings"] == {"cpu": {"fp32": LIMITS.best, "copy": LIMITS.bandwidth}}
    assert (row["contender"], row["device"], row["precision"]) == ("ours (CPU)", "cpu", "fp32")
    assert row["first_loss"] > 0
    assert row["flops_share"] == pytest.approx(row["flops"] / row["time"]["median"] / LIMITS.best)
    assert [p.name for p in tmp_path.glob("*.png")] == ["crossover.png"]
    assert cli.main(["bench", "gpu-vs-cpu", "--device", "gpu"]) == 2
    assert "no card here" in capsys.readouterr().err


def test_what_a_file_lacks_is_measured_and_no_more(limits, tmp_path, monkeypatch, capsys):
    plan = [
        ("resnet8", 8, 2, "training", "tf32", ("ours", "ours (CPU)")),
        ("resnet8", 8, 2, "inference", "fp32", ("ours (CPU)",)),
    ]
    monkeypatch.setattr(gpu_vs_cpu, "plan", lambda quick: plan)
    path = tmp_path / "r.jsonl"
    command = ["bench", "gpu-vs-cpu", "--device", "cpu", "--json", str(path)]
    assert cli.main([*command, "--resume"]) == 0
    assert [r["options"]["task"] for r in lines(path)] == ["ceilings", "training", "inference"]
    *kept, inference = path.read_text().splitlines(keepends=True)
    left_out = {k: v for k, v in json.loads(inference).items() if k != "time"} | {"left_out": "no time left"}
    path.write_text("".join(kept) + json.dumps(left_out) + "\n")
    assert cli.main([*command, "--resume"]) == 0
    assert [r["options"]["task"] for r in lines(path)[3:]] == ["ceilings", "inference"]
    assert lines(path)[-1]["time"]["median"] > 0
    capsys.readouterr()
    assert cli.main([*command, "--resume"]) == 0
    assert "nothing left to measure" in capsys.readouterr().out
    assert len(lines(path)) == 5

    # a case of which one contender is missing is measured anew, all in the same turns
    options = {"device": "auto", "quick": False, "resume": True, "json": str(path)}
    assert gpu_vs_cpu.chosen(options, "gpu") == plan[:1]
    assert gpu_vs_cpu.chosen(options | {"device": "gpu"}, "gpu") == [(*plan[0][:5], ("ours",))]


def test_when_time_is_up_the_rest_is_counted(limits, tmp_path, capsys):
    path = tmp_path / "r.jsonl"
    command = ["bench", "gpu-vs-cpu", "--device", "cpu", "--seconds", "1e-9", "--quick", "--json", str(path)]
    assert cli.main(command) == 0
    assert "no time left for 4 of 4 cases; --resume" in capsys.readouterr().out
    assert len(lines(path)) == 1


SPEED = {"ours": 1.0, "ours_no_graph": 2.0, "plain": 5.0, "torch": 3.0, "torch_channels_last": 2.5}


class FakeSession:
    """Answers as the processes would: each contender has a speed, some fail."""

    def __init__(self):
        self.workers, self.asked = {"cupy": None, "torch-gpu": None}, []

    def ask(self, lane, request, *arguments):
        self.asked.append((lane, request, *arguments[:1]))
        if request == "prepare":
            name, case = arguments
            if name == "torch" and case["size"] == 224:
                raise Unavailable("OutOfMemoryError: 80 GB are not enough")
            return {"how": name, "memory_mib": 100.0, "first_loss": 1.79}
        if request == "measure":
            scale = 5.0 if lane == "cpu" else 20.0 if lane == "torch-cpu" else 1.0
            return [1e-3 * scale * SPEED[arguments[0]]] * 3
        return None


def test_rows_table_and_pictures_of_a_gpu(tmp_path, capsys):
    ceilings = {"cpu": {"fp32": 1e11, "copy": 2e10}, "gpu": {"fp32": 5e13, "tf32": 4e14, "copy": 3e12}}
    facts, session, records = watch.machine() | {"gpu": "a card"}, FakeSession(), []
    for arch, size, batch, task, precision, names in gpu_vs_cpu.plan():
        if "torch_compile" in names:
            continue
        case = {"arch": arch, "size": size, "batch": batch, "task": task, "precision": precision}
        if size != 32:
            continue
        rows = gpu_vs_cpu.measure(session, case | {"optimizer": "adam", "threads": None}, names, ceilings)
        assert [r["contender"] for r in rows] == list(names)
        records += harness.record("gpu-vs-cpu", facts, case, rows)
    assert ("cupy", "drop") in session.asked
    ours = next(r for r in records if r["contender"] == "ours" and r["precision"] == "tf32")
    assert ours["time"] == asdict(Spread(1e-3, 1e-3, 1e-3, 1e-3))
    assert ours["flops_share"] == pytest.approx(ours["flops"] / 1e-3 / 4e14)
    text = tables.markdown(records)
    assert "minires / PyTorch eager" in text
    row = next(line for line in text.splitlines() if line.startswith("| training, resnet20, batch 128"))
    assert "| tf32 | 1 |  |  | 2.5 | 0.40 |" in row
    assert row.endswith("| 5 | 50 | 5.0 |")
    exact = next(line for line in text.splitlines() if "batch 128, 32x32 | fp32 | 1 | 2 | 5 |" in line)
    assert exact.startswith("| training, resnet20")
    short = tables.brief(records).splitlines()
    assert short[0] == "| ms, minires / PyTorch | training, TF32 | training, float32 | inference, float32 |"
    assert "| resnet20, batch 128, 32x32 | 1 / 2.5 = 0.40 | 1 / 2.5 = 0.40 | 1 / 2.5 = 0.40 |" in short
    assert len(short) == 2 + 4  # resnet20 and resnet56, batches 32 and 128
    paths = plots.draw([json.loads(json.dumps(r)) for r in records], tmp_path)
    assert {p.name for p in paths} == {"crossover.png", "gpu-bars.png"}
    assert all(p.stat().st_size > 10_000 for p in paths)
    capsys.readouterr()


def test_the_brief_table_takes_the_last_run_that_had_both():
    def timed(date, contender, ms, batch=32):
        options = {"arch": "resnet8", "size": 8, "batch": batch, "task": "training", "precision": "tf32"}
        times = {"time": {"median": ms / 1e3}}
        return {"benchmark": "gpu-vs-cpu", "date": date, "contender": contender, "options": options} | times

    records = [
        *(timed("2026-01-02", name, ms) for name, ms in (("ours", 4), ("torch", 8), ("torch_compile", 2))),
        *(timed("2026-01-01", name, ms) for name, ms in (("ours", 9), ("torch", 9))),
        timed("2026-01-03", "ours", 7),
        timed("2026-01-03", "torch", 7, batch=8),
    ]
    header, _, row = tables.brief(records).splitlines()
    assert header == "| ms, minires / PyTorch | training, TF32 | training, TF32, torch.compile |"
    assert row == "| resnet8, batch 32, 8x8 | 4 / 8 = 0.50 | 4 / 2 = 2.00 |"


def test_a_contender_that_fails_is_a_row_with_its_reason():
    case = {"arch": "resnet8", "size": 224, "batch": 1, "task": "inference", "precision": "tf32"}
    rows = gpu_vs_cpu.measure(FakeSession(), case, ("torch", "ours"), {"gpu": {}})
    assert rows[0] == {"contender": "torch", "left_out": "OutOfMemoryError: 80 GB are not enough"}
    assert rows[1]["flops_share"] is None  # no ceilings: none invented


def test_the_plan_holds_every_case_the_important_first():
    plan = gpu_vs_cpu.plan()
    cases = {row[:3] for row in plan}
    assert {("resnet50", 64, n) for n in (1, 8, 32, 128)} < cases
    assert {("resnet50", 224, 8), ("resnet50", 224, 32), ("resnet20", 32, 32), ("resnet56", 32, 128)} < cases
    assert ("resnet8", 16, 32) in cases
    assert plan[0][:5] == ("resnet50", 64, 32, "training", "tf32")
    compiled = [i for i, row in enumerate(plan) if "torch_compile" in row[5]]
    assert min(compiled) > len(plan) / 3  # after all that matters more
    assert len(gpu_vs_cpu.plan(quick=True)) < len(plan) / 2
    assert {name for row in plan for name in row[5]} == gpu_vs_cpu.CONTENDERS.keys()


def test_every_point_of_the_scaling_is_a_network_that_can_be_built():
    for axis in scaling.AXES:
        fixed, changing = scaling.points(axis, 2)
        for settings in changing.values():
            o = fixed | settings
            contenders.network(o).output_shape((o["size"], o["size"], 3))


def test_every_contender_has_a_name_and_a_colour():
    assert contenders.CONTENDERS.keys() <= tables.NAMES.keys()
    assert contenders.CONTENDERS.keys() <= plots.COLORS.keys()


def test_a_process_that_dies_is_replaced(monkeypatch):
    session = gpu_vs_cpu.Session(60)
    case = {"arch": "resnet8", "size": 8, "batch": 2, "optimizer": "adam", "threads": None, "task": "inference"}
    session.ask("cpu", "prepare", "ours", case)
    session.workers["cpu"].process.kill()
    with pytest.raises(Unavailable, match="process ended"):
        session.ask("cpu", "measure", "ours", 0.01)
    session.ask("cpu", "prepare", "ours", case)
    assert min(session.ask("cpu", "measure", "ours", 0.01)) > 0
    session.close()


def test_out_of_time():
    session = gpu_vs_cpu.Session(-1)
    with pytest.raises(Unavailable, match="no time left"):
        session.ask("cpu", "drop")
    session.close()
