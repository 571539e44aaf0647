"""The loop's rules, with fakes for everything that samples, scores and trains."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from model.engine import Request, Sampling
from model.publish import PublishError
from rl.journal import Journal, Progress, read, read_load
from rl.pipeline import NoSignalError, Pipeline, PipelineSettings, rollout_metrics
from rl.problems import Problem, Stream
from rl.rollout import Group, RolloutSettings, rollout
from tests.fakes import FakeEngine, FakeReward, FakeTrainer, tiny_tokenizer
from tests.rl.makers import group

TOKENIZER = tiny_tokenizer()
PROBLEMS = [Problem(str(i), "q", "math", {"id": str(i), "prompt": "q", "reward": "math"}) for i in range(50)]


class Run:
    """One run in a folder; ``values`` scores a sample from its problem's number and its seed."""

    def __init__(self, folder: Path, values: Callable[[int, str], float | None] | None = None, **settings: Any) -> None:
        defaults = {"steps": 6, "groups_per_step": 3, "lag": 0}
        self.settings = PipelineSettings(**{**defaults, **settings})
        self.journal = Journal(folder, keep=2)
        self.trainer = FakeTrainer()
        self.delay: Callable[[Request], float] = lambda request: 0.0
        self.engine = FakeEngine(TOKENIZER, lambda request, seed: str(seed % 97), lambda request: self.delay(request))
        score = values or (lambda number, text: float(int(text) % 2))
        self.reward = FakeReward(lambda fields, text: score(int(fields["id"]), text))
        self.evaluations = 0

    async def evaluate(self) -> dict[str, float]:
        self.evaluations += 1
        return {"held_out/greedy/math": self.engine.version / 10}

    def pipeline(self, progress: Progress = Progress()) -> Pipeline:  # noqa: B008
        settings = RolloutSettings(4, Sampling())
        return Pipeline(
            Stream(PROBLEMS, 0),
            lambda draws: rollout(draws, lambda draw: (int(draw.problem.id),), self.engine, self.reward, settings),
            self.trainer,
            self.engine.publish,
            self.journal,
            self.settings,
            evaluate=self.evaluate,
            progress=progress,
        )

    def go(self, progress: Progress = Progress()) -> Progress:  # noqa: B008
        async def start() -> Progress:
            return await self.pipeline(progress).run()

        return asyncio.run(start())

    @property
    def trained(self) -> list[str]:
        return [g.draw.sample_id(0) for step in self.trainer.trained for g in step]

    def lags(self) -> list[int]:
        return [
            step - version
            for step, groups in enumerate(self.trainer.trained)
            for g in groups
            for c in g.completions
            for version in c.versions
        ]


def test_every_step_keeps_the_load_of_its_experts(tmp_path: Path) -> None:
    Run(tmp_path, steps=3).go()
    assert read_load(tmp_path) == [(step, {1: [step, 0]}) for step in (1, 2, 3)]


def in_stream_order(count: int) -> list[str]:
    stream = Stream(PROBLEMS, 0)
    return [stream[i].sample_id(0) for i in range(count)]


@pytest.mark.parametrize("lag", [0, 1, 3])
def test_groups_are_trained_once_each_in_the_order_of_the_stream(tmp_path: Path, lag: int) -> None:
    run = Run(tmp_path, lag=lag)
    assert run.go() == Progress(6, 18)
    assert run.trained == in_stream_order(18)


@pytest.mark.parametrize("lag", [0, 1, 3])
def test_no_group_is_trained_further_than_the_lag_from_its_weights(tmp_path: Path, lag: int) -> None:
    run = Run(tmp_path, lag=lag, steps=12)
    run.delay = lambda request: 0.001 * (request.prompt_ids[0] % 7)
    run.go()
    assert max(run.lags()) == lag


def test_sampling_goes_on_while_the_trainer_trains(tmp_path: Path) -> None:
    run = Run(tmp_path, lag=1, steps=2)
    busy: list[int] = []
    update = run.trainer.update

    async def watched(groups: list[Group]) -> dict[str, float]:
        await asyncio.sleep(0.05)
        busy.append(len(run.engine.calls))
        return await update(groups)

    run.trainer.update = watched  # type: ignore[assignment, method-assign]
    run.go()
    assert busy[0] == 2


def test_groups_without_signal_are_replaced_and_reported(tmp_path: Path) -> None:
    run = Run(tmp_path, lambda number, text: float(int(text) % 2) if number % 2 else 1.0, dynamic_sampling=True)
    done = run.go()
    assert all(g.signal for step in run.trainer.trained for g in step)
    assert [len(step) for step in run.trainer.trained] == [3] * 6
    lines = list(read(tmp_path / "samples.jsonl"))
    assert {line["id"].rsplit("/", 1)[0] + "/0" for line in lines} == set(in_stream_order(done.place))
    assert {line["trained"] for line in lines if int(line["problem"]) % 2 == 0} == {False}


def test_endless_groups_without_signal_end_the_run_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(NoSignalError, match="easier or harder"):
        Run(tmp_path, lambda number, text: 1.0, dynamic_sampling=True, max_dropped=30).go()


def test_an_evaluation_sees_the_published_weights_before_during_and_after(tmp_path: Path) -> None:
    run = Run(tmp_path, evaluate_every=4)
    run.go()
    lines = {line["step"]: line for line in read(tmp_path / "metrics.jsonl")}
    assert [s for s, line in lines.items() if "held_out/greedy/math" in line] == [0, 4, 6]
    assert [lines[s]["held_out/greedy/math"] for s in (0, 4, 6)] == [0.0, 0.4, 0.6]


@pytest.mark.parametrize("lag", [0, 2])
def test_a_resumed_run_neither_loses_nor_repeats_a_group(tmp_path: Path, lag: int) -> None:
    first = Run(tmp_path, lag=lag, steps=4, checkpoint_every=2)
    first.go()
    (tmp_path / "checkpoints" / "step-4").rename(tmp_path / "gone")
    second = Run(tmp_path, lag=lag, steps=6, checkpoint_every=2)
    found = second.journal.resume()
    assert found is not None
    second.go(found[1])
    assert first.trained[:6] + second.trained == in_stream_order(18)
    ids = [line["id"] for line in read(tmp_path / "samples.jsonl")]
    assert len(ids) == len(set(ids)) == 18 * 4
    assert [line["step"] for line in read(tmp_path / "metrics.jsonl")] == [0, 1, 2, 3, 4, 5, 6]


def test_stop_ends_after_the_step_in_hand_with_a_checkpoint(tmp_path: Path) -> None:
    run = Run(tmp_path, steps=50)

    async def start() -> Progress:
        pipeline = run.pipeline()
        update = run.trainer.update

        async def third(groups: list[Group]) -> dict[str, float]:
            if run.trainer.version == 2:
                pipeline.stop()
            return await update(groups)

        run.trainer.update = third  # type: ignore[assignment, method-assign]
        return await pipeline.run()

    assert asyncio.run(start()) == Progress(3, 9)
    assert run.journal.steps() == [3]


def test_a_failed_publish_ends_the_run_before_a_rollout_starts(tmp_path: Path) -> None:
    run = Run(tmp_path)

    async def refuse(weights: Any) -> None:
        raise PublishError("tensor x differs")

    run.engine.publish = refuse  # type: ignore[method-assign]
    with pytest.raises(PublishError, match="tensor x"):
        run.go()
    assert run.engine.calls == []


def test_an_error_in_a_rollout_ends_the_run(tmp_path: Path) -> None:
    def broken(number: int, text: str) -> float:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        Run(tmp_path, broken).go()


def test_metrics_leave_out_what_could_not_be_judged() -> None:
    metrics = rollout_metrics([group([[1, 2], [3]], [1.0, None])])
    assert metrics["reward"] == 1.0
    assert metrics["not_judged"] == 0.5
    assert metrics["response_tokens"] == 1.5


def test_every_sample_is_written_with_what_made_it(tmp_path: Path) -> None:
    Run(tmp_path, steps=1).go()
    line = json.loads((tmp_path / "samples.jsonl").read_text().splitlines()[0])
    assert line["id"] == in_stream_order(1)[0]
    assert line["versions"] == [[0, line["tokens"]]]
    assert {"step", "problem", "prompt", "text", "score", "status", "parts", "advantage", "finish_reason"} <= set(line)
