import asyncio
import time

import pytest

from rewards import Sample, find
from rewards.math_answer import compare, equivalent


def score(gold, response):
    async def go():
        reward = find("math", workers=1)
        try:
            return (await reward([Sample({"id": "p", "answer": gold}, response)]))[0]
        finally:
            await reward.close()

    return asyncio.run(go())


def test_the_boxed_gold_answer_scores_one():
    assert score("42", r"so it is \boxed{42}").value == 1.0


def test_another_answer_scores_zero():
    assert score("42", r"so it is \boxed{43}").value == 0.0


def test_an_equal_expression_scores_one():
    assert score(r"2\sqrt{2}", r"\boxed{\sqrt{8}}").value == 1.0


def test_a_response_without_a_box_scores_zero_and_says_why():
    result = score("42", "so it is 42")
    assert (result.value, result.status) == (0.0, "ok")
    assert "no box" in result.detail


def test_a_problem_without_an_answer_is_an_error_and_not_a_zero():
    result = score("", r"\boxed{42}")
    assert (result.value, result.status) == (None, "error")


def test_equivalent_reads_numbers_without_a_worker():
    started = time.perf_counter()
    for number in range(1000):
        assert equivalent(str(number), f" {number}. ")
        assert not equivalent(str(number), str(number + 1))
    assert time.perf_counter() - started < 2.0


@pytest.mark.parametrize("hostile", ["9^{9^{9^{9}}}", "9999999!", "(10^9)!"])
def test_a_hostile_answer_is_never_equal_and_never_late(hostile):
    started = time.monotonic()
    assert compare("5", hostile, timeout_s=1.0).equal is not True
    assert time.monotonic() - started < 30.0
