import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards import BadSetting, Sample, Score, find, mix
from rewards.mix import Mix
from rewards.shaping import overlong_penalty, repeated_share


def score(reward, response, **problem):
    return asyncio.run(reward([Sample(problem, response)]))[0]


GOOD = "<think> 2 and 2 </think> <answer> 4 </answer>"


def test_the_template_scores_one():
    assert score(find("format"), GOOD).value == 1.0


def test_the_opening_tag_may_stand_at_the_end_of_the_prompt():
    response = GOOD.removeprefix("<think>")
    assert score(find("format"), response, prompt="Assistant: <think>").value == 1.0
    assert score(find("format"), response, prompt="Assistant:").value == 0.0
    assert score(find("format", opening="prompt"), response).value == 1.0
    assert score(find("format", opening="response"), response, prompt="<think>").value == 0.0


@pytest.mark.parametrize(
    "response",
    [
        "",
        "4",
        "<think>a</think>",
        "<answer>4</answer> <think>a</think>",
        "<think>a</think> so <answer>4</answer>",
        "hm <think>a</think> <answer>4</answer>",
        "<think>a</think> <answer>4</answer> bye",
        "<think></think> <answer>4</answer>",
        "<think>a</think> <answer> </answer>",
        "<think>a</think> <answer>4</answer><answer>5</answer>",
        "<think>a<think>b</think> <answer>4</answer>",
    ],
)
def test_anything_else_than_the_template_scores_zero_and_says_why(response):
    result = score(find("format"), response)
    assert result.value == 0.0
    assert result.detail


def test_an_unknown_opening_is_refused():
    with pytest.raises(BadSetting):
        find("format", opening="nowhere")


def test_boxed_wants_a_complete_box():
    assert score(find("boxed"), r"\boxed{4}").value == 1.0
    assert score(find("boxed"), r"\boxed{4").value == 0.0
    assert score(find("boxed"), r"\boxed{}").value == 0.0


def test_language_is_the_share_of_target_words():
    assert score(find("language"), "three plain words").value == 1.0
    assert score(find("language"), "two words 但是").value == pytest.approx(2 / 4)
    assert score(find("language", target="zh"), "但是 ok").value == pytest.approx(2 / 3)
    assert score(find("language"), "да нет", language="ru").value == 1.0


def test_formulas_and_code_are_not_words():
    assert score(find("language"), "one $二$ ```\n三 四\n``` two").value == 1.0


@given(st.text(max_size=300))
def test_language_is_a_share(text):
    assert 0.0 <= score(find("language"), text).value <= 1.0


def test_overlong_falls_linearly_as_in_dapo():
    assert [overlong_penalty(length, 100, 20) for length in (0, 80, 90, 100, 500)] == [0.0, 0.0, -0.5, -1.0, -1.0]


def test_overlong_counts_the_tokens_that_the_trainer_gives():
    reward = find("overlong", max_tokens=100, cache_tokens=20)
    assert score(reward, "short", response_tokens=90).value == -0.5


def test_length_costs_linearly():
    assert score(find("length", max_tokens=10), "x", response_tokens=5).value == -0.5


def test_repetition_counts_repeated_ngrams():
    assert repeated_share(list("abcdef"), 2) == 0.0
    assert repeated_share(list("ababab"), 2) == pytest.approx(3 / 5)
    assert repeated_share([], 2) == 0.0


def test_a_mix_logs_every_part():
    reward = mix({"boxed": 1.0, "format": 0.5})
    result = score(reward, r"<think>a</think> <answer>\boxed{4}</answer>")
    assert result.value == 1.5
    assert result.parts == {"boxed": 1.0, "format": 1.0}


class Failing:
    async def __call__(self, samples):
        return [Score(None, "timeout", detail="too slow") for _ in samples]

    async def close(self):
        pass


def test_a_part_that_could_not_judge_leaves_the_mix_without_a_value():
    reward = Mix({"boxed": find("boxed"), "slow": Failing()}, {"boxed": 1.0, "slow": 1.0})
    result = score(reward, r"\boxed{4}")
    assert (result.value, result.status) == (None, "timeout")
    assert result.parts == {"boxed": 1.0}
    assert "too slow" in result.detail


def test_settings_for_a_reward_outside_the_mix_are_refused():
    with pytest.raises(BadSetting):
        mix({"boxed": 1.0}, settings={"format": {}})
