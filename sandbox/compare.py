"""Comparison of what a candidate produced with what was expected, outside the candidate's process.

Values have exactly built-in types here (``wire.decode`` built them), so ``==`` is the language's own.
"""

from __future__ import annotations

import math
import re
from typing import Any, Literal, get_args

Comparison = Literal["exact", "lines", "tokens", "float"]
COMPARISONS: tuple[str, ...] = get_args(Comparison)
DEFAULT_COMPARISON: Comparison = "float"
RELATIVE_TOLERANCE = 1e-6
"""Relative above 1 and absolute below, the usual rule of programming contests."""

_FLOAT = re.compile(r"[+-]?(\d+\.\d*|\.\d+|\d+(\.\d*)?[eE][+-]?\d+|\.\d+[eE][+-]?\d+)([eE][+-]?\d+)?")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def outputs_match(
    actual: str, expected: str, how: str = DEFAULT_COMPARISON, tolerance: float = RELATIVE_TOLERANCE
) -> bool:
    """Whether a program's output counts as the expected one.

    exact: the same characters. lines: the same but for white space at line ends and at the end. tokens: the same words,
    however spaced. float: tokens, where a word that is a decimal fraction in ``expected`` may differ by the tolerance.
    """
    if actual == expected:
        return True
    if how == "exact":
        return False
    if how == "lines":
        return _lines(actual) == _lines(expected)
    actual_tokens, expected_tokens = actual.split(), expected.split()
    if actual_tokens == expected_tokens:
        return True
    if how != "float" or len(actual_tokens) != len(expected_tokens):
        return False
    return all(a == e or _close_text(a, e, tolerance) for a, e in zip(actual_tokens, expected_tokens, strict=True))


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]


def _close_text(actual: str, expected: str, tolerance: float) -> bool:
    if len(actual) > 400 or not _FLOAT.fullmatch(expected) or not _NUMBER.fullmatch(actual):
        return False
    return _close(float(actual), float(expected), tolerance)


def _close(actual: float, expected: float, tolerance: float) -> bool:
    if math.isinf(actual) or math.isinf(expected):
        return actual == expected
    return abs(actual - expected) <= tolerance * max(1.0, abs(expected))


def values_match(actual: Any, expected: Any, tolerance: float = RELATIVE_TOLERANCE) -> bool:
    """Whether a function's result counts as the expected one: Python's equality, with three differences.

    A tuple equals a list with the same items, and a dict's key equals its text, because JSON can say neither; a float
    may differ by the tolerance; NaN equals NaN.
    """
    if isinstance(actual, float) or isinstance(expected, float):
        return _floats_match(actual, expected, tolerance)
    if isinstance(expected, list | tuple):
        return (
            isinstance(actual, list | tuple)
            and len(actual) == len(expected)
            and all(values_match(a, e, tolerance) for a, e in zip(actual, expected, strict=True))
        )
    if isinstance(expected, dict):
        return isinstance(actual, dict) and _dicts_match(actual, expected, tolerance)
    return bool(actual == expected)


def _floats_match(actual: Any, expected: Any, tolerance: float) -> bool:
    if not isinstance(actual, int | float) or not isinstance(expected, int | float):
        return bool(actual == expected)
    if isinstance(actual, bool) or isinstance(expected, bool):
        return actual == expected
    try:
        actual, expected = float(actual), float(expected)
    except OverflowError:
        return False
    return (math.isnan(actual) and math.isnan(expected)) or _close(actual, expected, tolerance)


def _dicts_match(actual: dict[Any, Any], expected: dict[Any, Any], tolerance: float) -> bool:
    if len(actual) != len(expected):
        return False
    if actual.keys() != expected.keys():
        actual = {_key(key): value for key, value in actual.items()}
        expected = {_key(key): value for key, value in expected.items()}
        if actual.keys() != expected.keys():
            return False
    return all(values_match(actual[key], value, tolerance) for key, value in expected.items())


def _key(key: Any) -> str:
    """A key as JSON writes it."""
    if isinstance(key, bool) or key is None:
        return {True: "true", False: "false", None: "null"}[key]
    return str(key)
