"""Wrong answers to exercise 12: the reference solution with lines exchanged. name: (the check that fails, edits)."""

SEED = "[seed, crc32(name.encode())]"
WRONG = {
    "fan of the wrong axes": ("scale", [("shape[:-1]", "shape[1:]")]),
    "length of the name": ("alike", [("crc32(name.encode())", "len(name)")]),
    "fresh at every call": ("again", [(SEED, "")]),
    "hash of the name": ("again", [("crc32(name.encode())", "hash(name) % 2**32")]),
    "name alone": ("seeds", [(SEED, "crc32(name.encode())")]),
    "one generator for all": (
        "plain twin",
        [
            (f"np.random.default_rng({SEED})", "seed"),
            ("    for p in", "    rng = np.random.default_rng(seed)\n    for p in"),
            ("p.data.shape, seed)", "p.data.shape, rng)"),
        ],
    ),
}
