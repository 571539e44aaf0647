import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.answers.boxes import complete_boxes, find_answer


@pytest.mark.parametrize(
    ("response", "answers"),
    [
        (r"so \boxed{7}", ("7",)),
        (r"\boxed{\frac{1}{2}}", (r"\frac{1}{2}",)),
        (r"\boxed{\{1,2\}}", (r"\{1,2\}",)),
        (r"\boxed{a}, so \fbox{b}, and finally \boxed{c}", ("c",)),
        (r"\fbox{7}", ("7",)),
        (r"\boxed 7", ("7",)),
        (r"\boxed {7}", ("7",)),
        (r"<answer>7</answer>", ("7",)),
        (r"<answer>it is \boxed{7}</answer>", ("7",)),
        (r"<answer>8</answer> \boxed{7}", ("7",)),
        (r"<think>\boxed{8}</think> \boxed{7}", ("7",)),
        (r"<think>it is \boxed{7}</think>", ("7",)),
        (r"\boxed{7} \boxed{ 7 }", (" 7 ",)),
        (r"\boxed{1}, \boxed{2}", ("1", "2")),
        (r"\boxed{1} and \boxed{2}", ("1", "2")),
        (r"First \boxed{3}. Therefore the answer is \boxed{12}.", ("12",)),
        (r"\boxed{3}. Wait, that is wrong. It is \boxed{4}.", ("4",)),
    ],
)
def test_the_answer_is_found(response, answers):
    assert find_answer(response).answers == answers


@pytest.mark.parametrize(
    "response",
    [
        "",
        "7",
        r"\boxed{7",
        r"\boxed{}",
        r"\boxed{7} or \boxed{8}",
        r"The answer is \boxed{7}. The answer is \boxed{8}.",
        "<answer>7",
    ],
)
def test_no_answer_is_found_and_the_reason_is_given(response):
    found = find_answer(response)
    assert found.answers == ()
    assert found.problem


@given(st.text(alphabet="{}\\boxed fx7<>/answerthink\n", max_size=200))
def test_extraction_never_raises_and_never_invents(text):
    found = find_answer(text)
    assert all(answer in text for answer in found.answers)


@given(st.text(alphabet="ab{}7 ", max_size=40))
def test_a_balanced_content_is_found_whole(content):
    balanced = content.count("{") == content.count("}") and all(
        content[:end].count("{") >= content[:end].count("}") for end in range(len(content))
    )
    boxes = complete_boxes(f"\\boxed{{{content}}}")
    if balanced:
        assert boxes[-1].content == content


@pytest.mark.parametrize(
    "piece", [r"\boxed{", r"\boxed", "{", "}", r"\boxed{7}", "<answer>", "</answer>", "</think>", r"\boxed 7", "\\"]
)
def test_extraction_is_linear(piece):
    text = piece * (1_000_000 // len(piece))
    started = time.perf_counter()
    find_answer(text)
    assert time.perf_counter() - started < 10.0
