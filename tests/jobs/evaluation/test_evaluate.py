"""An evaluation is resumed to the sample, and sums up what it has."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import pytest

from jobs import export
from jobs.config import RecipeError
from jobs.evaluate import Evaluation, EvaluationError, evaluate, of_checkpoint
from jobs.evaluation import summary
from jobs.evaluation.record import SAMPLES, Judged, read
from jobs.evaluation.sources import Answer, Batch, EngineSource, Wanted
from jobs.files import FolderError
from model import checkpoint
from model.engine import EngineError, Request, Sampling
from rl.problems import ProblemError, from_fields
from tests.fakes import LOADABLE, FakeEngine, tiny_policy, tiny_tokenizer

PROBLEMS = [
    from_fields({"id": str(i), "prompt": f"{i}+1", "reward": "math", "answer": str(i + 1)}, "p") for i in range(5)
]


class Killed(BaseException):
    pass


class Source:
    """Answers rightly to every problem's first copy; dies after so many batches."""

    def __init__(self, batches: int = 100) -> None:
        self.batches, self.asked = batches, list[str]()

    async def answers(self, wanted: Sequence[Wanted]) -> AsyncIterator[Batch]:
        for i in range(0, len(wanted), 3):
            if i // 3 == self.batches:
                raise Killed
            part = wanted[i : i + 3]
            self.asked += [one.id for one in part]
            yield [(w, Answer(f"\\boxed{{{int(w.problem.id) + 1 + w.copy}}}", 7, "stop")) for w in part]


def run(source: Any, out: Path | None, samples: int = 2, **settings: Any) -> dict[str, Any]:
    copies = {problem.id: samples for problem in PROBLEMS}
    return evaluate(Evaluation({"sums": PROBLEMS}, copies, source, {"seed": 0, **settings}), {}, out)


def test_a_killed_evaluation_neither_loses_nor_repeats_a_sample(tmp_path: Path) -> None:
    first, second = Source(batches=2), Source()
    with pytest.raises(Killed):
        run(first, tmp_path)
    path = tmp_path / SAMPLES
    path.write_bytes(path.read_bytes() + path.read_bytes()[:40])  # a line that the kill cut off
    result = run(second, tmp_path)
    everything = [f"{problem}/-1/{copy}" for problem in range(5) for copy in range(2)]
    assert sorted(first.asked + second.asked) == everything
    assert sorted(json.loads(line)["id"] for line in path.read_text().splitlines()) == everything
    assert result["suites"] == run(Source(), None)["suites"]
    assert json.loads((tmp_path / "result.json").read_text())["suites"] == result["suites"]


def test_more_samples_are_added_to_those_there(tmp_path: Path) -> None:
    run(Source(), tmp_path, samples=1)
    more = Source()
    assert run(more, tmp_path, samples=3)["suites"]["sums"]["math"]["samples"] == 3
    assert len(more.asked) == 10
    assert run(Source(), tmp_path, samples=1)["suites"]["sums"]["math"]["pass@k"]["1"]["value"] == 1.0


def test_other_settings_need_another_folder(tmp_path: Path) -> None:
    run(Source(), tmp_path)
    with pytest.raises(FolderError, match="seed: 0 then, 1 now"):
        run(Source(), tmp_path, seed=1)


def test_the_figures(tmp_path: Path) -> None:
    row = run(Source(), None)["suites"]["sums"]["math"]
    assert row["pass@k"]["1"]["value"] == row["mean"]["value"] == 0.5
    assert row["pass@k"]["2"] == {"value": 1.0, "low": 1.0, "high": 1.0, "problems": 5}
    assert row["cons@k"]["2"]["value"] == 0.5
    assert (row["tokens"], row["cut_off"], row["not_judged"]) == (7.0, 0.0, 0)


def judged(problem: str, copy: int, score: float | None, answer: str = "", reward: str = "math") -> Judged:
    return Judged("s", problem, reward, copy, score, "", answer, None, None)


def test_a_sample_that_could_not_be_judged_is_counted_and_left_out() -> None:
    row = summary.summary([judged("a", 0, 1.0), judged("a", 1, None), judged("b", 0, None), judged("b", 1, None)])["s"]
    assert (row["math"]["not_judged"], row["math"]["mean"]["value"], row["math"]["mean"]["problems"]) == (3, 1.0, 1)
    assert row["math"]["pass@k"]["2"] is None


def test_votes_count_equal_answers_as_one() -> None:
    samples = [
        judged("a", 0, 0.0, "7"),
        judged("a", 1, 1.0, "1/2"),
        judged("a", 2, 1.0, "0.5"),
        judged("a", 3, 0.0, ""),
    ]
    assert summary.vote(samples) == 1.0


def test_scores_between_0_and_1_have_a_mean_and_no_pass_at_k() -> None:
    row = summary.summary([judged("a", 0, 0.25, reward="r"), judged("b", 0, 0.75, reward="r")])["s"]["r"]
    assert row["mean"]["value"] == 0.5
    assert "pass@k" not in row


def test_two_evaluations_are_compared_problem_by_problem(tmp_path: Path) -> None:
    run(Source(), tmp_path / "a", samples=1)
    run(Source(), tmp_path / "b", samples=2)
    found = summary.compare_folders(tmp_path / "a", tmp_path / "b")["sums"]["math"]
    assert (found["first"], found["second"], found["worse"], found["better"]) == (1.0, 0.5, 5, 0)
    assert found["p_value"] == 2 / 2**5
    assert found["difference"]["value"] == -0.5


def test_folders_that_share_nothing_are_not_compared(tmp_path: Path) -> None:
    run(Source(), tmp_path / "a")
    with pytest.raises(ProblemError, match="no evaluation"):
        summary.compare_folders(tmp_path / "a", tmp_path / "nothing")


def test_an_evaluation_where_nothing_could_be_judged_fails() -> None:
    problem = from_fields({"id": "x", "prompt": "p", "reward": "tests.rewards.plugins:Undecided"}, "p")

    class Anything(Source):
        async def answers(self, wanted: Sequence[Wanted]) -> AsyncIterator[Batch]:
            yield [(one, Answer("")) for one in wanted]

    with pytest.raises(EvaluationError, match="could be judged"):
        evaluate(Evaluation({"s": [problem]}, {"x": 1}, Anything(), {}), {}, None)


def test_an_engine_is_asked_for_what_is_missing_with_the_seeds_of_the_copies(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    engine = FakeEngine(tokenizer, lambda request, seed: f"\\boxed{{{seed}}}")

    def source() -> EngineSource:
        return EngineSource(engine, lambda draw: tuple(tokenizer.encode(draw.problem.id)), Sampling(), 0, rows=4)

    run(source(), None, samples=2)
    whole = {(r.prompt_ids, seed) for call in engine.calls for r in call for seed in r.seeds}
    assert max(sum(len(r.seeds) for r in call) for call in engine.calls) == 4
    engine.calls.clear()
    run(source(), tmp_path, samples=1)
    run(source(), tmp_path, samples=2)
    assert {(r.prompt_ids, seed) for call in engine.calls for r in call for seed in r.seeds} == whole
    assert len(read(tmp_path)) == 10


@pytest.mark.vllm
def test_vllm_answers_with_an_exported_folder_s_weights(
    tmp_path: Path, vllm_engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Greedily, what the native engine answers; sampled, with any temperature and top-p."""
    (tmp_path / "ours").mkdir()
    policy = tiny_policy(seed=5, **LOADABLE)
    checkpoint.save(policy.model, policy.tokenizer, tmp_path / "ours")
    export.command(tmp_path / "ours", tmp_path / "exported", "bf16", 1000)
    monkeypatch.setattr("model.vllm_engine.VllmEngine", lambda *_, **settings: set_to(vllm_engine, **settings))
    monkeypatch.setattr(vllm_engine, "close", ended := AsyncMock())
    monkeypatch.setattr(vllm_engine, "whole", True)
    found = {}
    for engine in ("native", "vllm"):
        evaluation = of_checkpoint(
            tmp_path / "exported", {"sums": PROBLEMS}, 1, Sampling(0.0, max_tokens=8), 0, "{prompt}=", "fp32", 8, engine
        )
        evaluate(evaluation, {}, tmp_path / engine)
        found[engine] = [json.loads(line)["text"] for line in (tmp_path / engine / SAMPLES).read_text().splitlines()]
    assert found["vllm"] == found["native"]
    assert len(set(found["vllm"])) > 1
    ended.assert_awaited_once()
    requests = [Request((5, 6), (1, 2))]
    with monkeypatch.context() as strict:
        strict.setattr(vllm_engine, "whole", True)
        with pytest.raises(EngineError, match="rollout"):
            asyncio.run(vllm_engine.generate(requests, Sampling(0.6, 0.95, 4)))
    assert len(asyncio.run(vllm_engine.generate(requests, Sampling(0.6, 0.95, 4)))[0]) == 2


def set_to(engine: Any, max_rows: int, whole: bool) -> Any:
    engine.whole = whole
    return engine


def test_an_unknown_engine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="native, vllm"):
        of_checkpoint(tmp_path, {}, 1, Sampling(), 0, None, "fp32", 8, "other")
