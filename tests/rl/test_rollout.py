from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from model.engine import Request, Sampling
from rl.problems import Draw, Stream
from rl.rollout import Group, Rollouts, RolloutSettings, sample_seed
from tests.fakes import FakeEngine, FakeReward, tiny_tokenizer
from tests.rl.makers import group, problem

TOKENIZER = tiny_tokenizer()
SETTINGS = RolloutSettings(samples=4, sampling=Sampling())


def sampled(reward: FakeReward, engine: FakeEngine | None = None, settings: RolloutSettings = SETTINGS) -> list[Group]:
    stream = Stream([problem("a"), problem("b")], seed=0)
    engine = engine or FakeEngine(TOKENIZER, lambda request, seed: str(seed % 10))
    return asyncio.run(Rollouts(stream, lambda draw: (ord(draw.problem.id),), engine, reward, settings).wave(range(2)))


def test_each_problem_gets_its_group_in_order() -> None:
    first, second = sampled(FakeReward(lambda fields, text: float(fields["id"] == "a")))
    assert (first.draw.problem.id, second.draw.problem.id) == ("a", "b")
    assert (first.values, second.values) == ([1.0] * 4, [0.0] * 4)
    assert first.prompt_ids == (ord("a"),)


def test_scores_are_set_against_their_own_group() -> None:
    groups = sampled(FakeReward(lambda fields, text: float(int(text) % 2) + 10 * (fields["id"] == "b")))
    for g in groups:
        known = [a for a in g.advantages if a is not None]
        assert abs(sum(known)) < 1e-6
        assert g.signal == (len(set(g.values)) > 1)


def test_what_could_not_be_judged_has_no_advantage() -> None:
    groups = sampled(FakeReward(lambda fields, text: None if fields["id"] == "a" else 1.0))
    assert groups[0].advantages == (None,) * 4
    assert not groups[0].signal


def test_truncated_samples_can_be_left_out() -> None:
    class Cut(FakeEngine):
        async def generate(self, requests, sampling):  # type: ignore[no-untyped-def]
            from dataclasses import replace

            groups = await super().generate(requests, sampling)
            return [[replace(c, finish_reason="length") if i == 0 else c for i, c in enumerate(g)] for g in groups]

    engine = Cut(TOKENIZER, lambda request, seed: str(seed % 10))
    reward = FakeReward(lambda fields, text: float(int(text)))
    kept = sampled(reward, engine)[0].advantages
    masked = sampled(reward, engine, RolloutSettings(4, Sampling(), mask_truncated=True))[0].advantages
    assert masked == (None, *kept[1:])


def test_every_sample_of_every_epoch_has_its_own_seed() -> None:
    seeds = {
        sample_seed(run, Draw(problem(p), e).sample_id(c))
        for run in (0, 1)
        for p in "ab"
        for e in range(9)
        for c in range(9)
    }
    assert len(seeds) == 2 * 2 * 9 * 9


@given(st.text(max_size=20))
def test_a_seed_is_64_bits_and_depends_on_the_id_alone(sample_id: str) -> None:
    assert sample_seed(1, sample_id) == sample_seed(1, sample_id)
    assert 0 <= sample_seed(1, sample_id) < 2**64


def test_the_same_draw_asks_the_engine_for_the_same_seeds() -> None:
    asked: list[list[Request]] = []
    for _ in range(2):
        engine = FakeEngine(TOKENIZER, lambda request, seed: "1")
        sampled(FakeReward(lambda fields, text: 1.0), engine)
        asked += engine.calls
    assert asked[0] == asked[1]


def test_a_group_has_signal_only_where_a_sample_can_be_trained_on() -> None:
    assert group([[1], [2]], [1.0, 0.0]).signal
    assert not group([[1], [2]], [1.0, 0.0], [None, None]).signal
