from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rewards import Sample, UnknownReward
from rl.judge import Judge
from rl.problems import Problem, ProblemError


def sample(reward: str, response: str, **fields: Any) -> Sample:
    return Sample({"id": "x", "prompt": "q", "reward": reward, **fields}, response)


def judged(judge: Judge, samples: list[Sample]) -> list[Any]:
    async def run() -> list[Any]:
        try:
            return await judge(samples)
        finally:
            await judge.close()

    return asyncio.run(run())


def test_each_problem_is_scored_by_its_own_reward_and_by_what_is_added() -> None:
    judge = Judge(["math", "boxed"], {"format": 0.5}, {"format": {"opening": "prompt"}})
    good, bare, boxed = judged(
        judge,
        [
            sample("math", "t</think><answer>\\boxed{4}</answer>", answer="4"),
            sample("math", "\\boxed{4}", answer="4"),
            sample("boxed", "nothing"),
        ],
    )
    assert (good.value, dict(good.parts)) == (1.5, {"accuracy": 1.0, "format": 1.0})
    assert (bare.value, dict(bare.parts)) == (1.0, {"accuracy": 1.0, "format": 0.0})
    assert boxed.value == 0.0


def test_a_problem_that_its_reward_cannot_use_is_named_before_anything_runs() -> None:
    judge = Judge(["math"], {})
    with pytest.raises(ProblemError, match="f.jsonl: problem 'p7'.*answer"):
        judge.check([Problem("p7", "q", "math", {"id": "p7", "prompt": "q", "reward": "math"})], "f.jsonl")


def test_an_unknown_reward_is_an_error_with_the_known_names() -> None:
    with pytest.raises(UnknownReward, match="mathh.*math"):
        Judge(["mathh"], {})
