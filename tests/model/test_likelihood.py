"""Likelihoods of given tokens, against the model one sequence at a time and against what greedy sampling takes."""

from __future__ import annotations

import pytest
import torch

from model import publish
from model.engine import Request, Sampling
from model.likelihood import batches, likelihoods
from model.native import NativeEngine
from model.segments import Segments
from tests.fakes import tiny_policy

SEQUENCES = [[5, 6, 7, 8], [9], [1, 2], [5, 6, 9, 1, 4]]


def test_they_are_the_models_log_probabilities_however_batched() -> None:
    model = tiny_policy().model
    together, apart = likelihoods(model, SEQUENCES, 3), likelihoods(model, SEQUENCES, 3, batch_tokens=1)
    for ids, one, other in zip(SEQUENCES, together, apart, strict=True):
        with torch.no_grad():
            hidden = model(torch.tensor(ids), Segments.of([len(ids)])).hidden
            logp = model.logits(hidden).log_softmax(-1)
        wanted = [float(logp[i, token]) for i, token in enumerate(ids[1:])]
        assert list(one.logprobs) == pytest.approx(wanted, abs=1e-5)
        assert list(other.logprobs) == pytest.approx(wanted, abs=1e-5)
        assert [[token for token, _ in place] for place in one.top] == logp[:-1].topk(3, -1).indices.tolist()


def test_what_greedy_sampling_takes_is_greedy() -> None:
    policy = tiny_policy()
    engine = NativeEngine(policy.model.c, policy.tokenizer)
    publish.accept(engine.model, publish.publish(policy.model, 0, "fp32"))
    (completion,) = engine.sample([Request((5, 6), (0,))], Sampling(0.0, max_tokens=6))[0]
    ids = [5, 6, *completion.token_ids]
    (found,) = likelihoods(engine.model, [ids])
    assert found.greedy(ids, 2)
    assert found.logprobs[1:] == pytest.approx(completion.logprobs, abs=1e-4)
    changed = [*ids[:-1], (ids[-1] + 1) % 300]
    assert not likelihoods(engine.model, [changed])[0].greedy(changed, 2)


def test_a_batch_has_its_tokens_and_a_long_sequence_is_alone() -> None:
    assert [len(batch) for batch in batches([[0] * 3, [0] * 3, [0] * 9, [0] * 2, [0] * 2], 6)] == [2, 1, 2]
