from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from model import publish
from model.config import Precision
from model.engine import Completion, EngineError, Request, Sampling
from model.native import NativeEngine
from model.sampling import Start, Stops, draw, exponentials, keys
from model.segments import Segments
from model.transformer import build
from model.waves import COMPACT_EVERY
from tests.fakes import TINY, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
CONFIG = replace(TINY, bos_token_id=TOKENIZER.bos, eos_token_id=TOKENIZER.eos)
START = Start((5,), 0, None, 9)
PROMPTS = [(5, 6, 7), (40, 41, 42, 43, 44, 45, 46), (9,)]


def engine(precision: Precision = "fp32", **settings: int) -> NativeEngine:
    made = NativeEngine(CONFIG, TOKENIZER, **settings)
    publish.accept(made.model, publish.publish(build(CONFIG, seed=3), 7, precision))
    made.version = 7
    return made


def requests(seeds: int = 3) -> list[Request]:
    return [Request(prompt, tuple(range(100 * i, 100 * i + seeds))) for i, prompt in enumerate(PROMPTS)]


def full_logprobs(
    made: NativeEngine, prompt: tuple[int, ...], completion: Completion, temperature: float
) -> list[float]:
    tokens = torch.tensor((*prompt, *completion.token_ids))
    with torch.no_grad():
        hidden = made.model(tokens[:-1], Segments.of([len(tokens) - 1])).hidden
        logp = (made.model.logits(hidden) / temperature).log_softmax(-1)
    picked = logp[len(prompt) - 1 :].gather(-1, tokens[len(prompt) :, None]).squeeze(-1)
    return picked.tolist()


@pytest.mark.parametrize(("precision", "mean", "largest"), [("fp32", 1e-6, 1e-5), ("fp8", 3e-5, 5e-3)])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_cached_sampling_equals_the_full_forward(
    precision: Precision, mean: float, largest: float, temperature: float
) -> None:
    """A number that lies between two of FP8's may be rounded to either, by the last digit of a sum."""
    made = engine(precision)
    done = made.sample(requests(), Sampling(temperature, max_tokens=40))
    for prompt, group in zip(PROMPTS, done, strict=True):
        for completion in group:
            expected = full_logprobs(made, prompt, completion, temperature)
            gaps = [abs(a - b) for a, b in zip(completion.logprobs, expected, strict=True)]
            assert sum(gaps) < mean * len(gaps)
            assert max(gaps) < largest


def test_a_seed_gives_the_same_sample_whatever_else_is_sampled() -> None:
    made = engine()
    together = made.sample(requests(), Sampling(max_tokens=30))
    alone = made.sample([Request(PROMPTS[1], (101,))], Sampling(max_tokens=30))
    assert together[1][1].token_ids == alone[0][0].token_ids


def test_few_rows_at_a_time_sample_the_same() -> None:
    many = engine().sample(requests(), Sampling(max_tokens=30))
    few = engine(max_rows=2).sample(requests(), Sampling(max_tokens=30))
    assert [[c.token_ids for c in g] for g in many] == [[c.token_ids for c in g] for g in few]


def test_a_short_row_goes_on_as_before_when_a_long_one_has_ended() -> None:
    made, long = engine(), tuple(range(10, 10 + CONFIG.max_position_embeddings - 4))
    (_, (completion,)) = made.sample([Request(long, (1, 2, 3)), Request(PROMPTS[0], (4,))], Sampling(max_tokens=40))
    assert len(completion.token_ids) > COMPACT_EVERY
    expected = full_logprobs(made, PROMPTS[0], completion, 1.0)
    assert completion.logprobs == pytest.approx(expected, abs=1e-5)


def test_seeds_differ() -> None:
    (group,) = engine().sample([Request(PROMPTS[0], tuple(range(20)))], Sampling(max_tokens=12))
    assert len({completion.token_ids for completion in group}) > 15


def test_greedy_takes_the_likeliest_token() -> None:
    made = engine()
    (group,) = made.sample([Request(PROMPTS[1], (1, 2))], Sampling(temperature=0.0, max_tokens=20))
    tokens = torch.tensor((*PROMPTS[1], *group[0].token_ids))
    with torch.no_grad():
        logits = made.model.logits(made.model(tokens[:-1], Segments.of([len(tokens) - 1])).hidden)
    assert tuple(logits.argmax(-1)[len(PROMPTS[1]) - 1 :].tolist()) == group[0].token_ids == group[1].token_ids


def test_samples_follow_the_distribution() -> None:
    logits = torch.tensor([0.5, 2.0, -1.0, 1.0]).expand(20000, 4)
    tokens, logp = draw(logits, torch.from_numpy(keys(11, 20000)), Sampling())
    share = torch.bincount(tokens, minlength=4) / 20000
    assert torch.allclose(share, logits[0].softmax(-1), atol=0.015)
    assert torch.allclose(logp, logits.log_softmax(-1).gather(-1, tokens[:, None])[:, 0])


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log().expand(4000, 4)
    tokens, _ = draw(logits, torch.from_numpy(keys(5, 4000)), Sampling(top_p=0.6))
    share = torch.bincount(tokens, minlength=4) / 4000
    assert torch.allclose(share, torch.tensor([4 / 7, 3 / 7, 0.0, 0.0]), atol=0.03)


def test_an_impossible_token_is_never_drawn() -> None:
    logits = torch.tensor([[float("-inf"), 0.0, float("-inf")]]).expand(100_000, 3)
    tokens, _ = draw(logits, torch.from_numpy(keys(0, 100_000)), Sampling())
    assert (tokens == 1).all()


def test_the_times_of_a_race_are_exponential_and_independent() -> None:
    """Kolmogorov-Smirnov for those of one key and of one token; and two keys' and two tokens' do not go together."""
    times = exponentials(torch.from_numpy(keys(3, 4000)), 4000).double()
    for some in (times[7], times[:, 7]):
        shares = -torch.expm1(-some.sort().values)
        assert (shares - torch.linspace(0, 1, 4000, dtype=torch.float64)).abs().max() < 1.63 / 4000**0.5  # 1 %
    for one, other in ((times[7], times[8]), (times[:, 7], times[:, 8])):
        assert abs(torch.corrcoef(torch.stack([one, other]))[0, 1]) < 2.6 / 4000**0.5  # 1 %
    assert times.min() > 0
    assert times.isfinite().all()


def test_the_token_budget_bounds_a_completion() -> None:
    done = engine().sample(requests(), Sampling(max_tokens=5))
    for completion in (c for group in done for c in group):
        assert len(completion.token_ids) <= 5
        assert completion.finish_reason == ("stop" if completion.token_ids[-1] == TOKENIZER.eos else "length")


def test_the_context_bounds_a_completion() -> None:
    prompt = tuple(range(10, 10 + CONFIG.max_position_embeddings - 4))
    (group,) = engine().sample([Request(prompt, tuple(range(8)))], Sampling(max_tokens=50))
    assert max(len(completion.token_ids) for completion in group) == 4


def test_a_stop_string_ends_a_completion_with_the_token_that_completes_it() -> None:
    made = engine()
    (free,) = made.sample([Request(PROMPTS[0], tuple(range(30)))], Sampling(max_tokens=30))
    text = max((c.text for c in free), key=len)
    stop = next(text[i : i + 2] for i in range(4, len(text) - 2) if "\ufffd" not in text[i : i + 2])
    (stopped,) = made.sample([Request(PROMPTS[0], tuple(range(30)))], Sampling(max_tokens=30, stop=(stop,)))
    for before, after in zip(free, stopped, strict=True):
        assert after.token_ids == before.token_ids[: len(after.token_ids)]
        if stop in after.text:
            assert stop not in TOKENIZER.decode(after.token_ids[:-1])
            assert after.finish_reason == "stop"
    assert any(stop in c.text for c in stopped)


def test_a_stop_character_of_several_tokens_ends_with_its_last_byte() -> None:
    stops = Stops(TOKENIZER, ("é", "> "))
    first, last = TOKENIZER.encode("é")
    assert stops.first(START, [first, last], 0) == 2
    assert stops.first(START, [last, first], 0) is None


def test_only_tokens_with_a_stop_string_s_last_character_may_end_a_completion() -> None:
    stops = Stops(TOKENIZER, ("ab", "> "))
    ending = {token for token in range(len(TOKENIZER)) if stops.may_end(token)}
    assert ending == {t for t in range(len(TOKENIZER)) if "b" in TOKENIZER.decode([t]) or " " in TOKENIZER.decode([t])}


def test_every_token_carries_its_weight_version() -> None:
    (group,) = engine().sample([Request(PROMPTS[0], (1,))], Sampling(max_tokens=6))
    assert set(group[0].versions) == {7}
    assert len(group[0].versions) == len(group[0].token_ids)


@pytest.mark.parametrize("length", [0, CONFIG.max_position_embeddings])
def test_a_prompt_without_room_is_refused(length: int) -> None:
    with pytest.raises(EngineError, match=f"{length} tokens"):
        engine().sample([Request((5,) * length, (1,))], Sampling())


@pytest.mark.parametrize("budget", [1, 7])
def test_a_paused_completion_goes_on_as_if_it_had_never_been_paused(budget: int) -> None:
    made, at_once = engine(record_routes=True), Sampling(max_tokens=30, stop=("7",))
    whole = made.sample(requests(), at_once)
    paused = replace(at_once, pause_after=budget)
    done: list[list[Completion | None]] = [[None] * 3 for _ in PROMPTS]
    while any(c is None or c.finish_reason == "paused" for group in done for c in group):
        unfinished = [
            (g, i)
            for g, group in enumerate(done)
            for i, c in enumerate(group)
            if c is None or c.finish_reason == "paused"
        ]
        again = [Request(PROMPTS[g], (100 * g + i,), (done[g][i],)) for g, i in unfinished]
        for (g, i), (completion,) in zip(unfinished, made.sample(again, paused), strict=True):
            before = done[g][i]
            assert len(completion.token_ids) - len(before.token_ids if before else ()) <= budget
            done[g][i] = completion
    for expected, found in zip(whole, done, strict=True):
        for a, b in zip(expected, found, strict=True):
            assert b is not None
            assert (a.token_ids, a.finish_reason, a.versions, a.text) == (
                b.token_ids,
                b.finish_reason,
                b.versions,
                b.text,
            )
            assert a.logprobs == pytest.approx(b.logprobs, abs=1e-5)
            assert a.routes is not None
            assert np.array_equal(a.routes, b.routes)


def test_recorded_routes_are_those_of_the_full_forward() -> None:
    made = engine(record_routes=True)
    for prompt, group in zip(PROMPTS, made.sample(requests(), Sampling(max_tokens=20)), strict=True):
        for completion in group:
            tokens = torch.tensor((*prompt, *completion.token_ids))[:-1]
            with torch.no_grad():
                routing = made.model(tokens, Segments.of([len(tokens)])).routing
            assert completion.routes is not None
            assert np.array_equal(completion.routes, torch.stack([r.indices for r in routing], 1).numpy())
