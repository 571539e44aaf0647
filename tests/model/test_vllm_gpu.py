"""vLLM as an engine on a CUDA device: its log-probabilities and routes, the proof of a publish, and its sleep."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import pytest
import torch

from jobs.bench.gap import gap
from jobs.bench.rollout import SHAPES
from model import checkpoint, publish
from model.config import ModelConfig
from model.engine import Completion, Request, Sampling
from model.policy import OptimizerSettings, Policy
from model.publish import PublishError
from model.tokenizer import train
from model.transformer import Transformer
from model.transport import Shared
from model.vllm_engine import VllmEngine
from tests.model.test_publish import damaged, one_bit

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.vllm,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
TAKEN = {"num_attention_heads": 16, "qk_nope_head_dim": 128, "v_head_dim": 128}
"""Sizes that vLLM's kernels for latent attention take on a GPU."""
REQUESTS = [Request(tuple(range(5 * i + 2, 5 * i + 12)), (2 * i, 2 * i + 1)) for i in range(8)]


@pytest.fixture(scope="module", params=["bf16", "fp8"])
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Policy, VllmEngine]]:
    pytest.importorskip("vllm", reason="needs vLLM")
    folder = tmp_path_factory.mktemp("vllm")
    policy = Policy(
        Transformer(ModelConfig(**{**SHAPES["tiny"], **TAKEN}, eos_token_id=1)),
        train(["a"], 300),
        OptimizerSettings(),
        request.param,
    )
    checkpoint.save(policy.model, policy.tokenizer, folder)
    os.environ.setdefault("VLLM_DEEP_GEMM_WARMUP", "skip")  # which compiles for minutes what is never met here
    arguments = {"enable_sleep_mode": True, "gpu_memory_utilization": 0.3, "enforce_eager": True}
    engine = VllmEngine(folder, request.param, max_rows=64, record_routes=True, arguments=arguments)
    asyncio.run(engine.publish(policy.publish(request.param)))
    yield policy, engine
    asyncio.run(engine.close())


def test_replayed_routes_bring_sampler_and_trainer_together(pair: tuple[Policy, VllmEngine]) -> None:
    policy, engine = pair
    groups = asyncio.run(engine.generate(REQUESTS, Sampling(max_tokens=64)))
    own, replayed = (gap(policy, REQUESTS, groups, replay=replay) for replay in (False, True))
    assert own is not None
    assert replayed is not None
    assert own["routes_differ"] < 0.5
    assert replayed["mean"] < min(0.05, 1.1 * own["mean"])


def test_a_sleeping_vllm_frees_its_memory_and_wakes_the_same(pair: tuple[Policy, VllmEngine]) -> None:
    policy, engine = pair
    first = asyncio.run(engine.generate(REQUESTS, Sampling(0.0, max_tokens=16)))
    asleep = torch.cuda.mem_get_info()[0]
    asyncio.run(engine.publish(policy.publish(engine.precision)))
    awake = torch.cuda.mem_get_info()[0]
    assert asleep - awake > 2**30
    again = asyncio.run(engine.generate(REQUESTS, Sampling(0.0, max_tokens=16)))
    gaps = [gap for x, y in zip(first, again, strict=True) for pair in zip(x, y, strict=True) for gap in apart(*pair)]
    assert len(gaps) >= 64  # of 256: a near tie may fall otherwise in another batch
    assert sum(gaps) / len(gaps) < 0.05


def apart(one: Completion, other: Completion) -> Iterator[float]:
    """How far their log-probabilities are from each other, as long as their tokens are the same."""
    for a, b, x, y in zip(one.token_ids, other.token_ids, one.logprobs, other.logprobs, strict=False):
        if a != b:
            return
        yield abs(x - y)


def test_damage_is_caught(pair: tuple[Policy, VllmEngine]) -> None:
    policy, engine = pair
    weights = policy.publish(engine.precision)
    name = "layers.1.mlp.experts.down_proj.weight"
    with pytest.raises(PublishError, match=name):
        asyncio.run(engine.publish(damaged(weights, name, one_bit)))
    asyncio.run(engine.publish(publish.publish(policy.model, 2, engine.precision)))


def test_weights_on_the_same_gpu_are_opened_by_the_workers(pair: tuple[Policy, VllmEngine]) -> None:
    policy, engine = pair
    shared = Shared()
    asyncio.run(engine.publish(policy.publish(engine.precision, shared.place)))
    weights = policy.publish(engine.precision, shared.place)
    name = "layers.1.mlp.experts.down_proj.weight"
    one_bit(shared.kept[1][2].part.tensors[name])
    with pytest.raises(PublishError, match=name):
        asyncio.run(engine.publish(weights))
    asyncio.run(engine.publish(policy.publish(engine.precision)))
