"""What `zeroth bench gap` finds is the distance of the engine's log-probabilities from the trainer's."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from jobs.bench.gap import gap, measure
from jobs.bench.record import Log
from jobs.bench.rollout import subject_of
from model.engine import Completion, EngineError, Request, Sampling
from model.native import NativeEngine
from model.policy import Policy
from tests.fakes import tiny_policy

REQUESTS = [Request((5, 6, 7), (0, 1)), Request((40, 41), (2,))]


@pytest.fixture(scope="module")
def sampled() -> tuple[Policy, list[list[Completion]]]:
    policy = tiny_policy()
    engine = NativeEngine(policy.model.c, policy.tokenizer, record_routes=True)
    asyncio.run(engine.publish(policy.publish("fp32")))
    return policy, engine.sample(REQUESTS, Sampling(max_tokens=20))


@pytest.mark.parametrize("replay", [False, True])
def test_a_native_engine_of_the_same_precision_has_none(
    sampled: tuple[Policy, list[list[Completion]]], replay: bool
) -> None:
    policy, groups = sampled
    found = gap(policy, REQUESTS, groups, replay=replay)
    assert found is not None
    assert found["tokens"] == sum(len(c.token_ids) for group in groups for c in group)
    assert found["max"] < 1e-5
    assert found["routes_differ"] == 0


def test_replay_takes_the_engine_s_routes(sampled: tuple[Policy, list[list[Completion]]]) -> None:
    policy, groups = sampled
    experts = policy.model.c.n_routed_experts

    def turned(c: Completion) -> Completion:
        assert c.routes is not None
        return replace(c, routes=((c.routes + 1) % experts).astype(np.int16))

    others = [[turned(c) for c in group] for group in groups]
    own, replayed = (gap(policy, REQUESTS, others, replay=replay) for replay in (False, True))
    assert own is not None
    assert replayed is not None
    assert own["max"] < 1e-5 < replayed["mean"]
    assert own["routes_differ"] == replayed["routes_differ"] > 0.5


@pytest.mark.skipif(torch.cuda.is_available(), reason="of a CPU")
def test_vllm_is_refused_a_precision_that_it_cannot_run_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", dict)
    log = Log({}, tmp_path / "out.json")
    with pytest.raises(EngineError, match="choose bf16 or fp32"):
        measure(subject_of("tiny", None, None), ["native", "vllm"], ["fp32", "fp8"], REQUESTS, 2, log)
    assert not list(tmp_path.iterdir())


def test_an_engine_without_routes_has_nothing_to_replay(sampled: tuple[Policy, list[list[Completion]]]) -> None:
    policy, groups = sampled
    bare = [[replace(c, routes=None) for c in group] for group in groups]
    assert gap(policy, REQUESTS, bare, replay=True) is None
    found = gap(policy, REQUESTS, bare, replay=False)
    assert found is not None
    assert found["routes_differ"] is None
