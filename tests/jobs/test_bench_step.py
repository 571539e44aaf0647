"""`zeroth bench step`'s figures."""

from __future__ import annotations

import pytest

from jobs.bench.step import RIVAL, Steps, summary


def test_a_host_that_slows_down_changes_no_ratio() -> None:
    def turn(seconds: float) -> Steps:
        return [(seconds, 10), (seconds * 1.1, 10), (seconds * 0.9, 10)]

    rounds = [{RIVAL: turn(3.0 * slower), "ours": turn(slower)} for slower in (1.0, 1.0, 2.0, 4.0)]
    row = summary("ours", rounds)
    assert [row[key] for key in ("ratio", "ratio_min", "ratio_max")] == pytest.approx([3.0, 3.0, 3.0])
    assert row["tokens"] == 10


def test_the_ratio_is_the_median_of_the_rounds_and_has_their_spread() -> None:
    rounds = [{RIVAL: [(rival, 10)], "ours": [(1.0, 10)]} for rival in (2.0, 9.0, 3.0)]
    row = summary("ours", rounds)
    assert [row[key] for key in ("ratio", "ratio_min", "ratio_max")] == [3.0, 2.0, 9.0]
