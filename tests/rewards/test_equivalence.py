"""The equivalence suite: every rule on both sides, and what the verdicts have to be as a whole."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.bench.math_pairs import pairs
from rewards.math_answer import compare, equivalent

PAIRS = list(pairs())


@pytest.mark.parametrize("rule", sorted({pair.rule for pair in PAIRS}))
def test_every_pair_of_the_rule_gets_its_verdict(rule):
    wrong = [
        (pair.gold, pair.answer, pair.equal)
        for pair in PAIRS
        if pair.rule == rule and compare(pair.gold, pair.answer, timeout_s=20.0).equal is not pair.equal
    ]
    assert wrong == []


def test_every_rule_has_cases_on_both_sides():
    sides = Counter((pair.rule, pair.equal) for pair in PAIRS)
    assert all(sides[pair.rule, side] >= 2 for pair in PAIRS for side in (True, False))


def test_the_suite_is_large_and_balanced():
    equal = sum(pair.equal for pair in PAIRS)
    assert len(PAIRS) >= 600
    assert 0.35 < equal / len(PAIRS) < 0.65
    assert len({(pair.gold, pair.answer) for pair in PAIRS}) > 0.95 * len(PAIRS)


@given(st.integers(-(10**30), 10**30), st.integers(-(10**30), 10**30))
def test_integers_are_equal_exactly_when_they_are(left, right):
    assert equivalent(str(left), str(right)) is (left == right)


@given(st.integers(-(10**6), 10**6), st.integers(1, 10**4), st.integers(1, 50))
def test_a_fraction_equals_itself_expanded_and_not_its_neighbour(top, bottom, factor):
    gold = f"\\frac{{{top}}}{{{bottom}}}"
    assert equivalent(gold, f"{top * factor}/{bottom * factor}")
    assert not equivalent(gold, f"{top * factor + 1}/{bottom * factor}")


@given(st.decimals(min_value=-(10**6), max_value=10**6, places=4, allow_nan=False))
def test_a_decimal_equals_itself_with_zeros_and_not_its_neighbour(value):
    assert equivalent(str(value), f"{value}00")
    assert not equivalent(str(value), str(value + 1))
