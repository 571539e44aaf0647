from __future__ import annotations

import asyncio
import json
import math
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from model import checkpoint
from model.policy import OptimizerSettings
from model.reward import Card, RewardModel, RewardPolicy
from rewards import BadProblem, BadSetting, Sample, check_problem, find
from rewards.learned import LearnedReward
from rewards.mix import mix
from tests.fakes import tiny_policy
from tests.jobs.conftest import Workspace, workspace  # noqa: F401  a fixture
from tests.rewards.service import service

TEXTS = ["2", "3", "17", "", "1234"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A reward model with a random head, whose card says that its scores of `TEXTS` are spread evenly."""
    base, made = tmp_path / "base", tmp_path / "reward"
    base.mkdir()
    made.mkdir()
    tiny = tiny_policy()
    checkpoint.save(tiny.model, tiny.tokenizer, base)
    policy = RewardPolicy(base, OptimizerSettings(), "fp32", "{prompt}=")
    torch.manual_seed(1)
    torch.nn.init.normal_(policy.scorer.score.weight, std=1.0)
    policy.save_weights(made)
    raw = raw_scores(made)
    policy.describe = lambda: Card("{prompt}=", 0.5, 2.0, tuple(torch.linspace(min(raw), max(raw), 101).tolist()))
    policy.save_weights(made)
    return made


def raw_scores(folder: Path) -> list[float]:
    return [score for score in RewardModel(folder).scores([("1+1", text) for text in TEXTS]) if score is not None]


def samples(texts: list[str] = TEXTS) -> list[Sample]:
    return [Sample({"id": str(i), "prompt": "1+1"}, text) for i, text in enumerate(texts)]


def scored(reward: Any, given: list[Sample]) -> list[Any]:
    async def run() -> list[Any]:
        try:
            return await reward(given)
        finally:
            await reward.close()

    return asyncio.run(run())


def test_its_value_is_the_models_score_normalised_and_capped(folder: Path) -> None:
    raw = raw_scores(folder)
    middle = (min(raw) + max(raw)) / 2
    for quantile, cap in ((0.5, middle), (1.0, max(raw)), (0.0, math.inf)):
        found = scored(find("learned", model=str(folder), cap_quantile=quantile), samples())
        assert [s.value for s in found] == pytest.approx([(min(r, cap) - 0.5) / 2 for r in raw])
        assert [s.parts["raw"] for s in found] == pytest.approx(raw)
        assert sum(s.parts["capped"] for s in found) == sum(r > cap for r in raw)


def test_what_does_not_fit_could_not_be_judged(folder: Path) -> None:
    found = scored(find("learned", model=str(folder)), samples(["2", "1" * 200]))
    assert [s.status for s in found] == ["ok", "error"]
    assert "context" in found[1].detail


def test_calls_that_wait_are_scored_together(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reward = LearnedReward(str(folder))
    sizes, first = [], threading.Event()
    scores = reward.model.scores

    def slowly(pairs: Any) -> Any:
        sizes.append(len(pairs))
        if len(sizes) == 1:
            first.wait(10)
        return scores(pairs)

    monkeypatch.setattr(reward.model, "scores", slowly)

    async def run() -> list[Any]:
        calls = [asyncio.create_task(reward([each])) for each in samples()[:1]]
        while not sizes:
            await asyncio.sleep(0.01)
        calls += [asyncio.create_task(reward([each])) for each in samples()[1:]]
        await asyncio.sleep(0.05)
        first.set()
        return [score for answer in await asyncio.gather(*calls) for score in answer]

    alone = scored(find("learned", model=str(folder)), samples())
    together = asyncio.run(run())
    assert sizes == [1, 4]
    assert [s.value for s in together] == pytest.approx([s.value for s in alone], abs=1e-5)


def test_a_failure_reaches_everyone_who_waits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reward = LearnedReward(str(folder))

    def broken(pairs: Any) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(reward.model, "scores", broken)

    async def run() -> list[Any]:
        return await asyncio.gather(reward(samples()), reward(samples()), return_exceptions=True)

    assert [str(each) for each in asyncio.run(run())] == ["out of memory"] * 2


def test_it_mixes_with_rules(folder: Path) -> None:
    made = mix({"boxed": 1.0, "learned": 0.5}, {"learned": {"model": str(folder)}})
    for score in scored(made, samples(["\\boxed{2}", "2"])):
        assert score.value == pytest.approx(score.parts["boxed"] + 0.5 * score.parts["learned"])
        assert {"learned/raw", "learned/capped"} <= set(score.parts)


def test_a_wrong_setting_or_problem_is_named(folder: Path) -> None:
    with pytest.raises(BadSetting, match="reward.json"):
        find("learned", model=str(folder.parent / "base"))
    with pytest.raises(BadSetting, match="cap_quantile"):
        find("learned", model=str(folder), cap_quantile=2)
    with pytest.raises(BadProblem, match="prompt"):
        check_problem(find("learned", model=str(folder)), {"id": "x"})


def test_it_is_served_over_http(folder: Path) -> None:
    settings = json.dumps({"learned": {"model": str(folder), "cap_quantile": 0.0}})
    body = {"samples": [{"id": i, "prompt": "1+1", "response": text} for i, text in enumerate(TEXTS)]}
    with service("--reward", "learned", "--settings", settings) as running:
        answer = httpx.post(running.url + "/score", json=body, timeout=60).json()
    raw = [score["parts"]["raw"] for score in answer["scores"]]
    assert raw == pytest.approx(raw_scores(folder), abs=1e-5)
