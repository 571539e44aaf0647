"""Comparison of outputs and of values."""

from __future__ import annotations

import math

import pytest

from sandbox.compare import outputs_match, values_match


@pytest.mark.parametrize(
    ("actual", "expected", "how", "same"),
    [
        ("a b\n", "a b\n", "exact", True),
        ("a b", "a b\n", "exact", False),
        ("a b  \nc\n\n", "a b\nc", "lines", True),
        ("a  b\n", "a b\n", "lines", False),
        (" a\n", "a\n", "lines", False),
        ("a\nb", "a b", "tokens", True),
        ("ab", "a b", "tokens", False),
        ("0.30000001", "0.3", "tokens", False),
        ("0.30000001", "0.3", "float", True),
        ("1e-1", "0.1", "float", True),
        ("1000000.5", "1000001.0", "float", True),
        ("1000002.5", "1000001.0", "float", False),
        ("1.0", "1", "float", False),
        ("1", "1.0", "float", True),
        ("1e-7", "4e-3", "float", False),
        ("nan", "0.0", "float", False),
        ("inf", "1.0", "float", False),
        ("1 2", "1", "float", False),
        ("", "", "float", True),
        ("yes", "YES", "float", False),
        ("1" * 500, "1.0", "float", False),
    ],
)
def test_outputs(actual: str, expected: str, how: str, same: bool) -> None:
    assert outputs_match(actual, expected, how) is same


@pytest.mark.parametrize(
    ("actual", "expected", "same"),
    [
        ((1, 2), [1, 2], True),
        ([1, [2, (3,)]], (1, (2, [3])), True),
        ([1, 2], [1, 2, 3], False),
        ({1: "a"}, {"1": "a"}, True),
        ({True: 1}, {"true": 1}, True),
        ({1: "a", 2: "b"}, {"1": "a"}, False),
        ({"a": (1.0000001,)}, {"a": [1]}, True),
        (1.0000001, 1, True),
        (1.1, 1, False),
        (math.nan, math.nan, True),
        (math.inf, math.inf, True),
        (-math.inf, math.inf, False),
        (1e308 * 10, 1.0, False),
        (10**400, 1.0, False),
        ("1", 1, False),
        ("1", 1.0, False),
        (None, None, True),
        (None, 0.0, False),
        (True, 1.0, True),
        ({1, 2}, {2, 1}, True),
        ([1], {"0": 1}, False),
        ("ab", ["a", "b"], False),
        (b"x", "x", False),
    ],
)
def test_values(actual: object, expected: object, same: bool) -> None:
    assert values_match(actual, expected) is same


def test_tolerance_is_relative_above_one_and_absolute_below() -> None:
    assert values_match(2e6 + 1, 2e6, 1e-6)
    assert not values_match(2e6 + 3, 2e6, 1e-6)
    assert values_match(1e-9, 0.0, 1e-6)
    assert not values_match(1e-5, 0.0, 1e-6)
