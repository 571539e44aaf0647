from __future__ import annotations

import itertools
import math
import statistics

import numpy as np
import pytest

from jobs.evaluation.estimators import interval, paired_p_value, pass_at_k, votes


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_pass_at_k_is_the_share_of_draws_with_a_right_one(n: int) -> None:
    """Against the definition: every draw of k of n samples, and against the closed form 1 - C(n-c, k) / C(n, k)."""
    for right in range(n + 1):
        for k in range(1, n + 1):
            draws = list(itertools.combinations([1] * right + [0] * (n - right), k))
            share = sum(any(draw) for draw in draws) / len(draws)
            closed = 1 - math.comb(n - right, k) / math.comb(n, k)
            assert pass_at_k(n, right, k) == pytest.approx(share) == pytest.approx(closed)


def test_pass_at_k_is_unbiased() -> None:
    """Its mean over binomial outcomes is the true 1 - (1-p)^k."""
    n, k, p = 10, 4, 0.23
    mean = sum(math.comb(n, c) * p**c * (1 - p) ** (n - c) * pass_at_k(n, c, k) for c in range(n + 1))
    assert mean == pytest.approx(1 - (1 - p) ** k)


def test_pass_at_k_of_thousands_of_samples_does_not_overflow() -> None:
    closed = 1 - math.comb(9999, 5000) / math.comb(10000, 5000)
    assert pass_at_k(10_000, 1, 5000) == pytest.approx(closed)


def test_pass_at_k_of_too_few_samples_is_an_error() -> None:
    with pytest.raises(ValueError, match="pass@4"):
        pass_at_k(3, 3, 4)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(60):
        low, high = interval((rng.random(60) < 0.7).astype(float).tolist())
        hits += low <= 0.7 <= high
    assert hits >= 50


def test_the_interval_of_equal_scores_is_a_point() -> None:
    assert interval([1.0] * 9) == (1.0, 1.0)


def test_single_samples_give_mcnemars_exact_test() -> None:
    """10 problems better and 2 worse: twice the binomial tail, whatever the ties."""
    tail = sum(math.comb(12, i) for i in range(3)) / 2**12
    assert paired_p_value([1.0] * 10 + [-1.0] * 2 + [0.0] * 50) == pytest.approx(2 * tail)


def test_no_difference_is_no_evidence() -> None:
    assert paired_p_value([0.0] * 5) == 1.0
    assert paired_p_value([0.5, -0.5, 0.25, -0.25]) > 0.5


def test_differences_of_several_sizes_are_tested_by_flips() -> None:
    """All 2^10 sign patterns: only the observed one and its mirror image are as large."""
    assert paired_p_value([0.1 * i for i in range(1, 11)]) == pytest.approx(2 / 2**10, abs=2e-3)


def test_p_values_of_equal_checkpoints_are_spread_evenly() -> None:
    rng = np.random.default_rng(2)
    values = [paired_p_value((rng.integers(-4, 5, 40) / 4).tolist(), seed=i) for i in range(40)]
    assert 0.3 < statistics.fmean(values) < 0.7


@pytest.mark.parametrize(
    ("answers", "same", "right", "score"),
    [
        (["4", "5", "4"], [0, 1, 0], [1, 0, 1], 1.0),
        (["5", "5", "4"], [0, 0, 1], [0, 0, 1], 0.0),
        (["5", "4"], [0, 1], [0, 1], 0.5),
        (["", "", "4"], [0, 0, 1], [0, 0, 1], 1.0),
        (["", ""], [0, 0], [0, 0], 0.0),
    ],
)
def test_the_most_frequent_answer_is_scored(
    answers: list[str], same: list[int], right: list[float], score: float
) -> None:
    assert votes(answers, same, right) == score
