"""Rewards by ``module:object`` and by entry point, and what a plugin's failure looks like."""

import asyncio
import json
from importlib.metadata import EntryPoint

import pytest

import rewards.table
from rewards import Sample, UnknownReward, find


def score(name, *responses, **settings):
    async def go():
        reward = find(name, **settings)
        try:
            return await reward([Sample({"id": f"p{index}"}, text) for index, text in enumerate(responses)])
        finally:
            await reward.close()

    return asyncio.run(go())


def test_a_class_a_function_and_an_async_function_are_rewards():
    assert [one.value for one in score("tests.rewards.plugins:Slow", "0", "0")] == [1.0, 1.0]
    assert [one.value for one in score("tests.rewards.plugins:lengths", "abc", "")] == [3.0, 0.0]
    assert [one.value for one in score("tests.rewards.plugins:asynchronous", "a")] == [0.5]


@pytest.mark.parametrize(
    ("plugin", "says"),
    [
        ("raising", "plugins.py:"),
        ("too_few", "list of 2"),
        ("words", "numbers"),
        ("infinite", "finite"),
        ("unwritable", "finite"),
        ("exits", "SystemExit(3) (plugins.py:"),
    ],
)
def test_a_failing_plugin_is_named_with_the_sample_and_the_remedy(plugin, says):
    name = f"tests.rewards.plugins:{plugin}"
    for index, one in enumerate(score(name, "a", "b")):
        assert (one.value, one.status) == (None, "error")
        assert [part for part in (name, f"p{index}", says) if part not in one.detail] == [], one.detail


def test_numbers_of_numpy_are_numbers():
    assert [one.value for one in score("tests.rewards.plugins:array", "a", "b")] == [1.0, 1.0]
    (one,) = score("tests.rewards.plugins:scalars", "a")
    assert json.loads(json.dumps([one.value, dict(one.parts)])) == [0.5, {"words": 3.0}]


def test_a_plugin_that_hangs_is_a_timeout():
    (one,) = score("tests.rewards.plugins:sleeping", "a", timeout_s=0.2)
    assert (one.value, one.status) == (None, "timeout")
    assert "timeout_s" in one.detail


def test_calls_that_hang_are_in_no_later_call_s_way():
    async def go():
        reward = find("tests.rewards.plugins:hanging", timeout_s=5)
        hanging = [asyncio.create_task(reward([Sample({"id": "p"}, "hang")])) for _ in range(40)]
        await asyncio.sleep(0)
        return (await reward([Sample({"id": "p"}, "good")]))[0], await asyncio.gather(*hanging)

    good, hung = asyncio.run(go())
    assert good.value == 1.0
    assert {one.status for (one,) in hung} == {"timeout"}


@pytest.mark.parametrize(
    ("plugin", "says"),
    [
        ("tests.rewards.plugins:NOT_CALLABLE", "called with a list of samples, and 7 is given"),
        ("tests.rewards.plugins:no_samples", "without arguments it gives 1.0"),
        ("tests.rewards.plugins:lenghts", "defines no 'lenghts'; did you mean 'lengths'?"),
        ("no_such_plugin:f", "no module 'no_such_plugin' in the working directory or on the Python path"),
        ("tests.rewards.unfinished:f", r"ZeroDivisionError: .* \(unfinished.py:3\)"),
    ],
)
def test_what_cannot_be_a_reward_is_refused_with_the_reason(plugin, says):
    with pytest.raises(UnknownReward, match=says):
        find(plugin)


def test_entry_points_are_found_and_listed(monkeypatch):
    point = EntryPoint("outsider", "tests.rewards.plugins:lengths", rewards.table.GROUP)

    def entry_points(group, name=None):
        return [point] if group == rewards.table.GROUP and name in (None, "outsider") else []

    monkeypatch.setattr(rewards.table, "entry_points", entry_points)
    assert [one.value for one in score("outsider", "ab")] == [2.0]
    assert "outsider" in rewards.known_names()
    with pytest.raises(UnknownReward, match="outsider"):
        find("outsidr")
