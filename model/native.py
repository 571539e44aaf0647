"""The native engine: samples from a compressed KV cache, with the policy's own arithmetic.

Rows are sampled in waves by the policy's modules (`model.waves`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from model import publish
from model.config import ModelConfig
from model.engine import Completion, EngineError, Request, Sampling
from model.publish import Published
from model.sampling import Start, Stops, completed
from model.tokenizer import Tokenizer
from model.transformer import Transformer
from model.waves import Waves


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
        done = iter(
            completed(start, row, [self.version] * len(row.tokens), sampling, limit, self.tokenizer)
            for start, row in zip(starts, sampled, strict=True)
        )
        return [[next(done) for _ in request.seeds] for request in requests]
