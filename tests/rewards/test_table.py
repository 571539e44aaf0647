import pytest

import rewards
from rewards import BadProblem, BadSetting, UnknownReward, check_problem, find


@pytest.mark.parametrize("name", ["math", "code", "format", "boxed", "language", "overlong", "length", "repetition"])
def test_every_name_of_the_table_is_found(name):
    assert callable(find(name))


def test_an_unknown_name_lists_the_known_ones_and_the_nearest():
    with pytest.raises(UnknownReward, match=r"did you mean 'math'.*format.*overlong") as caught:
        find("mth")
    assert caught.value.exit_status == 2


@pytest.mark.parametrize("name", ["no_such_module:thing", "rewards.table:no_such_thing", ":", "os:"])
def test_an_object_that_cannot_be_loaded_is_an_unknown_reward(name):
    with pytest.raises(UnknownReward):
        find(name)


def test_a_setting_that_the_reward_does_not_have_is_named():
    with pytest.raises(BadSetting, match="no_such_setting") as caught:
        find("overlong", no_such_setting=1)
    assert caught.value.exit_status == 2


@pytest.mark.parametrize(
    ("name", "problem", "field"),
    [
        ("math", {"prompt": "?"}, "answer"),
        ("math", {"answer": ""}, "answer"),
        ("math", {"answer": None}, "answer"),
        ("code", {"answer": "5"}, "tests"),
        ("code", {"tests": []}, "tests"),
        ("code", {"tests": [{"stdin": "1"}]}, "stdout"),
    ],
)
def test_a_problem_without_what_its_reward_needs_is_refused_before_any_work(name, problem, field):
    with pytest.raises(BadProblem, match=field) as caught:
        check_problem(find(name), problem)
    assert caught.value.exit_status == 2


def test_a_complete_problem_passes_the_check():
    check_problem(find("math"), {"answer": 5})
    check_problem(find("code"), {"tests": [{"function": "f", "args": [1], "expected": 2}]})
    check_problem(find("format"), {})


def test_importing_rewards_is_light():
    import subprocess
    import sys

    heavy = ["sympy", "torch", "ray", "math_verify", "fastapi", "mpmath"]
    code = f"import sys, rewards; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
    assert rewards.__all__
