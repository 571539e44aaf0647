"""The native engine: samples from a compressed KV cache, with the policy's own arithmetic.

On a GPU, in BF16 and FP8, rows are decoded by CUDA graphs in continuous batches (`model.graphs`); elsewhere in waves by
the policy's modules (`model.waves`), with drafts by the MTP module where they are asked for (`model.drafting`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from model import publish
from model.config import ModelConfig, Precision
from model.drafting import DraftedWaves
from model.engine import Completion, EngineError, Request, Sampling
from model.publish import Published, PublishError, Tolerance
from model.sampling import Start, Stops, completed
from model.tokenizer import Tokenizer
from model.transformer import Transformer
from model.waves import Waves

if TYPE_CHECKING:
    from model.graphs import Graphs
    from model.serving import Served
    from model.walk import Walk

OTHER_KERNELS = Tolerance(6.0, 0.4, 0.3)
"""A trainer without kernels rounds elsewhere in BF16 and FP8 than an engine on a GPU (measured on random models: in FP8
0.14 on average in the end, and behind a layer 0.08; in BF16 0.009)."""
CACHE_SHARE = 0.7
"""Of the memory that is free when a GPU engine gets its first weights, at most so much goes to its cache."""


class NativeEngine:
    """``max_rows`` bounds how many completions are sampled at once; ``record_routes`` keeps each token's experts.
    ``draft`` lets the model's first MTP module guess tokens, which changes how fast they come and nothing else."""

    def __init__(
        self,
        config: ModelConfig,
        tokenizer: Tokenizer,
        *,
        max_rows: int = 512,
        device: str = "cpu",
        record_routes: bool = False,
        draft: bool = False,
    ) -> None:
        """Raises EngineError where drafts are asked of a model without an MTP module."""
        if draft and not config.num_nextn_predict_layers:
            raise EngineError("drafts need a model with an MTP module: num_nextn_predict_layers is 0")
        self.config, self.device = config, device
        self.tokenizer = tokenizer
        self.max_rows = max_rows
        self.record_routes = record_routes
        self.draft = draft
        self.version = -1
        self.graphs: Graphs | None = None
        self.walk: Walk | None = None

    @cached_property
    def model(self) -> Transformer:
        """The modules that waves are sampled with."""
        return Transformer(self.config).to(self.device).requires_grad_(False)

    async def publish(self, weights: Published) -> None:
        if self._has_kernels(weights.precision):
            self._serve(weights)
        else:
            publish.accept(self.model, weights)
        self.version = weights.version

    def share(self, served: Served, version: int) -> None:
        """Samples from now on with weights that a trainer keeps in the memory of this process (`model.exact`), without
        a copy; to be called again when it has renewed them."""
        from model.graphs import Graphs

        if self.graphs is None or self.graphs.served is not served:
            free = torch.cuda.mem_get_info()[0] if served.device.type == "cuda" else 2**30
            self.graphs = Graphs(served, self.max_rows, int(CACHE_SHARE * free), self.draft, self.record_routes)
        self.version = version

    def _has_kernels(self, precision: Precision) -> bool:
        return publish.has_kernels(self.config, precision, torch.device(self.device))

    def _serve(self, weights: Published) -> None:
        """Loads new weights into the kernels' memory and checks digests and probe. Raises PublishError."""
        from model.replayed import moving
        from model.serving import Served

        if self.graphs is not None and self.graphs.served.precision != weights.precision:
            self.graphs = None
        served = (
            self.graphs.served if self.graphs else Served(self.config, weights.precision, torch.device(self.device))
        )
        served.begin()
        walk = self._walk(served, weights.probe) if weights.probe else None
        arriving = publish.Arriving(weights, served.take, walk)
        try:
            with moving(served.device):
                for _ in arriving:
                    pass
            served.complete()
        except KeyError as error:
            raise PublishError(f"published tensors do not fit the engine's model: {error} is missing") from None
        if weights.probe:
            arriving.check(publish.ROUNDING if weights.kernels else OTHER_KERNELS)
        self.share(served, weights.version)

    def _walk(self, served: Served, prompt: tuple[int, ...]) -> Walk:
        """That of the last publish where it is the same."""
        from model.walk import Walk

        if self.walk is None or (self.walk.served, self.walk.prompt) != (served, prompt):
            self.walk = Walk(served, prompt)
        return self.walk

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
        sampler = self.graphs or self._waves()
        sampled = sampler.sample(starts, sampling, Stops(self.tokenizer, sampling.stop) if sampling.stop else None)
        done = iter(
            completed(start, row, [self.version] * len(row.tokens), sampling, limit, self.tokenizer)
            for start, row in zip(starts, sampled, strict=True)
        )
        return [[next(done) for _ in request.seeds] for request in requests]

    def _waves(self) -> Waves | DraftedWaves:
        if self.draft:
            return DraftedWaves(self.model, self.max_rows, self.record_routes)
        return Waves(self.model, self.max_rows, self.record_routes)
