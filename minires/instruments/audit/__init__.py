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
from minires.errors import ConfigError, MiniresError, ShapeError
from minires.geometry import pair
from minires.instruments.audit.faults import add_faults, multiple, parameters, skip_faults
from minires.instruments.audit.published import Difference, distance, guess_arch, references, shortcut_kind
from minires.instruments.dead import dead_relus, rectifiers
from minires.instruments.findings import Finding
from minires.instruments.gradcheck.notes import in_place
from minires.instruments.gradcheck.watch import Watch
from minires.instruments.guard import check_model, copied, label, not_finite, owned
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
    check_model(model)
    config = getattr(model, "config", None)
    if input_shape is None and config is None:
        raise ConfigError(
            f"audit: {label(model)} has no config to read its image size from: give input_shape=(H, W, C)"
        )
    shape = tuple(input_shape or config.input_shape)
    if bad := not_finite(model):
        return Audit(label(model), tuple(_plan(b) for b in model.modules() if isinstance(b, Block)), (bad,), None, {})
    with owned("audit"), np.errstate(all="ignore"):
        return _audit(model, config, shape, arch, np.random.default_rng(seed))


def _audit(model, config, shape, arch, rng) -> Audit:
    findings = _same_kernels(model)
    pristine = _prepare(model, rng)
    blocks = [_plan(b) for b in pristine.modules() if isinstance(b, Block)]
    findings += [f for b in blocks for f in _stride_faults(b)]
    x = rng.standard_normal((2, *shape))
    try:
        watched, watch, y = _run(pristine, x, rng)
    except MiniresError as error:
        return Audit(label(model), tuple(blocks), tuple(_merge(findings or [not_run(error)])), None, {})
    if where := _not_finite_inside(watch):
        return Audit(label(model), tuple(blocks), tuple(_merge([*findings, where])), None, {})
    relus = rectifiers(pristine, x)
    findings += dead_relus(relus, 1.0)
    twins = dict(zip(pristine.modules(), watched.modules(), strict=True))
    pairs = [(b, twins[b]) for b in pristine.modules() if isinstance(b, Block)]
    blocks = [_look(*p, watch, twins, plan, findings, rng) for p, plan in zip(pairs, blocks, strict=True)]
    findings += [in_place(watched, module, what) for module, what in watch.written]
    findings += parameters(pristine, watched, watch, relus, rng)
    arch = arch or (config.arch if isinstance(config, nn.Config) else guess_arch(pristine, shape, y.shape[-1]))
    differences = references(model, arch, shape, y.shape[-1]) if arch else {}
    nearest = min(differences, key=lambda name: distance(differences[name]), default=None)
    return Audit(label(model), tuple(blocks), tuple(_merge(findings)), nearest, differences)


def not_run(error) -> Finding:
    """For a network that does not go through: the layer's own words."""
    found = getattr(error, "finding", None)
    if isinstance(error, ShapeError) and (found is None or found.name != "gradient's shape"):
        return Finding("shapes", "fail", str(error), "make both paths' shapes agree")
    return found or Finding("not run", "fail", str(error), "let forward and backward of every layer run")


def _not_finite_inside(watch) -> Finding | None:
    """The first layer that gives a NaN, though what it was given is finite."""
    for module, call in watch.calls.items():
        if module.children() or np.isfinite(call.y).all():
            continue
        if all(np.isfinite(i).all() for i in call.inputs):
            count = int(call.y.size - np.isfinite(call.y).sum())
            detail = f"{label(module)}.forward gives {count} of {call.y.size} numbers that are not finite"
            fix = "mend forward first: a logarithm or root of what may be 0 or less, a division by 0"
            return Finding("forward not finite", "fail", detail, fix)
    for module, call in reversed(watch.calls.items()):
        if call.dy is None or module.children() or not np.isfinite(call.dy).all():
            continue
        if not all(d is None or np.isfinite(d).all() for d in call.dx):
            detail = f"{label(module)}.backward gives a gradient that is not finite, though forward is finite"
            fix = "look for a division by what may be 0, the root's slope at 0"
            return Finding("gradient not finite", "fail", detail, fix)
    return None


def _prepare(model, rng):
    """A copy in float64 and training mode without randomness, moved off special points such as a gamma of 0."""
    model = copied(model).to("cpu").astype(np.float64).freeze(False).train()
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
    before = [(p, p.data.copy()) for p in watched.params()]
    watched.backward(rng.standard_normal(y.shape))
    for p, data in before:  # a backward may take the optimiser's step
        p.data = data
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
    answer = multiple(moved, expected)
    shares = _shares(block, twin, watch, plan)
    found = skip_faults(plan, answer, shares[1], twin, watch.calls)
    if answer and all(f.status != "fail" for f in found):  # backward is judged where forward is what it should be
        found += add_faults(plan.name, watch, twin, answer, *shares)
    findings += found
    return replace(plan, answer=answer, branch_share=shares[0], shortcut_share=shares[1])


def _shares(block, twin, watch, plan):
    """(branch's, shortcut's) share of the gradient that arrives at the add node; None where it is no multiple."""
    calls, call = watch.calls, watch.calls[twin]
    after = calls.get(twin.after)
    at_add = after.dx[0] if after and after.dx else call.dy
    if at_add is None or not at_add.any():
        return None, None  # a dead ReLU lets nothing through, and nothing can be told
    if plan.shortcut != "identity":
        shortcut = _gradient(calls, twin.shortcut, "dy")
    else:
        back = _gradient(calls, twin.before or twin.branch, "dx")
        shortcut = call.dx[0] if back is None else call.dx[0] - back
    parts = (_gradient(calls, twin.branch, "dy"), shortcut)
    return tuple(multiple(part, at_add) for part in parts)


def _gradient(calls, path, kind):
    """What a path received ('dy') or sent back ('dx'), also where a block walks its layers one by one."""
    leaves = [m for m in path.modules() if not m.children()]
    for module in (path, leaves[-1] if kind == "dy" else leaves[0]):
        call = calls.get(module)
        if call is not None and call.dy is not None:
            return call.dy if kind == "dy" else call.dx[0]
    return None


def _merge(findings) -> list[Finding]:
    """Findings of one kind as one, with the first in full."""
    merged = []
    for _, group in groupby(sorted(findings, key=lambda f: f.name), key=lambda f: f.name):
        first, *others = group
        more = f" (the same in {', '.join(f.detail.split(':')[0].split(' ')[0] for f in others[:3])}"
        more += f" and {len(others) - 3} more)" if others[3:] else ")"
        merged.append(replace(first, detail=first.detail + more) if others else first)
    return merged
