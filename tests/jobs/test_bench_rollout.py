from __future__ import annotations

from dataclasses import replace

import pytest

from jobs.bench import rollout
from jobs.config import RecipeError
from tests.fakes import TINY


def test_every_load_is_sampled_whole_with_drafts_and_without() -> None:
    subject = rollout.Subject("tiny", replace(TINY, num_nextn_predict_layers=1, eos_token_id=-1), None, None)
    loads = rollout._loads(subject, [2], prompt=4, new=8, long_tail=True)
    results = rollout.measure(subject, ["fp32"], loads, rival=False)
    assert list(results["engines"]) == ["native, fp32", "native, fp32, drafts"]
    for engine in results["engines"].values():
        assert [engine["loads"][load.name]["tokens"] for load in loads] == [sum(load.lengths) for load in loads]
    drafted = results["engines"]["native, fp32, drafts"]["loads"][loads[0].name]
    assert 0 <= drafted["accepted"] <= 1
    assert results["without_vllm"] == "not asked for"


def test_a_context_that_is_too_short_is_refused() -> None:
    subject = rollout.Subject("tiny", TINY, None, None)
    with pytest.raises(RecipeError, match="context of 96"):
        rollout._loads(subject, [2], prompt=90, new=8, long_tail=False)
