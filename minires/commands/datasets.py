"""data make, show, convert, fetch."""

from pathlib import Path

from minires.commands import common
from minires.console import out


def data_make(args) -> int:
    from minires.data import make_signs, write_signs

    paths = write_signs(args.folder, *make_signs(size=args.size, seed=args.seed))
    out.print("wrote " + " and ".join(map(str, paths)))
    return 0


def data_show(args) -> int:
    from minires.instruments.plots import plot_samples
    from minires.instruments.style import save_picture

    train, test = common.source(args).load()
    part = train or test
    save_picture(plot_samples(part, note=f"{part.source}, {len(part):,} images"), Path(args.out))
    for name, each in (("train", train), ("test", test)):
        if each is not None:
            counts = ", ".join(f"{k}: {(each.labels == i).sum()}" for i, k in enumerate(each.classes))
            out.print(f"{name}: {len(each):,} images {each.shape[0]}x{each.shape[1]} ({counts})")
    out.print(f"picture: {Path(args.out).resolve()}")
    return 0


def data_convert(args) -> int:
    from minires.data import convert

    convert(args.folder, args.file, size=args.size, seed=args.split_seed, test_fraction=args.test_fraction)
    out.print(f"wrote {args.file}")
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

    text = "Count a data set's images and draw some of each class."
    p = command(data, "show", data_show, text, "minires data show --data photos/ --out photos.png")
    common.add_data(p, "builtin")
    common.add_picture(p, "samples.png")

    text = "Turn a folder of images into one HDF5 file."
    p = command(data, "convert", data_convert, text, "minires data convert photos/ photos.h5 --size 64")
    p.add_argument("folder")
    p.add_argument("file", metavar="OUT.h5")
    p.add_argument("--size", type=int, default=64)
    p.add_argument("--split-seed", type=int, default=0)
    p.add_argument("--test-fraction", type=float, default=0.15)

    text = "Download the Sign Language Digits photographs (2,062 images, ten classes)."
    p = command(data, "fetch", data_fetch, text, "minires data fetch digits data/")
    p.add_argument("name", choices=("digits",))
    p.add_argument("folder", nargs="?", default="sign-language-digits")
