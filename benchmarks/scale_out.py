"""How a training step goes by the number of ranks, what of it is communication, and what a model makes of many hosts.

    minires bench scale-out [--ranks 1,2] [--gbit 0.2,0.5,1] [--buckets] [--json FILE.jsonl] [--out DIR]

Strong scaling shares one batch among the ranks, weak scaling gives each a batch of its own; batch normalisation is
exact (over the whole batch) or local. In each round every number of ranks has its turn, a job of mpiexec's with one
thread a rank (scale_rank.py). With --gbit, as root, the same between hosts that are network namespaces (hosts.py): over
links without a limit, to which scale_model.py is fitted, and over limited ones, whose steps it then predicts from the
rate and from what the same ranks compute alone in between: the error is told.
"""

import json
import os
import shlex
import statistics
import subprocess
import sys
from dataclasses import dataclass

from minires.benchmarks import contenders, harness, scale_model, watch
from minires.benchmarks.harness import Spread
from minires.benchmarks.hosts import MPIEXEC, Hosts, reason_against

from minires.errors import ConfigError, SystemFailure
from minires.fast.buckets import Buckets
from minires.nn import BatchNorm
from minires.optim import Adam

SIZES = [24, 512, 4096, 2**15, 2**18, 2**20, 2**22]  # bytes of the sums and gathers that the model is fitted to
SCALINGS = "strong", "weak"  # each in a job of its own: what variants hold in memory tells on the others' time
BUCKETS = [2**20, 2**22, 2**24, 2**30]
LATER = [2**k for k in range(1, 11)], (1, 10, 100)  # hosts and Gbit/s of the prediction
PATIENCE = 600  # seconds for a job


@dataclass(frozen=True)
class Place:
    """Where a job runs: so many ranks on this machine, or one on each of so many hosts; gbit 0: links without limit."""

    ranks: int
    hosts: bool = False
    gbit: float = 0.0


def places(options) -> list[Place]:
    made = [Place(ranks) for ranks in options["ranks"]]
    for ranks in options["ranks"] if options["gbit"] else ():
        if ranks > 1:
            made += [Place(ranks, True, gbit) for gbit in (0.0, *options["gbit"])]
    return made


def job(options, place: Place, scaling: str) -> list[dict]:
    """The rows of one job; SystemFailure with what it said where it failed."""
    told = {key: options[key] for key in ("arch", "size", "batch", "steps")}
    told |= {"scaling": scaling, "bn": ["exact", "local"], "sizes": [], "buckets": []}
    if scaling == "strong":
        told |= {"sizes": SIZES, "buckets": BUCKETS if options["buckets"] else []}
    command = [sys.executable, "-m", "minires.benchmarks.scale_rank", json.dumps(told)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    if place.hosts:
        with Hosts(place.ranks, place.gbit or None) as hosts:
            process = hosts.start(list(range(1, place.ranks + 1)), *map(shlex.quote, command), **pipes)
            out, error = process.communicate(timeout=PATIENCE)
    else:
        launch = [str(MPIEXEC), "-n", str(place.ranks), *command]
        process = subprocess.Popen(launch, env=os.environ | {"MINIRES_THREADS": "1"}, **pipes)
        out, error = process.communicate(timeout=PATIENCE)
    if process.returncode:
        raise SystemFailure(f"{place.ranks} ranks: the job ended with {process.returncode}: {error.strip()[-300:]}")
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]


def network(options) -> dict:
    """What the ranks of a network tell one another."""
    model = contenders.network(options)
    channels = [m.gamma.data.size for m in model.modules() if isinstance(m, BatchNorm)]
    buckets = Buckets(Adam(model.params()))
    sizes = [(span.stop - span.start) * buckets.grads.itemsize for span in buckets.spans]
    return {"network": {"buckets": sizes, "channels": channels}}


def run(options) -> list:
    """Measure and print; the records. options: those of `minires bench scale-out`."""
    if not MPIEXEC.exists():
        raise ConfigError("scale-out starts mpiexec, which is not beside python: pip install 'minires[mpi]'")
    if options["gbit"] and (reason := reason_against()):
        raise ConfigError(f"--gbit: {reason}")
    if options["batch"] < max(options["ranks"]):
        raise ConfigError(f"--batch: {max(options['ranks'])} ranks cannot share {options['batch']} images")
    facts, records = watch.machine(1), []
    watch.print_machine(facts)
    facts |= network(options)
    for number in range(options["rounds"]):
        for place in places(options):
            with watch.contention() as load:
                rows = [row for scaling in SCALINGS[: 1 if place.gbit else 2] for row in job(options, place, scaling)]
            where = {"round": number, "ranks": place.ranks, "hosts": place.hosts, "gbit": place.gbit}
            where |= {"load_average": [load.load_before, load.load_after]}
            records += harness.record("scale-out", facts, options, [where | row for row in rows])
    for title, columns, rows in tables(records):
        harness.print_table(title, columns, rows)
    return records


# --- what the records say ---------------------------------------------------------------------------------------------


def chosen(records, **wanted) -> list[dict]:
    return [r for r in records if all(r.get(key) == value for key, value in wanted.items())]


def median(records, key="seconds") -> float:
    return statistics.median(r[key] for r in records)


def fitted(records, ranks, hosts) -> scale_model.Link | None:
    """The link of so many ranks where nothing limits it."""
    found = {}
    for verb in ("all_reduce", "all_gather"):
        rows = chosen(records, kind=verb, ranks=ranks, hosts=hosts, gbit=0.0)
        found[verb] = {n: median(chosen(rows, bytes=n)) for n in dict.fromkeys(r["bytes"] for r in rows)}
    return scale_model.fit(ranks, found) if found["all_reduce"] else None


def asked(records) -> scale_model.Network:
    told = records[0]["network"]
    return scale_model.Network(tuple(told["buckets"]), tuple(told["channels"]))


def slacks(records, hosts) -> dict[str, dict]:
    """The overlap of local normalisation and the drift of exact, medians of all steps where no link is limited."""
    found = {}
    for bn in ("exact", "local"):
        told = []
        for r in chosen(records, kind="step", bn=bn, hosts=hosts, gbit=0.0):
            alone, link = _beside(records, r)["seconds"], fitted(records, r["ranks"], hosts)
            told.append(
                scale_model.slack(r["ranks"], alone, r["window"], asked(records), link, r["seconds"], bn == "local")
            )
        found[bn] = {key: statistics.median(each[key] for each in told) for key in (told[0] if told else ())}
    return found


def _beside(records, r) -> dict:
    """The steps that the same ranks made alone, in turn with those of this record."""
    same = {key: r[key] for key in ("round", "ranks", "hosts", "gbit", "scaling")}
    return chosen(records, kind="alone", **same)[0]


def checks(records) -> list[dict]:
    """Measured and predicted seconds of steps over limited links, by rate, ranks and normalisation."""
    rows, gains = [], slacks(records, True)
    limited = [r for r in chosen(records, kind="step", hosts=True) if r["gbit"]]
    for ranks, gbit, bn in sorted({(r["ranks"], r["gbit"], r["bn"]) for r in limited}):
        here = chosen(limited, ranks=ranks, gbit=gbit, bn=bn)
        link = fitted(records, ranks, True).at(gbit)
        told = [
            scale_model.step(
                ranks,
                _beside(records, r)["seconds"],
                r["window"],
                asked(records),
                link,
                local_bn=bn == "local",
                **gains[bn],
            )
            for r in here
        ]
        errors = [t / r["seconds"] - 1 for t, r in zip(told, here, strict=True)]
        row = {
            "ranks": ranks,
            "gbit": gbit,
            "bn": bn,
            "seconds": median(here),
            "alone": median([_beside(records, r) for r in here]),
        }
        rows.append(row | {"predicted": statistics.median(told), "error": statistics.median(errors)})
    return rows


def predictions(records) -> dict[tuple, list[float]]:
    """(bn, Gbit/s) -> efficiency of LATER's numbers of hosts, each with a batch of its own."""
    hosts = any(r["hosts"] for r in records)
    base = chosen(records, kind="step", hosts=hosts, gbit=0.0, scaling="weak")
    if not base:
        return {}
    ranks = min(r["ranks"] for r in base)
    link, found = fitted(records, ranks, hosts), {}
    gains = {"exact": {}, "local": slacks(records, hosts)["local"]}  # no drift: hosts that do nothing else
    compute = median(chosen(records, kind="alone", ranks=ranks, hosts=hosts, gbit=0.0, scaling="weak"))
    for bn in ("exact", "local"):
        window = median(chosen(base, bn=bn, ranks=ranks), "window")
        for gbit in LATER[1]:
            settings = {"local_bn": bn == "local", **gains[bn]}
            steps = [scale_model.step(p, compute, window, asked(records), link.at(gbit), **settings) for p in LATER[0]]
            found[bn, gbit] = [compute / seconds for seconds in steps]
    return found


def tables(records) -> list[tuple]:
    """(title, columns, rows) of all that the records of one run say."""
    parts = [_steps(records), _on_host(records), _transfers(records), _buckets(records), _checks(records)]
    parts += [_predictions(records)]
    return [part for part in parts if part[2]]


def _steps(records):
    rows = []
    one = {r["round"]: r["seconds"] for r in chosen(records, kind="alone", ranks=1, scaling="weak")}
    for r in chosen(records, kind="step", round=0):
        if r["gbit"]:
            continue
        same = chosen(records, kind="step", **{key: r[key] for key in ("ranks", "hosts", "gbit", "scaling", "bn")})
        alone = [_beside(records, each)["seconds"] for each in same]
        work = r["ranks"] if r["scaling"] == "strong" else 1
        timed = () if r["hosts"] else [each for each in same if each["round"] in one]
        speed = [one[each["round"]] / (work * each["seconds"]) for each in timed]
        efficiency = Spread.of(speed) if speed else None
        told = f"{efficiency.median:.2f} ({efficiency.low:.2f}-{efficiency.high:.2f})" if speed else ""
        beside = f"{statistics.median(a / each['seconds'] for a, each in zip(alone, same, strict=True)):.2f}"
        share = f"{statistics.median(each['spent'] / each['seconds'] for each in same):.0%}"
        where = "hosts" if r["hosts"] else "ranks"
        times = f"{1e3 * median(same):.0f}", f"{1e3 * statistics.median(alone):.0f}"
        threads = _over_threads(records, same) if r["scaling"] == "strong" and not r["hosts"] else ""
        name = f"{r['ranks']} {where}, {r['scaling']}, {r['bn']}"
        rows.append([name, r["images"], *times, share, beside, told, threads])
    columns = ["", "images a rank", "ms", "alone at once ms", "communication", "alone / step", "efficiency over 1 rank"]
    columns += ["step / that of threads"]
    o = records[0]["options"]
    return f"A step of {o['arch']}, batch {o['batch']}, {o['size']}x{o['size']}, a thread a rank", columns, rows


def _over_threads(records, steps) -> str:
    """Of steps that ranks make, over those that one process makes with as many threads, round by round."""
    ratios = []
    for each in steps:
        found = chosen(records, kind="threads", round=each["round"], ranks=each["ranks"], scaling="strong")
        ratios += [each["seconds"] / one["seconds"] for one in found]
    if not ratios:  # records of before
        return ""
    spread = Spread.of(ratios)
    return f"{spread.median:.2f} ({spread.low:.2f}-{spread.high:.2f})"


def _transfers(records):
    rows = []
    for ranks, hosts in sorted({(r["ranks"], r["hosts"]) for r in chosen(records, kind="all_reduce")}):
        here = chosen(records, ranks=ranks, hosts=hosts, gbit=0.0)
        link = fitted(records, ranks, hosts)
        for verb in ("all_reduce", "all_gather"):
            sums = chosen(here, kind=verb)
            for n in dict.fromkeys(r["bytes"] for r in sums):
                told = getattr(scale_model, verb)(ranks, n, link)
                name = f"{verb}, {ranks} {'hosts' if hosts else 'ranks'}, {n} bytes"
                rows.append([name, f"{1e6 * median(chosen(sums, bytes=n)):.0f}", f"{1e6 * told:.0f}"])
        fit = f"alpha {1e6 * link.alpha:.0f} us, {8e-9 / link.beta if link.beta else float('inf'):.1f} Gbit/s"
        rows.append([f"{ranks} {'hosts' if hosts else 'ranks'}: {fit}, gamma {1e9 * link.gamma:.2f} ns/byte", "", ""])
    return "Sums and gathers, and the model fitted to them", ["", "us", "model us"], rows


def _on_host(records):
    rows, every = [], chosen(records, kind="gradients")
    for ranks, verb in sorted({(r["ranks"], r["verb"]) for r in every}):
        here = chosen(every, ranks=ranks, verb=verb)
        times = [median(by) if (by := chosen(here, where=where)) else None for where in ("messages", "memory")]
        name = f"{ranks} ranks, {verb}, {here[0]['bytes'] / 1e6:.0f} MB"
        rows.append([name, *("" if t is None else f"{1e3 * t:.0f}" for t in times)])
    return "All gradients on one host", ["", "by messages, ms", "in host memory, ms"], rows


def _buckets(records):
    rows, every = [], chosen(records, kind="bucket")
    for ranks, hosts, gbit in sorted({(r["ranks"], r["hosts"], r["gbit"]) for r in every}):
        here = chosen(every, ranks=ranks, hosts=hosts, gbit=gbit)
        times = [f"{1e3 * median(chosen(here, bucket=size)):.0f}" for size in BUCKETS]
        where = "ranks" if not hosts else f"hosts, {gbit} Gbit/s" if gbit else "hosts"
        rows.append([f"{ranks} {where}", *times])
    return (
        "ms of a step by MiB of a bucket, local batch normalisation",
        ["", *(f"{n / 2**20:.0f}" for n in BUCKETS)],
        rows,
    )


def _checks(records):
    rows = [
        [f"{c['ranks']} hosts, {c['gbit']} Gbit/s, {c['bn']}"]
        + [f"{1e3 * c[key]:.0f}" for key in ("alone", "seconds", "predicted")]
        + [f"{round(100 * c['error']):+d}%"]
        for c in checks(records)
    ]
    gains = [f"{name} {value:.2f}" for told in slacks(records, True).values() for name, value in told.items()]
    return (
        f"Steps over limited links; fitted without a limit: {', '.join(gains)}",
        ["", "alone ms", "ms", "model ms", "error"],
        rows,
    )


def _predictions(records):
    found = predictions(records)
    rows = [[f"{bn}, {gbit} Gbit/s", *(f"{e:.2f}" for e in values)] for (bn, gbit), values in found.items()]
    return "Efficiency that the model predicts, by hosts, a batch each", ["", *map(str, LATER[0])], rows


if __name__ == "__main__":
    from minires.cli import main

    sys.exit(main(["bench", "scale-out", *sys.argv[1:]]))
