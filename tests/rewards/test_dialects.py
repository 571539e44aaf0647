"""Functions of other frameworks, unchanged: one conformance test for each public signature, and the peers themselves
where they are installed."""

import asyncio
import importlib.util
from pathlib import Path

import pytest

from rewards import BadSetting, Sample, UnknownReward, find

FILE = Path(__file__).parent / "dialect_files" / "functions.py"
CHAT = [{"role": "user", "content": "Q"}]


def score(name, *problems, **settings):
    reward = find(name, **{"workers": 1, **settings})

    async def go():
        try:
            samples = [
                Sample({key: value for key, value in problem.items() if key != "response"}, problem["response"])
                for problem in problems
            ]
            return await reward(samples)
        finally:
            await reward.close()

    return asyncio.run(go())


def values(name, *problems, **settings):
    return [one.value for one in score(name, *problems, **settings)]


def test_verl():
    common = {"answer": "7", "data_source": "my/data", "extra_info": {"index": 3}}
    assert values(f"verl:{FILE}:verl_score", {**common, "response": "so 7"}, {**common, "response": "8"}) == [1.0, 0.0]


def test_verl_takes_the_ground_truth_of_its_own_data_format():
    problem = {
        "reward_model": {"ground_truth": "7"},
        "answer": "8",
        "data_source": "my/data",
        "extra_info": {"index": 3},
    }
    assert values(f"verl:{FILE}:verl_score", {**problem, "response": "7"}) == [1.0]


def test_verl_async_with_metrics():
    (one,) = score(f"verl:{FILE}:verl_async", {"answer": "7", "response": "7"})
    assert (one.value, one.parts) == (1.0, {"accuracy": 1.0})


def test_verl_in_a_module():
    assert values("verl:tests.rewards.dialect_files.functions:verl_async", {"answer": "7", "response": "8"}) == [0.0]


def test_trl_with_strings():
    assert values(f"trl:{FILE}:trl_length", {"prompt": "Q", "response": "abc"}, {"prompt": "Q", "response": "a"}) == [
        3.0,
        1.0,
    ]


def test_trl_with_messages_columns_and_logs():
    scores = score(
        f"trl:{FILE}:trl_columns",
        {"prompt": CHAT, "answer": "7", "response": "7"},
        {"prompt": CHAT, "answer": "7", "response": "88"},
    )
    assert [one.value for one in scores] == [1.0, 0.0]
    assert [one.parts["length"] for one in scores] == [1.0, 2.0]
    assert scores[0].parts["hits"] == 1.0


def test_trl_none_leaves_the_sample_out():
    scores = score(f"trl:{FILE}:trl_leaves_out", {"prompt": "Q", "response": "?"}, {"prompt": "Q", "response": "7"})
    assert [(one.value, one.status) for one in scores] == [(None, "error"), (1.0, "ok")]
    assert "left out" in scores[0].detail


def test_trl_async():
    assert values(f"trl:{FILE}:trl_async", {"prompt": "Q", "response": "7"}) == [0.25]


def test_openrlhf():
    scores = score(
        f"openrlhf:{FILE}:openrlhf_reward",
        {"prompt": "Q ", "answer": "7", "response": "7"},
        {"prompt": "Q ", "answer": "7", "response": "8"},
    )
    assert [one.value for one in scores] == [1.0, 0.0]
    assert scores[0].parts == {"chars": 3.0}


def test_nemo_rl():
    problems = [{"prompt": "Q", "answer": "7", "response": "7"}, {"prompt": CHAT, "answer": "7", "response": "8"}]
    assert values(f"nemo-rl:{FILE}:NemoEnvironment", *problems, config={"bonus": 0.5}) == [1.5, 0.5]


def test_verifiers():
    assert values(f"verifiers:{FILE}:verifiers_function", {"prompt": "Q", "answer": "7", "response": "7"}) == [1.0]
    assert values(f"verifiers:{FILE}:verifiers_state", {"prompt": CHAT, "answer": "7", "response": "7"}) == [1.0]


def test_verifiers_rubric():
    (one,) = score(f"verifiers:{FILE}:rubric", {"prompt": "Q", "answer": "7", "response": "8"})
    assert (one.value, one.parts) == (0.5, {"exact": 0.0, "short": 1.0})


def test_skyrl():
    (one,) = score(f"skyrl:{FILE}:SkyEnvironment", {"prompt": "Q", "answer": "7", "response": "7"})
    assert (one.value, one.parts) == (1.0, {"length": 1.0})


def test_slime():
    assert values(f"slime:{FILE}:slime_rm", {"prompt": "Q", "answer": "7", "response": "7"}, config={"scale": 2.0}) == [
        2.0
    ]


def test_areal():
    assert values(f"areal:{FILE}:areal_reward", {"prompt": "Q", "answer": "7", "level": 3, "response": "7"}) == [1.0]


# --- what goes wrong


@pytest.mark.parametrize(
    ("response", "status", "says"),
    [
        ("raise", "error", "KeyError"),
        ("hang", "timeout", "timeout_s"),
        ("exit", "error", "ended"),
        ("shape", "error", "number"),
        ("nan", "error", "number"),
    ],
)
def test_a_failure_names_the_plugin_the_sample_and_the_remedy(response, status, says):
    problems = [{"id": "p1", "answer": "7", "response": response}, {"id": "p2", "answer": "7", "response": "fine"}]
    bad, good = score(f"verl:{FILE}:verl_faulty", *problems, timeout_s=2.0)
    assert (bad.value, bad.status) == (None, status)
    assert all(part in bad.detail for part in ("verl_faulty", "p1", says))
    assert good.value == 0.5


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("verl:{}:verl_without_score", "score"),
        ("trl:{}:trl_short", "2 values"),
        ("openrlhf:{}:openrlhf_wrong", "rewards"),
    ],
)
def test_a_wrong_shape_is_said(name, says):
    problem = {"id": "p1", "prompt": "Q", "answer": "7", "response": "7"}
    for one in score(name.format(FILE), problem, problem):
        assert (one.value, one.status) == (None, "error")
        assert says in one.detail


def test_a_file_whose_import_fails_is_said_by_every_sample():
    (one,) = score(f"verl:{FILE.with_name('broken.py')}:compute_score", {"id": "p1", "answer": "7", "response": "7"})
    assert one.status == "error"
    assert "no_such_module_anywhere" in one.detail


@pytest.mark.parametrize(
    "name",
    [
        "verl:no_such_file.py:f",
        f"verl:{FILE}:no_such_function",
        "verl:no_such_module:f",
        "verl:x",
        "trl:",
        f"verl:{FILE}",
    ],
)
def test_a_function_that_is_not_there_is_a_bad_call(name):
    with pytest.raises(UnknownReward) as caught:
        find(name)
    assert caught.value.exit_status == 2


def test_settings_are_checked():
    with pytest.raises(BadSetting):
        find(f"verl:{FILE}:verl_score", timeout_s=0)


# --- the peers themselves; a peer that is not installed is skipped


def needs(package):
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"{package} is not installed")


@needs("trl")
def test_trl_itself():
    """TRL's own accuracy and format rewards."""
    problem = {"prompt": CHAT, "solution": r"$\frac12$", "id": 1}
    right, wrong = {**problem, "response": r"\boxed{0.5}"}, {**problem, "response": r"\boxed{3}"}
    assert values("trl:trl.rewards:accuracy_reward", right, wrong) == [1.0, 0.0]
    thought = {**problem, "response": "<think>\nhm\n</think>\nyes"}
    assert values("trl:trl.rewards:think_format_reward", thought, wrong) == [1.0, 0.0]


@needs("verl")
def test_verl_itself():
    """verl's own GSM8K scorer, chosen by verl's data source."""
    common = {"data_source": "openai/gsm8k", "reward_model": {"ground_truth": "7"}}
    problems = [{**common, "response": "#### 7"}, {**common, "response": "#### 8"}]
    assert values("verl:verl.utils.reward_score:default_compute_score", *problems) == [1.0, 0.0]


@needs("skyrl_gym")
def test_skyrl_itself():
    """SkyRL's AIME environment."""
    common = {"prompt": "Q", "reward_model": {"ground_truth": "7"}}
    right, wrong = score(
        "skyrl:skyrl_gym.envs.aime.env:AIMEEnv",
        {**common, "response": "Answer: 7"},
        {**common, "response": "Answer: 8"},
    )
    assert right.value == 1.0
    assert wrong.value < 1.0


@needs("verifiers")
def test_verifiers_itself():
    """A Rubric of the verifiers package with two functions."""
    problem = {"prompt": "Q", "answer": "7", "response": "7"}
    (one,) = score("verifiers:tests.rewards.verifiers_rubric:rubric", problem)
    assert one.value == 1.5
