"""Names of a package that are loaded when they are first asked for: who needs a part does not load the whole."""

from importlib import import_module


def lazily(package: str, homes: dict[str, tuple[str, ...]]):
    """A module's `__getattr__` (PEP 562) that finds each name in its home, and the homes; homes: module -> names."""

    def find(name):
        if (home := f"{package}.{name}") in homes:
            return import_module(home)
        for home, names in homes.items():
            if name in names:
                return getattr(import_module(home), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return find
