"""The native engine: samples from a compressed KV cache, with the policy's own arithmetic.

Rows are sampled in waves by the policy's modules (`model.waves`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from model import publish
from model.config import ModelConfig
from model.engine import Completion, Request, Sampling
from model.publish import Published
from model.sampling import Sampled, Start, Stops
from model.tokenizer import Tokenizer
from model.transformer import Transformer
from model.waves import Waves


class EngineError(ValueError):
    """A request that the engine cannot serve."""

    exit_status = 2


class NativeEngine:
    """``max_rows`` bounds how many completions are sampled at once; ``record_routes`` keeps each token's experts."""

    def __init__(
        self,
        config: ModelConfig,
        tokenizer: Tokenizer,
        *,
        max_rows: int = 512,
        device: str = "cpu",
        record_routes: bool = False,
    ) -> None:
        self.config, self.device = config, device
        self.tokenizer = tokenizer
        self.max_rows = max_rows
        self.record_routes = record_routes
        self.version = -1

    @cached_property
    def model(self) -> Transformer:
        """The modules that waves are sampled with."""
        return Transformer(self.config).to(self.device).requires_grad_(False)

    async def publish(self, weights: Published) -> None:
        publish.accept(self.model, weights)
        self.version = weights.version

    async def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[list[Completion]]:
        return self.sample(requests, sampling)

    async def close(self) -> None:
        """There is nothing to end."""

    def sample(self, requests: Sequence[Request], sampling: Sampling) -> list[list[Completion]]:
        """For each request its completions, one a seed, in order. Raises EngineError for an empty prompt or one that
        leaves no room for a token."""
        limit = self.config.max_position_embeddings
        for request in requests:
            if not 0 < len(request.prompt_ids) < limit:
                raise EngineError(f"a prompt has {len(request.prompt_ids)} tokens; the model takes 1 to {limit - 1}")
        starts = [
            Start.of(request, seed, begun, sampling, limit) for request in requests for seed, begun in request.rows()
        ]
        waves = Waves(self.model, self.max_rows, self.record_routes)
        sampled = waves.sample(starts, sampling, Stops(self.tokenizer, sampling.stop))
        done = iter(self._completion(*row, sampling) for row in zip(starts, sampled, strict=True))
        return [[next(done) for _ in request.seeds] for request in requests]

    def _completion(self, start: Start, sampled: Sampled, sampling: Sampling) -> Completion:
        """A row's tokens behind those that it had begun with, whose routes are kept as they were sampled."""
        before, n = start.begun or Completion((), (), (), "paused", ""), len(sampled.tokens)
        ids = before.token_ids + tuple(sampled.tokens)
        full = len(ids) >= sampling.max_tokens or len(start.ids) + n >= self.config.max_position_embeddings
        routes = sampled.routes
        if routes is not None and before.routes is not None:
            routes = np.concatenate([before.routes, routes[len(before.routes) :]])
        return Completion(
            ids,
            before.logprobs + tuple(sampled.logprobs),
            before.versions + (self.version,) * n,
            "stop" if sampled.stopped else "length" if full else "paused",
            self.tokenizer.decode(ids),
            routes,
        )
