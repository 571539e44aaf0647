from __future__ import annotations

from dataclasses import replace

import pytest

from jobs.bench import rollout
from jobs.config import RecipeError
from model.drafting import DraftedWaves
from model.engine import Sampling
from tests.fakes import TINY
from tests.model.test_drafting import model


def test_every_load_is_sampled_whole_with_drafts_and_without() -> None:
    subject = rollout.Subject("tiny", replace(TINY, num_nextn_predict_layers=1, eos_token_id=-1), None, None)
    loads = rollout._loads(subject, [2], prompt=4, new=8, long_tail=True)
    results = rollout.measure(subject, ["fp32"], loads, rival=False)
    assert list(results["engines"]) == ["native, fp32", "native, fp32, drafts"]
    for engine in results["engines"].values():
        assert [engine["loads"][load.name]["tokens"] for load in loads] == [sum(load.lengths) for load in loads]
    assert results["without_vllm"] == "not asked for"


def test_guesses_are_counted_in_the_run_that_is_timed() -> None:
    made = model(agreeing=True)
    made.c = replace(made.c, eos_token_id=-1)
    load = rollout.Load("few", [(5, 6, 7), (9,)], [40, 20], 2)
    engine = DraftedWaves(made, 2, False)
    figures, sampled = rollout._timed(load, engine, draft=True)
    again = engine.sample(rollout._starts(load, None), Sampling())
    assert [row.tokens for row in sampled] == [row.tokens for row in again]
    assert figures["accepted"] == 60 / engine.tally.row_steps - 1 > 0.3


def test_a_context_that_is_too_short_is_refused() -> None:
    subject = rollout.Subject("tiny", TINY, None, None)
    with pytest.raises(RecipeError, match="context of 96"):
        rollout._loads(subject, [2], prompt=90, new=8, long_tail=False)
