"""Stand-ins for the expensive parts, for tests here and for people who test their own rewards and loops."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from model.config import ModelConfig
from model.engine import Completion, Request, Sampling
from model.moe import ExpertLoad
from model.policy import OptimizerSettings, Policy
from model.tokenizer import Tokenizer, train
from model.transformer import build
from rewards import Sample, Score
from rl.rollout import Group
from rl.step import Metrics

TINY = ModelConfig(
    vocab_size=320,
    hidden_size=32,
    intermediate_size=48,
    moe_intermediate_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    kv_lora_rank=16,
    qk_nope_head_dim=8,
    qk_rope_head_dim=8,
    v_head_dim=8,
    n_routed_experts=4,
    num_experts_per_tok=2,
    max_position_embeddings=96,
    initializer_range=0.1,
)


LOADABLE: dict[str, int] = {
    "moe_intermediate_size": 32,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 16,
    "v_head_dim": 16,
}
"""What makes a tiny shape one that vLLM's CPU kernels take."""

SERVED: dict[str, int] = {
    "hidden_size": 256, "intermediate_size": 256, "moe_intermediate_size": 128, "q_lora_rank": 128, "kv_lora_rank": 128,
    "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
}  # fmt: skip
"""What makes it one that the engine's GPU kernels and FP8 training take."""


def tiny_tokenizer() -> Tokenizer:
    return train(["User: What is 1+2? Assistant: \\boxed{3}"] * 4, 300)


def tiny_policy(seed: int = 0, lr: float = 1e-2, settings: OptimizerSettings | None = None, **changes: Any) -> Policy:
    """A policy of a few thousand weights; ``changes`` go to its ModelConfig."""
    from dataclasses import replace

    tokenizer = tiny_tokenizer()
    config = replace(TINY, bos_token_id=tokenizer.bos, eos_token_id=tokenizer.eos, **changes)
    return Policy(build(config, seed), tokenizer, settings or OptimizerSettings(lr=lr))


class FakeEngine:
    """Answers each request with a text of ``say(request, seed)``, in pieces where `pause_after` asks for them; counts
    publishes; sleeps ``delay(request)`` seconds, so that tests can make one group slow."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        say: Callable[[Request, int], str],
        delay: Callable[[Request], float] = lambda request: 0.0,
    ) -> None:
        self.tokenizer, self.say, self.delay = tokenizer, say, delay
        self.version = -1
        self.calls: list[list[Request]] = []

    async def publish(self, weights: Any) -> None:
        self.version = weights if isinstance(weights, int) else weights.version

    async def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[list[Completion]]:
        self.calls.append(list(requests))
        version = self.version
        await asyncio.sleep(max((self.delay(request) for request in requests), default=0.0))
        return [
            [self._completion(self.say(r, seed), version, begun, sampling.pause_after) for seed, begun in r.rows()]
            for r in requests
        ]

    async def close(self) -> None:
        return None

    def _completion(self, text: str, version: int, begun: Completion | None, pause: int | None) -> Completion:
        whole = (*self.tokenizer.encode(text), self.tokenizer.eos)
        versions = begun.versions if begun else ()
        ids = whole if pause is None else whole[: len(versions) + pause]
        versions += (version,) * (len(ids) - len(versions))
        ended = len(ids) == len(whole)
        text = text if ended else self.tokenizer.decode(ids)
        return Completion(ids, (-1.0,) * len(ids), versions, "stop" if ended else "paused", text)


class FakeReward:
    """Scores with a plain function of the problem's fields and the response; None means "could not judge"."""

    def __init__(self, score: Callable[[dict[str, Any], str], float | None]) -> None:
        self.score = score

    async def __call__(self, samples: Sequence[Sample], /) -> list[Score]:
        values = [self.score(dict(sample.problem), sample.response) for sample in samples]
        return [Score(None, "error", detail="fake") if v is None else Score(v, parts={"accuracy": v}) for v in values]

    async def close(self) -> None:
        return None


class FakeTrainer:
    """Counts versions, and keeps every group that it was given."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.version = 0
        self.trained: list[list[Group]] = []

    async def update(self, groups: Sequence[Group]) -> Metrics:
        await asyncio.sleep(self.seconds)
        self.version += 1
        self.trained.append(list(groups))
        return {"loss": 0.0}

    async def expert_load(self) -> ExpertLoad:
        return {1: [self.version, 0]}

    async def publish(self) -> int:
        return self.version

    async def save(self, folder: Path) -> None:
        (folder / "version").write_text(str(self.version))

    async def restore(self, folder: Path) -> None:
        self.version = int((folder / "version").read_text())
