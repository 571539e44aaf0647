"""The literal reward."""

import asyncio

import pytest

from rewards import BadProblem, Sample, find


@pytest.fixture(scope="module")
def judge():
    reward = find("literal", workers=1)
    yield lambda gold, response: asyncio.run(reward([Sample({"answer": gold}, response)]))[0]
    asyncio.run(reward.close())


@pytest.mark.parametrize(
    ("gold", "response", "value"),
    [
        ("[1, 'a']", "```python\n[1, 'a']\n```", 1.0),
        ("[1, 'a']", '[1,"a"]', 1.0),
        ("{1: None, 2: (1,)}", "so <answer>{2: (1,), 1: None}</answer>", 1.0),
        ("3", "```\n4\n```\nno:\n```\n3\n```", 1.0),
        ("3", "3 </think> 4", 0.0),
        ("1", "True", 0.0),
        ("1", "1.0", 0.0),
        ("[1]", "(1,)", 0.0),
        ("{1}", "{True}", 0.0),
        ("1", "f(0)", 0.0),
        ("1", "__import__('os').getpid()", 0.0),
        ("1", "", 0.0),
        ("1", "(" * 50_000, 0.0),
        ("1", "-" * 90_000 + "1", 0.0),
        ("'x'", "'x" + "y" * 200_000, 0.0),
    ],
)
def test_a_literal_is_compared_in_value_and_kind(judge, gold, response, value):
    assert judge(gold, response).value == value


def test_a_problem_without_a_literal_is_named():
    with pytest.raises(BadProblem, match="literal"):
        find("literal").check({"answer": "f(x)"})
