"""The loop's rules, with fakes for everything that samples, scores and trains."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from model.engine import Completion, Request, Sampling
from model.publish import PublishError
from rl.journal import Journal, Progress, read, read_load
from rl.pipeline import NoSignalError, Pipeline, PipelineSettings, rollout_metrics
from rl.problems import Problem, Stream
from rl.rollout import Group, Rollouts, RolloutSettings
from tests.fakes import FakeEngine, FakeReward, FakeTrainer, tiny_tokenizer
from tests.rl.makers import group

TOKENIZER = tiny_tokenizer()
PROBLEMS = [Problem(str(i), "q", "math", {"id": str(i), "prompt": "q", "reward": "math"}) for i in range(50)]


class Run:
    """One run in a folder; ``values`` scores a sample from its problem's number and its seed, ``step_tokens`` as in a
    recipe, with None for no limit."""

    def __init__(
        self,
        folder: Path,
        values: Callable[[int, str], float | None] | None = None,
        step_tokens: int | None = None,
        **settings: Any,
    ) -> None:
        self.step_tokens = step_tokens
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
        settings = RolloutSettings(4, Sampling(pause_after=self.step_tokens))
        stream = Stream(PROBLEMS, 0)
        return Pipeline(
            Rollouts(stream, lambda draw: (int(draw.problem.id),), self.engine, self.reward, settings),
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


def test_samples_are_written_while_the_trainer_trains_on_them(tmp_path: Path) -> None:
    run, written, file = Run(tmp_path, steps=2), [], tmp_path / "samples.jsonl"

    update = run.trainer.update

    async def slow(groups: list[Group]) -> dict[str, float]:
        await asyncio.sleep(0.01)
        written.append(len(list(read(file))) if file.exists() else 0)
        return await update(groups)

    run.trainer.update = slow  # type: ignore[assignment, method-assign]
    run.go()
    assert written == [3 * 4, 2 * 3 * 4]


def test_the_next_update_does_not_wait_for_a_publish(tmp_path: Path) -> None:
    run = Run(tmp_path, lag=1, steps=3)
    trained: list[int] = []

    async def slow() -> int:
        version = run.trainer.version
        await asyncio.sleep(0.05)
        trained.append(run.trainer.version - version)
        return version

    run.trainer.publish = slow  # type: ignore[method-assign]
    run.go()
    assert max(trained) == 1
    assert max(run.lags()) == 1


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


@pytest.mark.parametrize("dynamic_sampling", [False, True])
def test_a_reward_that_can_judge_nothing_ends_the_run_with_its_reason(tmp_path: Path, dynamic_sampling: bool) -> None:
    run = Run(tmp_path, lambda number, text: None, dynamic_sampling=dynamic_sampling, max_dropped=30)
    with pytest.raises(NoSignalError, match="could be judged.*the first: fake.*--resume"):
        run.go()
    assert run.trainer.trained == []


def test_an_evaluation_sees_the_published_weights_before_during_and_after(tmp_path: Path) -> None:
    run = Run(tmp_path, evaluate_every=4)
    run.go()
    lines = {line["step"]: line for line in read(tmp_path / "metrics.jsonl")}
    assert [s for s, line in lines.items() if "held_out/greedy/math" in line] == [0, 4, 6]
    assert [lines[s]["held_out/greedy/math"] for s in (0, 4, 6)] == [0.0, 0.4, 0.6]


def long_tail(request: Request, seed: int) -> str:
    """From 1 character to 40, most of them few; the number at its end is the seed's."""
    return "x" * (40 if seed % 11 == 0 else seed % 5) + str(seed % 10)


class Watched(Run):
    """A run of 40 steps over `long_tail`. ``longest`` holds, by the engine's version, the most tokens that each of its
    calls added to a sample."""

    def __init__(self, folder: Path, step_tokens: int | None, lag: int) -> None:
        super().__init__(folder, lambda number, text: float(text[-1]), step_tokens, lag=lag, steps=40)
        self.engine.say = long_tail
        self.longest: list[list[int]] = [[] for _ in range(41)]
        self.generate, self.engine.generate = self.engine.generate, self.watched  # type: ignore[method-assign]
        self.done = self.go()

    async def watched(self, requests: Sequence[Request], sampling: Sampling) -> list[list[Completion]]:
        done = await self.generate(requests, sampling)
        before = [len(begun.token_ids) if begun else 0 for request in requests for _, begun in request.rows()]
        after = [len(completion.token_ids) for group in done for completion in group]
        self.longest[self.engine.version].append(max(b - a for a, b in zip(before, after, strict=True)))
        return done


@pytest.mark.parametrize("lag", [0, 1, 2])
def test_samples_go_on_in_later_steps_until_they_end(tmp_path: Path, lag: int) -> None:
    plain, run = Watched(tmp_path / "plain", None, lag), Watched(tmp_path / "run", 10, lag)
    waves = -(-max(map(max, filter(None, plain.longest))) // 10)
    assert max(map(max, filter(None, run.longest))) == 10
    assert max(map(len, run.longest)) <= waves + lag
    assert sum(map(sum, run.longest)) < 0.6 * sum(map(sum, plain.longest))

    trained = [group for step in run.trainer.trained for group in step]
    assert [len(step) for step in run.trainer.trained] == [3] * 40
    assert len(set(run.trained)) == 120
    begun = {Stream(PROBLEMS, 0)[b.place].sample_id(0) for b in run.done.begun}
    assert set(run.trained) | begun == set(in_stream_order(run.done.place))
    assert set(in_stream_order(120 - 3 * (lag + 2 * waves))) <= set(run.trained)

    completions = [c for group in trained for c in group.completions]
    assert {c.finish_reason for c in completions} == {"stop"}
    assert all(c.text == TOKENIZER.decode(c.token_ids[:-1]) for c in completions)
    assert all(list(c.versions) == sorted(c.versions) for c in completions)
    assert {len(set(c.versions)) for c in completions} >= {1, 2, waves}
    assert max(plain.lags()) == lag < max(run.lags()) <= lag + 2 * (waves - 1)


def test_what_is_carried_over_is_a_metric(tmp_path: Path) -> None:
    plain, run = Watched(tmp_path / "plain", None, 0), Watched(tmp_path / "run", 10, 0)
    before, after = (list(read(r.journal.metrics_path))[1:] for r in (plain, run))
    assert {(line["carried_over"], line["versions"], line["groups_begun"]) for line in before} == {(0, 1, 0)}
    for line, groups in zip(after, run.trainer.trained, strict=True):
        versions = [len(set(c.versions)) for g in groups for c in g.completions]
        assert line["versions"] == sum(versions) / 12
        assert line["carried_over"] == sum(v > 1 for v in versions) / 12
    assert after[-1]["groups_begun"] == len(run.done.begun) > 0


@pytest.mark.parametrize("lag", [0, 2])
@pytest.mark.parametrize("step_tokens", [None, 4])
def test_a_resumed_run_neither_loses_nor_repeats_a_group(tmp_path: Path, lag: int, step_tokens: int | None) -> None:
    def run(folder: str, steps: int) -> Run:
        made = Run(
            tmp_path / folder, lambda number, text: float(text[-1]), step_tokens, lag=lag, steps=steps,
            checkpoint_every=2,
        )  # fmt: skip
        made.engine.say = long_tail
        return made

    whole, first = run("whole", 8), run("parts", 4)
    whole.go()
    first.go()
    (tmp_path / "parts" / "checkpoints" / "step-4").rename(tmp_path / "gone")
    second = run("parts", 8)
    with second.journal.resuming() as (_, progress):
        pass
    assert bool(progress.begun) == (step_tokens is not None)
    done = second.go(progress)
    trained = first.trained[:6] + second.trained
    assert lag > 0 or trained == whole.trained
    begun = [Stream(PROBLEMS, 0)[b.place].sample_id(0) for b in done.begun]
    assert sorted(trained + begun) == sorted(in_stream_order(done.place))
    ids = [line["id"] for line in read(tmp_path / "parts" / "samples.jsonl")]
    assert len(ids) == len(set(ids)) == 24 * 4
    assert [line["step"] for line in read(tmp_path / "parts" / "metrics.jsonl")] == list(range(9))


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


def test_a_run_that_is_stopped_before_its_first_step_has_a_checkpoint(tmp_path: Path) -> None:
    run = Run(tmp_path, steps=50, checkpoint_every=2)

    async def start() -> Progress:
        pipeline = run.pipeline()
        pipeline.stop()
        return await pipeline.run()

    assert asyncio.run(start()) == Progress()
    assert run.journal.steps() == [0]


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
