"""The native engine: samples in batches from a compressed KV cache with the policy's own modules.

A call is one wave: its prompts are run once each, their cache rows are copied to every seed of the request, and all
rows take one token a step until each has ended. Rows that have ended are dropped now and then. What a row samples
depends on the weights, its prompt and its seed: token i is found by inverting the distribution function at the i-th
number of the seed's own random stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from model import publish
from model.config import ModelConfig
from model.engine import Completion, Request, Sampling
from model.publish import Published
from model.segments import Segments
from model.tokenizer import Tokenizer
from model.transformer import Transformer

COMPACT_EVERY = 8


class EngineError(ValueError):
    """A request that the engine cannot serve."""

    exit_status = 2


@dataclass
class _Rows:
    """The rows still sampling, R of them. ``which`` [R] is each row's place in the wave; cache is one
    [R, T, kv_lora_rank + rope] a layer; ``lengths`` [R] counts cached tokens; ``uniforms`` [R, max_tokens]."""

    which: Tensor
    tokens: Tensor
    lengths: Tensor
    alive: Tensor
    uniforms: Tensor
    cache: list[Tensor]

    def keep(self) -> _Rows:
        index = self.alive.nonzero().squeeze(-1)
        return _Rows(
            self.which[index],
            self.tokens[index],
            self.lengths[index],
            self.alive[index],
            self.uniforms[index],
            [layer[index] for layer in self.cache],
        )


class NativeEngine:
    """``max_rows`` bounds how many completions are sampled at once."""

    def __init__(self, config: ModelConfig, tokenizer: Tokenizer, *, max_rows: int = 512, device: str = "cpu") -> None:
        self.model = Transformer(config).to(device).requires_grad_(False)
        self.tokenizer = tokenizer
        self.max_rows = max_rows
        self.version = -1

    async def publish(self, weights: Published) -> None:
        publish.accept(self.model, weights)
        self.version = weights.version

    async def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[list[Completion]]:
        return self.sample(requests, sampling)

    @torch.no_grad()
    def sample(self, requests: Sequence[Request], sampling: Sampling) -> list[list[Completion]]:
        """For each request its completions, one a seed, in order. Raises EngineError for an empty prompt or one that
        leaves no room for a token."""
        limit = self.model.c.max_position_embeddings
        for request in requests:
            if not 0 < len(request.prompt_ids) < limit:
                raise EngineError(f"a prompt has {len(request.prompt_ids)} tokens; the model takes 1 to {limit - 1}")
        rows = [(request, seed) for request in requests for seed in request.seeds]
        done: list[Completion] = []
        for start in range(0, len(rows), self.max_rows):
            done += self._wave(rows[start : start + self.max_rows], sampling)
        ended = iter(done)
        return [[next(ended) for _ in request.seeds] for request in requests]

    def _wave(self, wave: list[tuple[Request, int]], sampling: Sampling) -> list[Completion]:
        model, count, budget = self.model, len(wave), sampling.max_tokens
        rows, hidden = self._prefill(wave, sampling)
        tokens = torch.zeros(count, budget, dtype=torch.int64, device=model.device)
        logprobs = torch.zeros(count, budget, device=model.device)
        sizes = torch.zeros(count, dtype=torch.int64, device=model.device)
        stopped = torch.zeros(count, dtype=torch.bool, device=model.device)
        for step in range(budget):
            rows.tokens, logp = draw(model.logits(hidden), rows.uniforms[:, step], sampling)
            tokens[rows.which, step], logprobs[rows.which, step] = rows.tokens, logp
            sizes[rows.which] += rows.alive
            ended = rows.tokens == model.c.eos_token_id
            if sampling.stop:
                ended |= self._stopped(rows, tokens, step, sampling)
            stopped[rows.which] |= rows.alive & ended
            rows.alive &= ~ended & (rows.lengths + 1 < model.c.max_position_embeddings)
            if not rows.alive.any() or step + 1 == budget:
                break
            if step % COMPACT_EVERY == COMPACT_EVERY - 1 and rows.alive.float().mean() < 0.75:
                rows = rows.keep()
            used = int(rows.lengths.max()) + 1
            hidden = model.decode(rows.tokens, [layer[:, :used] for layer in rows.cache], rows.lengths)
            rows.lengths = (rows.lengths + 1).clamp_max(model.c.max_position_embeddings - 1)
        ended_well = stopped.tolist()
        return [
            self._completion(ids[:n], logps[:n], "stop" if ended_well[i] else "length")
            for i, (ids, logps, n) in enumerate(zip(tokens.tolist(), logprobs.tolist(), sizes.tolist(), strict=True))
        ]

    def _prefill(self, wave: list[tuple[Request, int]], sampling: Sampling) -> tuple[_Rows, Tensor]:
        """Runs each different prompt once; returns a row for every seed and the hidden state [R, H] of its prompt's
        last token."""
        device, budget = self.model.device, sampling.max_tokens
        prompts = list(dict.fromkeys(request.prompt_ids for request, _ in wave))
        place = {prompt: i for i, prompt in enumerate(prompts)}
        segments = Segments.of([len(p) for p in prompts], device)
        flat = torch.tensor([token for prompt in prompts for token in prompt], device=device)
        out = self.model(flat, segments)
        source = torch.tensor([place[request.prompt_ids] for request, _ in wave], device=device)
        lengths = torch.tensor(segments.lengths, device=device)
        longest = min(segments.longest + budget, self.model.c.max_position_embeddings)
        cache = []
        for cached in out.cached:
            spread = cached.new_zeros(len(prompts), longest, cached.shape[-1])
            spread[segments.ids, segments.positions] = cached
            cache.append(spread[source])
        last = lengths.cumsum(0) - 1
        rows = _Rows(
            which=torch.arange(len(wave), device=device),
            tokens=torch.zeros(len(wave), dtype=torch.int64, device=device),
            lengths=lengths[source],
            alive=torch.ones(len(wave), dtype=torch.bool, device=device),
            uniforms=torch.from_numpy(np.stack([uniforms(seed, budget) for _, seed in wave])).to(device),
            cache=cache,
        )
        return rows, out.hidden[last][source]

    def _stopped(self, rows: _Rows, tokens: Tensor, step: int, sampling: Sampling) -> Tensor:
        """Which rows' text now contains a stop string; only the tail that could hold a new one is decoded."""
        tail = max(len(s.encode()) for s in sampling.stop) + 1
        texts = [
            self.tokenizer.decode(tokens[i, max(0, step + 1 - tail) : step + 1].tolist()) for i in rows.which.tolist()
        ]
        return torch.tensor([any(s in text for s in sampling.stop) for text in texts], device=rows.tokens.device)

    def _completion(self, ids: list[int], logprobs: list[float], reason: Literal["stop", "length"]) -> Completion:
        versions = (self.version,) * len(ids)
        return Completion(tuple(ids), tuple(logprobs), versions, reason, self.tokenizer.decode(ids))


def uniforms(seed: int, count: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """The first ``count`` numbers in [0, 1) of the stream that a seed names (Philox, a counter-based generator)."""
    return np.random.Generator(np.random.Philox(key=seed)).random(count)


def draw(logits: Tensor, u: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Samples by inverting the distribution function. logits FP32 [R, V], u FP64 [R] in [0, 1) -> tokens [R] and
    their log-probabilities [R] under the distribution before top-p."""
    if sampling.temperature == 0:
        tokens = logits.argmax(-1)
        return tokens, logits.log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    logp = (logits if sampling.temperature == 1 else logits / sampling.temperature).log_softmax(-1)
    probs = logp.exp().double()
    if sampling.top_p < 1:
        ranked, order = probs.sort(-1, descending=True)
        ranked = ranked.masked_fill(ranked.cumsum(-1) - ranked >= sampling.top_p, 0.0)
        probs = torch.zeros_like(probs).scatter(-1, order, ranked)
    cdf = probs.cumsum(-1)
    # u < 1 in FP64 keeps u * total below the total, so the first sum above it ends with a token that is possible.
    tokens = torch.searchsorted(cdf, (u * cdf[:, -1]).unsqueeze(-1), right=True).squeeze(-1)
    return tokens, logp.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
