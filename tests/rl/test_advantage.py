from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl.advantage import group_advantages, has_signal

VALUES = st.lists(st.one_of(st.none(), st.floats(-5, 5)), min_size=1, max_size=16)


def test_advantages_are_standard_scores() -> None:
    assert group_advantages([1.0, 0.0, 0.0, 1.0], by_std=True) == pytest.approx([1, -1, -1, 1], abs=1e-5)


def test_without_the_deviation_they_are_distances_from_the_mean() -> None:
    assert group_advantages([1.0, 0.0, 0.0, 0.0], by_std=False) == [0.75, -0.25, -0.25, -0.25]


@given(VALUES, st.booleans())
def test_a_sample_that_could_not_be_judged_takes_no_part(values: list[float | None], by_std: bool) -> None:
    advantages = group_advantages(values, by_std=by_std)
    assert [a is None for a in advantages] == [v is None for v in values]
    known = [v for v in values if v is not None]
    assert [a for a in advantages if a is not None] == [
        a for a in group_advantages(known, by_std=by_std) if a is not None
    ]


@given(VALUES, st.booleans())
def test_advantages_of_a_group_sum_to_zero(values: list[float | None], by_std: bool) -> None:
    known = [a for a in group_advantages(values, by_std=by_std) if a is not None]
    assert sum(known) == pytest.approx(0, abs=1e-3)


def test_a_group_of_equal_scores_has_no_signal_and_no_advantage() -> None:
    assert not has_signal([0.3, None, 0.3])
    assert group_advantages([0.3, 0.3], by_std=True) == [0.0, 0.0]
    assert has_signal([0.0, 1.0])
    assert not has_signal([None, None])
