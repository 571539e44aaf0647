"""Rows of many requests, sampled together as they would be alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from jobs.serving.batcher import Batcher, Row
from jobs.serving.text import shown
from model import publish
from model.engine import Completion, Request, Sampling
from model.native import NativeEngine
from tests.fakes import tiny_policy


class Counting(NativeEngine):
    """Remembers its calls, and breaks where a prompt is (9,)."""

    async def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[list[Completion]]:
        if any(request.prompt_ids == (9,) for request in requests):
            raise RuntimeError("broken")
        self.calls = [*getattr(self, "calls", []), ([request.prompt_ids for request in requests], sampling)]
        return await super().generate(requests, sampling)


@pytest.fixture(scope="module")
def engine() -> Counting:
    policy = tiny_policy()
    engine = Counting(policy.model.c, policy.tokenizer)
    asyncio.run(engine.publish(publish.publish(policy.model, 0, "fp32")))
    return engine


def batched(engine: Counting, rows: Sequence[Row], most: int = 8, tokens: int = 4) -> list[Completion | Exception]:
    engine.calls = []

    async def last(row: Row) -> Completion | Exception:
        try:
            return [completion async for completion in row.grow()][-1]
        except RuntimeError as error:
            return error

    async def run() -> list[Completion | Exception]:
        batcher = Batcher(engine, engine.config.max_position_embeddings, most, tokens)
        batcher.submit(rows)
        try:
            return await asyncio.gather(*map(last, rows))
        finally:
            batcher.close()

    return asyncio.run(run())


def row(prompt: int, seed: int = 0, most: int = 10, **sampling: float) -> Row:
    return Row((5, prompt), seed, Sampling(max_tokens=most, **sampling))  # type: ignore[arg-type]


def test_rows_sampled_together_in_parts_are_those_sampled_alone(engine: Counting) -> None:
    rows = [row(i, seed=i, most=5 + 3 * i) for i in range(4)]
    together = batched(engine, rows)
    for one, completion in zip(rows, together, strict=True):
        (alone,) = engine.sample([Request(one.prompt, (one.seed,))], one.sampling)[0]
        assert isinstance(completion, Completion)
        assert completion.token_ids == alone.token_ids
        assert completion.logprobs == pytest.approx(alone.logprobs, abs=1e-4)
        assert completion.finish_reason == alone.finish_reason


def test_rows_that_share_their_settings_share_calls_whatever_their_length(engine: Counting) -> None:
    batched(engine, [row(1, most=3), row(2, most=8), row(3, temperature=0.5)])
    prompts = [prompts for prompts, _ in engine.calls]
    assert prompts[0] == [(5, 1), (5, 2)]
    assert [(5, 3)] in prompts


def test_a_call_takes_at_most_so_many_rows_and_all_get_their_turn(engine: Counting) -> None:
    done = batched(engine, [row(i) for i in range(5)], most=2)
    assert len(done) == 5
    assert max(len(prompts) for prompts, _ in engine.calls) == 2
    assert {prompt for prompts, _ in engine.calls[:3] for prompt in prompts} == {(5, i) for i in range(5)}


def test_a_dropped_row_is_sampled_no_further(engine: Counting) -> None:
    rows = [row(1, most=60), row(2, most=8)]
    rows[0].updates.put_nowait(RuntimeError("the reader has gone"))
    rows[0].dropped = True
    batched(engine, rows)
    assert {prompt for prompts, _ in engine.calls for prompt in prompts} == {(5, 2)}


def test_an_engine_that_breaks_fails_its_rows_and_the_others_go_on(engine: Counting) -> None:
    broken = Row((9,), 0, Sampling(0.7, max_tokens=4))
    error, fine = batched(engine, [broken, row(1)])
    assert isinstance(error, RuntimeError)
    assert isinstance(fine, Completion)


@pytest.mark.parametrize(
    ("text", "finished", "seen"),
    [
        ("abc", False, "abc"),
        ("abcEN", False, "abc"),
        ("abcEN", True, "abcEN"),
        ("abcEND", False, "abc"),
        ("abcEND def", True, "abc"),
        ("aEb\n", False, "aEb"),
        ("ab\ufffd", False, "ab"),
        ("ab\ufffd", True, "ab\ufffd"),
        ("E", False, ""),
    ],
)
def test_what_may_be_taken_back_is_not_shown(text: str, finished: bool, seen: str) -> None:
    assert shown(text, ("END", "\n\n"), finished=finished) == seen
