"""Names of a package that are loaded when they are first asked for: who needs a part does not load the whole."""

import sys
from importlib import import_module


def lazily(package: str, homes: dict[str, tuple[str, ...]]):
    """A module's `__getattr__` and `__dir__` (PEP 562): each name is found in its home; homes: module -> names."""
    known = {name: home for home, names in homes.items() for name in names}

    def find(name):
        if (home := f"{package}.{name}") in homes:
            return import_module(home)
        if name in known:
            return getattr(import_module(known[name]), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def names():
        modules = (home.removeprefix(f"{package}.") for home in homes)
        own = (name for name in vars(sys.modules[package]) if name.startswith("__"))
        return sorted({*known, *(name for name in modules if "." not in name), *own})

    return find, names


def load_all(package) -> None:
    """Load every public name of `package` now, for what looks into its `__dict__`."""
    vars(package).update({name: getattr(package, name) for name in package.__all__})
