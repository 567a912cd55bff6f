"""Powers of ten in words."""

NAMES = ((9, "billion"), (6, "million"))
RAISED = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


def tick(exponent: int) -> str:
    """-8 -> '10⁻⁸'; 0 -> '1'."""
    return "1" if exponent == 0 else "10" + str(exponent).translate(RAISED)


def count(exponent: float) -> str:
    """10**exponent in two digits: '1.4', '8,300', '36 million', '2.8 × 10¹⁵'."""
    if exponent >= 12:
        whole = int(exponent)
        return f"{10 ** (exponent - whole):.1f} × {tick(whole)}"
    for digits, name in NAMES:
        if exponent >= digits:
            return f"{_two(10 ** (exponent - digits))} {name}"
    return _two(10**exponent)


def _two(value: float) -> str:
    return f"{value:.1f}" if value < 9.95 else f"{float(f'{value:.2g}'):,.0f}"


def change(exponent: float) -> str:
    """'grows 8,300 times', 'shrinks 36 million times', 'keeps its size (0.98 times)'."""
    if abs(exponent) < 0.15:
        return f"keeps its size ({10**exponent:.2f} times)"
    return f"{'grows' if exponent > 0 else 'shrinks'} {count(abs(exponent))} times"
