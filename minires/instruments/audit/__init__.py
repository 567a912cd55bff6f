"""Is this the residual network that it claims to be? Proven by moving things, not by reading names.

    report = audit(model)
    report.ok, report.findings, report.nearest, report.differences

Each block is run on the input that it meets. Its branch is held fixed and the input moved: the shortcut has to
answer, with its own map. A gradient is sent in: the add node has to give each path all of it. Parameters have to
matter and to receive a gradient, kernels to differ, both paths to take the same stride. Works on any Module that
holds Blocks, on hand-written subclasses too. Last, the network is laid beside the published ones. Everything
happens on a copy; the model is left as it was.
"""

import copy
from dataclasses import asdict, dataclass, replace
from itertools import groupby

import numpy as np
from rich.table import Table

from minires import nn
from minires.backend import to_numpy
from minires.console import Shown
from minires.errors import ConfigError, ShapeError
from minires.geometry import pair
from minires.instruments.audit.published import Difference, distance, guess_arch, references, shortcut_kind
from minires.instruments.findings import Finding
from minires.instruments.gradcheck.notes import in_place
from minires.instruments.gradcheck.watch import Watch
from minires.instruments.guard import label
from minires.nn.blocks import Block

SAME = 1e-6  # float64 gradients and answers nearer than this, relative, are equal
PREFIX = 16  # numbers of a kernel that tell whether two were drawn alike


@dataclass(frozen=True)
class BlockAudit:
    """One block. answer: how its shortcut follows the block's input (1: exactly). branch_share, shortcut_share:
    how much of the gradient at the add node each path receives (1: all of it). None: no shortcut, or not alike."""

    name: str
    shortcut: str  # identity, projection, subsampling or none
    branch_stride: tuple
    shortcut_stride: tuple
    answer: float | None = None
    branch_share: float | None = None
    shortcut_share: float | None = None


@dataclass(frozen=True)
class Audit(Shown):
    """What was found. findings: status 'fail' is a fault; differences: by reference, which are no faults."""

    title: str
    blocks: tuple[BlockAudit, ...]
    findings: tuple[Finding, ...]
    nearest: str | None
    differences: dict[str, tuple[Difference, ...]]

    @property
    def ok(self) -> bool:
        """Whether there is no fault."""
        return not any(f.status == "fail" for f in self.findings)

    def as_dict(self) -> dict:
        """Everything as plain types, for JSON."""
        return asdict(self) | {"ok": self.ok}

    def table(self) -> Table:
        """One row a block."""
        table = Table(title=f"{self.title}: {'sound' if self.ok else 'FAULTY'}", title_justify="left")
        table.caption = (
            "answer: the shortcut's to the block's input. to branch, to shortcut: share of the add's gradient. Each: 1."
        )
        for heading in ("block", "shortcut", "stride", "answer", "to branch", "to shortcut"):
            table.add_column(heading, justify="left" if heading in ("block", "shortcut") else "right", no_wrap=True)
        for b in self.blocks:
            stride = "x".join(map(str, b.branch_stride))
            if b.shortcut != "none" and b.shortcut_stride != b.branch_stride:
                stride += f" and {'x'.join(map(str, b.shortcut_stride))}"
            values = (b.answer, b.branch_share, b.shortcut_share)
            shown = ("" if b.shortcut == "none" else "?" if v is None else f"{v:.3g}" for v in values)
            table.add_row(b.name, b.shortcut, stride, *shown)
        return table

    def reference_table(self) -> Table:
        """One row a reference and difference, the nearest first."""
        table = Table(title="beside the published networks", title_justify="left")
        for heading in ("reference", "differs in", "here", "there", "where"):
            table.add_column(heading)
        for name, found in sorted(self.differences.items(), key=lambda item: distance(item[1])):
            for i, d in enumerate(found):
                where = d.layers[0] + (f" + {len(d.layers) - 1}" if d.layers[1:] else "")
                table.add_row("" if i else name, d.aspect, d.here, d.there, where)
            if not found:
                table.add_row(name, "nothing", "", "", "")
        return table


def audit(model: nn.Module, *, input_shape: tuple | None = None, arch: str | None = None, seed: int = 0) -> Audit:
    """Look at a network's structure by running it, in float64, in training mode, on two random images.

    input_shape  (H, W, C); None takes that of the model's config
    arch         the published network to compare with; None takes the config's, or the one with as many blocks
    Raises ConfigError where there is no config and no input shape.

    >>> minires.audit(minires.resnet("resnet8", (16, 16, 3), 6)).ok
    True
    """
    config = getattr(model, "config", None)
    if input_shape is None and config is None:
        raise ConfigError(
            f"audit: {label(model)} has no config to read its image size from: give input_shape=(H, W, C)"
        )
    shape = tuple(input_shape or config.input_shape)
    rng = np.random.default_rng(seed)
    findings = _same_kernels(model)
    pristine = _prepare(model, rng)
    blocks = [_plan(b) for b in pristine.modules() if isinstance(b, Block)]
    findings += [f for b in blocks for f in _stride_faults(b)]
    try:
        watched, watch, y = _run(pristine, rng.standard_normal((2, *shape)), rng)
    except ShapeError as error:
        if not findings:
            findings.append(Finding("shapes", "fail", str(error), "make both paths' shapes agree"))
    else:
        twins = dict(zip(pristine.modules(), watched.modules(), strict=True))
        pairs = [(b, twins[b]) for b in pristine.modules() if isinstance(b, Block)]
        blocks = [_look(*p, watch, twins, plan, findings, rng) for p, plan in zip(pairs, blocks, strict=True)]
        findings += [in_place(watched, module, what) for module, what in watch.written]
        findings += _parameters(pristine, watched, watch, rng)
        arch = arch or (config.arch if isinstance(config, nn.Config) else guess_arch(pristine, shape, y.shape[-1]))
        differences = references(model, arch, shape, y.shape[-1]) if arch else {}
        nearest = min(differences, key=lambda name: distance(differences[name]), default=None)
        return Audit(label(model), tuple(blocks), tuple(_merge(findings)), nearest, differences)
    return Audit(label(model), tuple(blocks), tuple(_merge(findings)), None, {})


def _prepare(model, rng):
    """A copy in float64 and training mode without randomness, moved off special points such as a gamma of 0."""
    model = copy.deepcopy(model).to("cpu").astype(np.float64).freeze(False).train()
    for module in model.modules():
        module.save_for_backward = True
        module.training = not any(isinstance(v, np.random.Generator) for v in vars(module).values())
    for p in model.params():
        p.data += 0.1 * (np.sqrt(np.mean(p.data**2)) or 1.0) * rng.standard_normal(p.data.shape)
    return model


def _run(pristine, x, rng):
    """(a watched copy after a forward and a backward of x, its Watch, y)."""
    watched = copy.deepcopy(pristine)
    for p in watched.params():
        p.grad = None
    watch = Watch(watched)
    watch.begin("record")
    y = watched.forward(x)
    watched.backward(rng.standard_normal(y.shape))
    return watched, watch, y


def _same_kernels(model) -> list[Finding]:
    """Kernels that begin with the same numbers, up to their scale."""
    groups: dict[tuple, list[str]] = {}
    for p in {id(p): p for p in model.params() if p.decay and p.data.size >= PREFIX}.values():
        start = to_numpy(p.data.ravel()[:PREFIX]).astype(np.float64)
        if norm := np.linalg.norm(start):
            groups.setdefault(tuple((start / norm).round(4)), []).append(p.name)
    return [
        Finding(
            "same seed",
            "fail",
            f"{len(names)} kernels hold the same random numbers: {', '.join(names[:4])}{' ...' if names[4:] else ''}: "
            "each layer was initialised with the same seed",
            "draw each from a generator of its own, such as default_rng([seed, crc32(name)])",
        )
        for names in groups.values()
        if len(names) > 1
    ]


def _stride(part) -> tuple:
    """The product of the strides along a path."""
    steps = [pair(m.stride) for m in part.modules() if getattr(m, "stride", None)] if part else []
    return tuple(int(np.prod([s[axis] for s in steps])) for axis in (0, 1))


def _plan(block) -> BlockAudit:
    kind = shortcut_kind(block)
    return BlockAudit(
        label(block), kind, _stride(block.branch), _stride(None if kind in ("none", "identity") else block.shortcut)
    )


def _stride_faults(b: BlockAudit) -> list[Finding]:
    if b.shortcut == "none" or b.branch_stride == b.shortcut_stride:
        return []
    detail = f"{b.name}: the branch has stride {b.branch_stride}, the shortcut ({b.shortcut}) {b.shortcut_stride}"
    fix = f"give the shortcut a 1x1 convolution with stride {b.branch_stride}, or take the stride out of the branch"
    return [Finding("stride on one path", "fail", detail, fix)]


def _look(block, twin, watch, twins, plan, findings, rng) -> BlockAudit:
    """The block's row; faults go to `findings`."""
    call = watch.calls.get(twin)
    leaves = [m for m in block.branch.modules() if not m.children()]
    if plan.shortcut == "none" or call is None:
        return plan
    if not all(twins[m] in watch.calls for m in leaves):
        detail = f"{plan.name}: forward does not run the layers of its branch, so nothing can be held fixed"
        findings.append(Finding("not audited", "warn", detail, "let forward call self.branch.forward"))
        return plan
    x, step = call.inputs[0], rng.standard_normal(call.inputs[0].shape)
    held = copy.deepcopy(block)
    for module, original in zip(held.branch.modules(), block.branch.modules(), strict=True):
        if twins[original] in watch.calls:
            module.forward = lambda *_, y=watch.calls[twins[original]].y: y
    if held.after is not None:
        held.after.forward = lambda y: y
    moved = held.forward(x + step) - held.forward(x)
    if plan.shortcut == "identity":
        expected = step
    else:
        before = None if held.from_x else held.before
        starts = (v if before is None else before.forward(v) for v in (x + step, x))
        high, low = (held.shortcut.forward(h) for h in starts)
        expected = high - low
    answer = _multiple(moved, expected)
    if answer == 0:
        detail = (
            f"{plan.name}: the shortcut does not depend on the block's input: with the branch held fixed, nothing "
            "moves. It starts from the main path, so the block has no skip"
        )
        findings.append(Finding("dead skip", "fail", detail, "take the shortcut from the block's input x"))
    elif answer is None:
        detail = f"{plan.name}: the shortcut follows the block's input, but not as its {plan.shortcut} map does"
        findings.append(Finding("misrouted skip", "fail", detail, "add shortcut(x) of the block's own input, no other"))
    elif abs(answer - 1) > SAME:
        detail = (
            f"{plan.name}: the shortcut is scaled by {answer:.4g}: over n blocks its signal scales by the nth power"
        )
        findings.append(Finding("scaled skip", "warn", detail, "add it as it is, unless the scale is the experiment"))
    shares = _shares(block, twin, watch, plan)
    findings += _add_faults(plan.name, watch, twin, *shares) if answer else []
    return replace(plan, answer=answer, branch_share=shares[0], shortcut_share=shares[1])


def _shares(block, twin, watch, plan):
    """(branch's, shortcut's) share of the gradient that arrives at the add node; None where it is no multiple."""
    calls, call = watch.calls, watch.calls[twin]
    after = calls.get(twin.after)
    at_add = after.dx[0] if after and after.dx else call.dy
    if plan.shortcut != "identity":
        shortcut = _gradient(calls, twin.shortcut, "dy")
    else:
        back = _gradient(calls, twin.before or twin.branch, "dx")
        shortcut = call.dx[0] if back is None else call.dx[0] - back
    return tuple(_multiple(part, at_add) for part in (_gradient(calls, twin.branch, "dy"), shortcut))


def _gradient(calls, path, kind):
    """What a path received ('dy') or sent back ('dx'), also where a block walks its layers one by one."""
    leaves = [m for m in path.modules() if not m.children()]
    for module in (path, leaves[-1] if kind == "dy" else leaves[0]):
        call = calls.get(module)
        if call is not None and call.dy is not None:
            return call.dy if kind == "dy" else call.dx[0]
    return None


def _add_faults(name, watch, twin, branch, shortcut) -> list[Finding]:
    shares = {"branch": branch, "shortcut": shortcut}
    wrong = {path: share for path, share in shares.items() if share is None or abs(share - 1) > SAME}
    inside = set(twin.modules())
    if not wrong or any(module in inside and what == "dy" for module, what in watch.written):
        return []  # a write in place is a finding of its own
    fix = "y = F(x) + x has slope 1 in both: hand each path the whole dy, and sum what comes back"
    if all(share is not None and abs(share - 0.5) < SAME for share in wrong.values()):
        paths = " and the ".join(wrong)
        detail = f"{name}: half of the gradient at the add node reaches the {paths}: it is averaged, not copied"
        return [Finding("averaged at the add", "fail", detail, fix)]
    path, share = next(iter(wrong.items()))
    seen = "something else than" if share is None else "nothing of" if share == 0 else f"{share:.4g} times"
    detail = f"{name}: the {path} receives {seen} the gradient at the add node"
    return [Finding("gradient at the add", "fail", detail, fix)]


def _multiple(a, b) -> float | None:
    """c where a = c b, 0 for no a; None where there is no such c."""
    if a is None or np.linalg.norm(a) <= SAME * np.linalg.norm(b):
        return 0.0
    if a.shape != b.shape:
        return None
    c = float(np.vdot(a, b) / np.vdot(b, b)) if b.any() else 0.0
    return round(c, 9) if np.linalg.norm(a - c * b) <= SAME * np.linalg.norm(a) else None


def _parameters(pristine, watched, watch, rng) -> list[Finding]:
    """Parameters that do nothing, and parameters that backward forgets."""
    findings = []
    for module in watched.modules():
        if module.params() and not module.children() and module not in watch.calls:
            detail = f"{label(module)} is never used: {sum(p.data.size for p in module.params())} idle parameters"
            findings.append(Finding("unused layer", "fail", detail, "call it in forward, or remove it"))
    called = {id(p) for module in watch.calls if not module.children() for p in module.params()}
    twins = zip(pristine.params(), watched.params(), strict=True)
    for p, seen in twins:
        if id(seen) not in called or (seen.grad is not None and seen.grad.any()):
            continue
        used = {training: _matters(pristine, p, watch, watched, training, rng) for training in (True, False)}
        if used[True]:
            detail = f"{p.name} receives no gradient, yet the output depends on it: it is never trained"
            findings.append(Finding("no gradient", "fail", detail, "write its gradient in backward"))
        elif not used[False]:
            detail = f"{p.name} has no influence on the output"
            findings.append(Finding("no use", "fail", detail, "use it in forward, or remove it"))
    return findings


def _matters(pristine, p, watch, watched, training, rng) -> bool:
    before, outputs = p.data.copy(), []
    for change in (0, 1):
        p.data = before + change * rng.standard_normal(before.shape)
        model = copy.deepcopy(pristine)
        for module in model.modules():
            module.training &= training
        outputs.append(model.forward(watch.calls[next(iter(watched.modules()))].inputs[0]))
    p.data = before
    return not np.allclose(*outputs, rtol=1e-9, atol=1e-9)


def _merge(findings) -> list[Finding]:
    """Findings of one kind as one, with the first in full."""
    merged = []
    for _, group in groupby(sorted(findings, key=lambda f: f.name), key=lambda f: f.name):
        first, *others = group
        more = f" (the same in {', '.join(f.detail.split(':')[0].split(' ')[0] for f in others[:3])}"
        more += f" and {len(others) - 3} more)" if others[3:] else ")"
        merged.append(replace(first, detail=first.detail + more) if others else first)
    return merged
