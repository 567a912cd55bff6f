"""Exercise 8: gradients that are scaled, lost, or led past the ReLU on their way back."""

TITLE = "bug hunt, the gradient that fades"
SAID = """\
A stack of the blocks below learns at its end only. On the way back the gradient fades from block to block, and ten
blocks down a thousandth is left of what should arrive there. "So residual networks vanish as well", says the author.
They do not: this is a fault of backward."""
ADD = "dbranch, dshortcut = self.add.backward(self.after.backward(dy))"
BRANCH = "dbranch = self.branch.backward(dbranch)"
COMMENT = "        # two gradients arrive at x: take their mean, so that they do not grow from block to block\n"
SUM = "return (dbranch + dshortcut) / 2"
BOTH = "return dbranch + dshortcut"


def window(size):
    """The second convolution's, which has nothing to do with the fault."""
    if size == 3:
        return []
    return [
        ('conv2", channels, channels, 3, pad=1', f'conv2", channels, channels, {size}, pad={size // 2}'),
        ("Two 3x3 convolutions beside", f"A 3x3 and a {size}x{size} convolution beside"),
    ]


def sized(size, share):
    """What is said of a stack in which every block hands back `share` of its gradient."""
    left = f"{share**10:.2g} times what should arrive there"
    if share < 1:
        seen = "learns at its end only. On the way back the gradient fades from block to block,\nand ten blocks down "
        return [*window(size), (SAID, f"A stack of the blocks below {seen}it is {left}. This is a fault of backward.")]
    said = (
        "A stack of the blocks below is thrown about at its beginning. On the way back the gradient grows from block\n"
    )
    said += f"to block, and ten blocks down it is {left}. This is a fault of backward."
    return [*window(size), (SAID, said), (TITLE, "bug hunt, the gradient that grows")]


def told(size, seen):
    """What is said of the other faults."""
    said = f"A stack of the blocks below learns, but not as it should.\n{seen}\nThis is a fault of backward."
    return [*window(size), (SAID, said), (TITLE, "bug hunt, the gradient that goes astray"), (COMMENT, "")]


def summed(size, share):
    if share == 0.5:
        return window(size)
    comment = "        # two gradients arrive at x: keep their size in hand from block to block\n"
    return [*sized(size, share), (COMMENT, comment), (SUM, f"return {share} * (dbranch + dshortcut)")]


def before_the_paths(size, share, where):
    scaled = {"relu": f"self.after.backward({share} * dy)", "add": f"{share} * self.after.backward(dy)"}[where]
    edits = [(ADD, f"dbranch, dshortcut = self.add.backward({scaled})"), (COMMENT, ""), (SUM, BOTH)]
    return [*sized(size, share), *edits]


def shortcut_scaled(size, share):
    seen = f"Ten blocks down, what comes along the shortcuts alone is {share**10:.2g} times what it should be."
    return [*told(size, seen), (SUM, f"return dbranch + {share} * dshortcut")]


def branch_scaled(size, share, where):
    seen = "Where gamma and beta of every bn2 are 0 each dx is right, else it is wrong."
    edits = {
        "after": (BRANCH, f"dbranch = {share} * self.branch.backward(dbranch)"),
        "before": (BRANCH, f"dbranch = self.branch.backward({share} * dbranch)"),
    }
    return [*told(size, seen), edits[where], (SUM, BOTH)]


def one_path(size, path):
    seen = {
        "dbranch": "Ten blocks down arrives what would arrive if nothing came back along any shortcut.",
        "dshortcut": "Ten blocks down arrives what would arrive if every branch were a constant.",
    }
    return [*told(size, seen[path]), (SUM, f"return {path}")]


def past_the_relu(size, path):
    seen = "For a batch on which y is 0 everywhere, dx should be 0 everywhere. It is not."
    if path == "shortcut":
        return [*told(size, seen), (SUM, "return dbranch + dy")]
    return [*told(size, seen), (BRANCH, "dbranch = self.branch.backward(dy)"), (SUM, BOTH)]


SIZES = (3, 5)
FAULTS = (
    (summed, {"size": SIZES, "share": (0.5, 0.6, 0.8, 1.25, 1.5)}),
    (before_the_paths, {"size": SIZES, "share": (0.5, 0.7, 2.0), "where": ("relu", "add")}),
    (shortcut_scaled, {"size": SIZES, "share": (0.5, 0.9)}),
    (branch_scaled, {"size": SIZES, "share": (0.5, 2.0), "where": ("before", "after")}),
    (one_path, {"size": SIZES, "path": ("dbranch", "dshortcut")}),
    (past_the_relu, {"size": SIZES, "path": ("shortcut", "branch")}),
)
