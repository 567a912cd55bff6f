"""Exercise 9: the ways to write into an array that somebody else still holds."""

SAID = (
    "dw is right, dx is wrong, and stranger still: whoever calls block_backward(dy, cache) finds another dy afterwards."
)
RELU = "    dout[x < 0] = 0\n    return dout\n"
MASK = "    dz = relu_backward(dbranch, z)\n"
SUM = "    return dx + dshortcut, dw\n"
IMPORT = "from minires import ops\n"
NUMPY = (IMPORT, f"import numpy as np\n\n{IMPORT}")
RIGHT = (RELU, "    return np.where(x > 0, dout, 0)\n")


def in_relu(form):
    forms = {
        "index": [],
        "product": [(RELU, "    dout *= x > 0\n    return dout\n")],
        "out": [(RELU, "    return np.multiply(dout, x > 0, out=dout)\n"), NUMPY],
        "copyto": [(RELU, "    np.copyto(dout, 0, where=x < 0)\n    return dout\n"), NUMPY],
    }
    return forms[form]


def in_block(form):
    forms = {
        "index": "    dz = dbranch\n    dz[z < 0] = 0\n",
        "product": "    dbranch *= z > 0\n    dz = dbranch\n",
        "out": "    dz = np.multiply(dbranch, z > 0, out=dbranch)\n",
        "assigned": "    dz = dbranch\n    dz[...] = relu_backward(dbranch, z)\n",
    }
    return [(MASK, forms[form]), RIGHT, NUMPY]


def in_the_sum(form):
    said = (
        "dx and dw are right. And yet: whoever calls block_backward(dy, cache) finds another dy afterwards, calls it\n"
    )
    said += "with that once more, and is told something else."
    forms = {
        "sum": "    dshortcut += dx\n    return dshortcut, dw\n",
        "out": "    return np.add(dx, dshortcut, out=dshortcut), dw\n",
        "assigned": "    dshortcut[...] = dx + dshortcut\n    return dshortcut, dw\n",
    }
    return [(SAID, said), (SUM, forms[form]), RIGHT, NUMPY]


FAULTS = (
    (in_relu, {"form": ("index", "product", "out", "copyto")}),
    (in_block, {"form": ("index", "product", "out", "assigned")}),
    (in_the_sum, {"form": ("sum", "out", "assigned")}),
)
