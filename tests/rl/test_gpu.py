"""GRPO on a CUDA device."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
import torch

from model.config import Precision
from model.engine import Request, Sampling
from model.native import NativeEngine
from model.policy import OptimizerSettings, Policy
from rl.loss import LossSettings
from rl.rollout import Group
from rl.step import StepSettings, step
from tests.fakes import SERVED, tiny_policy
from tests.rl.makers import group

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
PROMPTS = [(5, 6, 7), (8, 9)]


def sampled(engine: NativeEngine) -> list[Group]:
    """Completions of two prompts, the better ones those with more even tokens."""
    requests = [Request(prompt, tuple(range(16))) for prompt in PROMPTS]
    groups = []
    for prompt, completions in zip(PROMPTS, engine.sample(requests, Sampling(max_tokens=12)), strict=True):
        rewards = [sum(t % 2 == 0 for t in c.token_ids) / len(c.token_ids) for c in completions]
        centred = [reward - sum(rewards) / len(rewards) for reward in rewards]
        made = group([list(c.token_ids) for c in completions], rewards, centred, prompt)
        groups.append(replace(made, completions=tuple(completions)))
    return groups


@pytest.mark.parametrize("precision", ["bf16", "fp8"])
@pytest.mark.parametrize("exact", [False, True])
def test_steps_learn_from_what_the_engine_samples(precision: Precision, exact: bool) -> None:
    made = tiny_policy(**SERVED)
    settings = OptimizerSettings(lr=1e-3)
    policy = Policy(made.model, made.tokenizer, settings, precision, exact=precision if exact else None)
    engine = NativeEngine(policy.model.c, policy.tokenizer, device="cuda", record_routes=not exact)
    how = StepSettings(
        loss=LossSettings(kl=0.01), minibatches=1 if exact else 2, micro_batch_tokens=128, balance=1e-3,
        replay_routes=not exact,
    )  # fmt: skip
    means = []
    for _ in range(12):
        asyncio.run(engine.publish(policy.publish(precision)))
        groups = sampled(engine)
        means.append(sum(reward or 0.0 for g in groups for reward in g.values))
        metrics = step(policy, groups, how)
        assert metrics["logprob_gap_max"] == 0 or not exact
    assert means[-1] > 1.2 * means[0]
