"""A hand-out with its fault mended: what the reference solution defines takes the place of what stands there."""

import ast


def mended(handed_out: str, solution: str) -> str:
    """The hand-out with each function and method of the solution in place of its own; all else as it was given."""
    given, answer = ast.parse(handed_out), ast.parse(solution)
    given.body[1:1] = _exchange(given.body, answer.body)
    return ast.unparse(given)


def _exchange(given, answer) -> list:
    """What the answer has besides: imports and functions of its own."""
    places, more = {getattr(node, "name", None): i for i, node in enumerate(given)}, []
    for node in answer:
        if isinstance(node, ast.ClassDef) and node.name in places:
            _exchange(given[places[node.name]].body, node.body)
        elif isinstance(node, ast.FunctionDef) and node.name in places:
            given[places[node.name]] = node
        elif isinstance(node, ast.FunctionDef) or (
            isinstance(node, ast.Import | ast.ImportFrom) and "lessons" not in ast.unparse(node)
        ):
            more.append(node)
    return more
