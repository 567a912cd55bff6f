"""data make, show, convert, fetch."""

import argparse
from itertools import combinations
from pathlib import Path

from rich.table import Column, Table

from minires.commands import common
from minires.console import err, out, print_json

ROWS = 60  # classes in a picture
SOME = 5  # examples that are named


def data_make(args) -> int:
    from minires.data import make_signs, write_signs

    paths = write_signs(args.folder, *make_signs(size=args.size, seed=args.seed))
    out.print("wrote " + " and ".join(map(str, paths)))
    return 0


def data_show(args) -> int:
    import numpy as np

    from minires.data import Subset
    from minires.data.names import listed
    from minires.instruments.look import look
    from minires.instruments.plots import plot_samples
    from minires.instruments.style import save_picture

    args.data = args.place or args.data
    source = common.source(args)
    with err.status("reading every image ..."):
        found = look(source.parts())
    name, part = next(iter(found.parts.named().items()))
    shown = np.unique(part.labels)[:ROWS]
    fine = [i for i in np.flatnonzero(np.isin(part.labels, shown)) if i not in found.bad.get(name, ())]
    save_picture(plot_samples(Subset(part, fine), note=f"{part.source}, {len(part):,} images"), Path(args.out))
    if args.json:
        print_json(found.as_dict() | {"picture": str(Path(args.out).resolve())})
        return 0
    counts = found.counts()
    table = Table("class", *(Column(part, justify="right") for part in counts), title=source.spec)
    for each in part.classes:
        table.add_row(each, *(f"{of[each]:,}" for of in counts.values()))
    table.add_section()
    table.add_row("all", *(f"{sum(of.values()):,}" for of in counts.values()))
    out.print(table)
    for line in found.parts.notes:
        out.print(line)
    out.print(f"images: {part.shape[0]}x{part.shape[1]} pixels as they are read")
    for one, other in combinations(counts, 2):
        pairs = [pair for pair in found.alike if pair[0] == other and pair[2] == one]
        total = sum(counts[other].values())
        out.print(f"{len(pairs):,} of {total:,} {other} images are in the {one} part too, or nearly")
        for _, copy, _, original, cosine in pairs[:SOME]:
            out.print(f"  {copy} is {original} ({cosine:.2f})")
    for what, names in found.odd.items():
        out.print(f"{len(names):,} {what}: {listed(names, SOME)}")
    out.print(f"picture: {Path(args.out).resolve()}")
    return 0


def data_convert(args) -> int:
    from minires.data import convert

    options = {"size": args.size, "seed": args.split_seed, "test_fraction": args.test_fraction, "flip_ok": args.flip}
    options |= {"compression": args.compression, "shards": args.shards or 0}
    convert(args.data, args.file, **options, tell=lambda line: err.print(line, style="dim"))
    out.print(f"wrote {args.file}{f' in {args.shards} files' if args.shards else ''}")
    return 0


def data_fetch(args) -> int:
    from minires.data import fetch_digits

    out.print(f"ready: {fetch_digits(args.folder)}")
    return 0


def register(commands, command) -> None:
    data = commands.add_parser("data", help="Make, look at, convert and fetch data sets.").add_subparsers(
        title="commands", metavar="COMMAND", required=True
    )
    text = "Write the built-in hand signs as train_signs.h5 and test_signs.h5."
    p = command(data, "make", data_make, text, "minires data make signs/")
    p.add_argument("folder")
    p.add_argument("--size", type=int, default=64)
    p.add_argument("--seed", type=int, default=0)

    text = "Look at a data set: samples, classes, sizes, odd files, test images that training sees too."
    p = command(data, "show", data_show, text, "minires data show photos/ --out photos.png")
    p.add_argument("place", nargs="?", metavar="DATA", help="as --data")
    common.add_data(p, "builtin")
    common.add_picture(p, "samples.png")
    p.add_argument("--json", action="store_true")

    text = "Turn data of any kind that is read into sealed HDF5: folder, table, tars, CIFAR, idx, .npz, .npy, .mat."
    p = command(data, "convert", data_convert, text, "minires data convert photos/ photos.h5 --size 64")
    p.add_argument("data", metavar="DATA")
    p.add_argument("file", metavar="OUT.h5")
    p.add_argument("--size", type=int, help="resize to this side (default: as stored; image files to 64)")
    p.add_argument("--split-seed", type=int, default=0)
    p.add_argument("--test-fraction", type=float, default=0.15)
    p.add_argument("--flip", action=argparse.BooleanOptionalAction, help="whether a mirrored image keeps its class")
    text = "in so many files, OUT-000-of-010.h5 ...; the same command again goes on where it was ended"
    p.add_argument("--shards", type=int, metavar="N", help=text)
    text = "gzip (default), lzf: in chunks of whole images; none: one after the other"
    p.add_argument("--compression", default="gzip", choices=("none", "gzip", "lzf"), help=text)

    text = "Download the Sign Language Digits photographs (2,062 images, ten classes)."
    p = command(data, "fetch", data_fetch, text, "minires data fetch digits data/")
    p.add_argument("name", choices=("digits",))
    p.add_argument("folder", nargs="?", default="sign-language-digits")
