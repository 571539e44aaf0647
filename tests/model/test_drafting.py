"""Drafts change how many steps it takes, and nothing else."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
import torch

from model import publish
from model.drafting import DraftedWaves
from model.engine import Request, Sampling
from model.native import NativeEngine
from model.sampling import Sampled, Start, Stops
from model.transformer import Transformer, build
from model.waves import Waves
from tests.fakes import TINY, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
CONFIG = replace(TINY, num_nextn_predict_layers=1, eos_token_id=TOKENIZER.eos)
PROMPTS = [(5, 6, 7), (40, 41, 42, 43, 44, 45, 46), (9,)]


def model(agreeing: bool) -> Transformer:
    """A model; ``agreeing``: one that never moves its stream, so that token and guess both follow from the last
    token's embedding, and most guesses are right."""
    made = build(CONFIG, seed=3).use("fp32").requires_grad_(False)
    if agreeing:
        for name, weight in made.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                weight.zero_()
            if name.endswith("eh_proj.weight"):
                weight.copy_(torch.eye(CONFIG.hidden_size, 2 * CONFIG.hidden_size))
    return made


def both(made: Transformer, sampling: Sampling, seeds: int = 12) -> tuple[list[Sampled], list[Sampled], DraftedWaves]:
    requests = [Request(prompt, tuple(range(100 * i, 100 * i + seeds))) for i, prompt in enumerate(PROMPTS)]
    starts = [Start.of(r, *row, sampling, CONFIG.max_position_embeddings) for r in requests for row in r.rows()]
    stops, drafted = Stops(TOKENIZER, sampling.stop) if sampling.stop else None, DraftedWaves(made, 20, True)
    return Waves(made, 64, True).sample(starts, sampling, stops), drafted.sample(starts, sampling, stops), drafted


SAMPLINGS = [
    Sampling(max_tokens=24),
    Sampling(0.6, 0.9, max_tokens=24),
    Sampling(0.0, max_tokens=24),
    Sampling(max_tokens=400),
]


@pytest.mark.parametrize("agreeing", [False, True])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_the_same_tokens_come_out_with_drafts_and_without(agreeing: bool, sampling: Sampling) -> None:
    plain, drafted, _ = both(model(agreeing), sampling)
    for a, b in zip(plain, drafted, strict=True):
        assert a.tokens == b.tokens
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-5)
        assert a.stopped == b.stopped
        assert a.routes is not None
        assert b.routes is not None
        assert (a.routes == b.routes).all()


def test_right_guesses_save_steps() -> None:
    _, done, drafted = both(model(agreeing=True), Sampling(max_tokens=40))
    assert sum(len(row.tokens) for row in done) == drafted.tally.tokens
    assert drafted.tally.tokens > 1.3 * drafted.tally.row_steps


def test_a_stop_string_ends_a_row_at_the_same_token() -> None:
    made = model(agreeing=True)
    free, _, _ = both(made, Sampling(max_tokens=30))
    text = max((TOKENIZER.decode(row.tokens) for row in free), key=len)
    stop = next(text[i : i + 2] for i in range(4, len(text) - 2) if "\ufffd" not in text[i : i + 2])
    plain, drafted, _ = both(made, Sampling(max_tokens=30, stop=(stop,)))
    assert [(row.tokens, row.stopped) for row in plain] == [(row.tokens, row.stopped) for row in drafted]
    assert any(stop in TOKENIZER.decode(row.tokens) for row in plain)


def test_an_engine_that_drafts_is_published_its_mtp_module() -> None:
    published = publish.publish(model(agreeing=True), 5, "fp32")
    requests = [Request(prompt, (1, 2, 3)) for prompt in PROMPTS]
    texts = []
    for draft in (False, True):
        engine = NativeEngine(CONFIG, TOKENIZER, draft=draft)
        asyncio.run(engine.publish(published))
        texts.append([[c.token_ids for c in group] for group in engine.sample(requests, Sampling(max_tokens=20))])
    assert texts[0] == texts[1]
