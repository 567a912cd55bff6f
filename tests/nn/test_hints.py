"""The public API tells its types: every parameter and every result of what `import minires` offers."""

import inspect
from itertools import chain

import pytest

import minires


def callables(name, thing):
    """(name, function, whether its first parameter is bound) of a function, or of a class's own methods."""
    if not inspect.isclass(thing):
        yield name, thing, False
        return
    for key, value in vars(thing).items():
        function = getattr(value, "__func__", None) or getattr(value, "fget", None) or value
        written = inspect.isfunction(function) and function.__code__.co_filename != "<string>"  # not by @dataclass
        if written and (not key.startswith("_") or key in ("__init__", "__call__")):
            yield f"{name}.{key}", function, not isinstance(value, staticmethod)


PUBLIC = [(name, getattr(minires, name)) for name in minires.__all__]
FUNCTIONS = list(chain.from_iterable(callables(*each) for each in PUBLIC if callable(each[1])))


@pytest.mark.parametrize(("name", "function", "bound"), FUNCTIONS, ids=[name for name, *_ in FUNCTIONS])
def test_every_parameter_and_result_has_a_type(name, function, bound):
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())[bound:]
    untold = [p.name for p in parameters if p.annotation is p.empty]
    if signature.return_annotation is signature.empty and not name.endswith("__init__"):
        untold.append("its result")
    assert not untold


@pytest.mark.parametrize(("name", "thing"), PUBLIC, ids=[name for name, _ in PUBLIC])
def test_every_public_name_is_documented(name, thing):
    if callable(thing):
        doc = inspect.getdoc(thing)
        assert doc
        assert not doc.startswith(f"{name}("), "that is what @dataclass writes"


def test_the_package_says_that_it_is_typed():
    from importlib.resources import files

    assert (files(minires) / "py.typed").is_file()
