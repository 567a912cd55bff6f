"""What the kernels and fusions were proven against: whatever was edited since then runs as it reads.

A kernel does what its op says, and a fused layer what the layers say, because the tests have compared them. Here is a
fingerprint of each file that was compared (proven.json). Where a file's differs, somebody has changed what it
says: then its ops run without their kernels, and networks layer by layer, so that every edit takes effect at once.
Comments, docstrings and the layout of lines do not count.

To let the kernels run again after an edit that they follow:

    MINIRES_KERNELS=always python -m pytest tests      # kernels and fusions whatever was edited: do they still agree?
    python -m minires.fast                             # then take the new fingerprints
"""

import hashlib
import io
import json
import os
import tokenize
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
TABLE = Path(__file__).with_suffix(".json")
SHARED = ("geometry.py",)  # what every op stands on
OPS = tuple(f"ops/{name}.py" for name in ("activation", "conv", "dense", "join", "loss", "norm", "pool"))
LAYERS = tuple(f"nn/{name}.py" for name in ("activation", "blocks", "conv", "dense", "join", "module", "norm", "pool"))
OTHERS = ("optim.py", "fast/fused_ops.py")

LAYOUT = tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT


def fingerprint(source: str) -> str:
    """Of what a file says: its tokens without comments, docstrings and white space, blocks marked."""
    kept, statement_begins = [], True
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.STRING and statement_begins:
            continue  # a docstring
        if token.type in (tokenize.INDENT, tokenize.DEDENT):
            kept.append("><"[token.type == tokenize.DEDENT])
        elif token.type not in LAYOUT:
            kept.append(token.string)
        if token.type not in (tokenize.COMMENT, tokenize.NL):
            statement_begins = token.type in LAYOUT
    # from Python 3.12 on an f-string is several tokens, with one brace for two
    text = "".join("".join(kept).split()).replace("{{", "{").replace("}}", "}")
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _digests() -> dict[str, str]:
    """Of each file's bytes: where these are as they lay nothing was edited, and nothing has to be taken apart."""
    names = (*SHARED, *OPS, *LAYERS, *OTHERS)
    return {name: hashlib.sha256((PACKAGE / name).read_bytes()).hexdigest()[:16] for name in names}


@cache
def _edited() -> frozenset[str]:
    if os.environ.get("MINIRES_KERNELS") == "always":
        return frozenset()
    try:
        proven, now = json.loads(TABLE.read_text(encoding="utf-8")), _digests()
    except OSError:  # installed without sources: nobody can have edited them
        return frozenset()
    touched = [name for name, digest in now.items() if proven.get("bytes", {}).get(name) != digest]
    return frozenset(name for name in touched if proven.get(name) != _fingerprint_of(name))


def _fingerprint_of(name: str) -> str:
    return fingerprint((PACKAGE / name).read_text(encoding="utf-8"))


def edited(*names: str) -> list[str]:
    """Those of these files that say something else than what was proven; all files where none is named."""
    return [name for name in names or sorted(_edited()) if name in _edited()]


def stands(op) -> bool:
    """Whether the file that defines this op says what its kernel was proven against."""
    name = op.__module__.removeprefix("minires.").replace(".", "/") + ".py"
    return not edited(name, *SHARED)


def renew() -> None:
    """Take today's fingerprints."""
    digests = _digests()
    table = {name: _fingerprint_of(name) for name in digests} | {"bytes": digests}
    TABLE.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
