"""Exercise 12: what a generator's seed is made of, too little of it or too much."""

TITLE = "layers that are too alike"
SAID = """\
The cosine between two independent random kernels of n numbers scatters around 0 by about 1 / sqrt(n). In the network
below it is 1 for some pairs of layers. Mend it so that"""
SOUND = "The kernels of the network below are independent, as they should be."
DRAW = "rng = np.random.default_rng(seed)"
IMPORT = "import numpy as np\n"
CRC = (IMPORT, f"from zlib import crc32\n\n{IMPORT}")
LOOP = "    for p in network.params():\n"
CALL = "draw(p.name, p.data.shape, seed)"
NAMED = (DRAW, "rng = np.random.default_rng([*seed, crc32(name.encode())])")


def alike(form):
    imports = [CRC] if "crc32" in form else []
    return [*imports, (DRAW, f"rng = np.random.default_rng({form})")]


def never_again(form):
    said = f"{SOUND} But a seed gives one network today and\nanother one in the next program. Mend it so that"
    return [(TITLE, "a network that comes once"), (SAID, said), (DRAW, f"rng = np.random.default_rng({form})")]


def one_network(form):
    said = f"{SOUND} But the spread over seeds, measured with it,\nis 0. Mend it so that"
    return [CRC, (TITLE, "seeds that are too alike"), (SAID, said), (DRAW, f"rng = np.random.default_rng({form})")]


def in_turn(form):
    said = f"{SOUND} But it and its plain twin, compared from\n"
    said += "one seed, differ from the first step on by more than the shortcuts. Mend it so that"
    loops = {
        "generator": [
            (LOOP, f"    rng = np.random.default_rng(seed)  # one for all, so that no two kernels are alike\n{LOOP}"),
            (CALL, "draw(p.name, p.data.shape, rng)"),
        ],
        "count": [
            (LOOP, "    for i, p in enumerate(network.params()):\n"),
            (CALL, "draw(p.name, p.data.shape, [seed, i])"),
        ],
        "sizes": [
            (LOOP, f"    sizes = [p.data.size for p in network.params()]\n{LOOP}"),
            (CALL, "draw(p.name, p.data.shape, [seed, sum(sizes)])"),
            CRC,
            NAMED,
        ],
    }
    return [(TITLE, "twins that are too different"), (SAID, said), *loops[form]]


ALIKE = (
    "seed",
    "[seed, len(name)]",
    "[seed, *shape]",
    "[seed, shape[-1]]",
    "[seed, len(shape)]",
    "[seed, ord(name[0])]",
)
ALIKE += (
    "seed * crc32(name.encode())",
    '[seed, crc32(name.split(".")[0].encode())]',
    "[seed, crc32(name[:6].encode())]",
)
ALIKE += tuple(f"[seed, crc32(name.encode()) % {k}]" for k in (2, 3, 5, 7))
FAULTS = (
    (alike, {"form": ALIKE}),
    (never_again, {"form": ("", "[seed, hash(name) % 2**32]", "abs(hash((seed, name)))")}),
    (one_network, {"form": ("crc32(name.encode())", "[crc32(name.encode()), *shape]")}),
    (in_turn, {"form": ("generator", "count", "sizes")}),
)
