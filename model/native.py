"""The native engine: samples in batches from a compressed KV cache with the policy's own modules.

A call is one wave: its prompts are run once each, their cache rows are copied to every seed of the request, and all
rows take one token a step until each has ended. Rows that have ended are dropped now and then. What a row samples
depends on the weights, its prompt and its seed: token i is found by inverting the distribution function at the i-th
number of the seed's own random stream, so that a paused completion goes on as if it had never been paused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model import publish
from model.config import ModelConfig
from model.engine import Completion, Request, Routes, Sampling
from model.moe import Routing
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
    [R, T, kv_lora_rank + rope] a layer; ``lengths`` [R] counts cached tokens; ``room`` [R] the tokens that a row may
    sample in this call; ``uniforms`` [R, the largest room]."""

    which: Tensor
    tokens: Tensor
    lengths: Tensor
    room: Tensor
    alive: Tensor
    uniforms: Tensor
    cache: list[Tensor]

    def keep(self) -> _Rows:
        index = self.alive.nonzero().squeeze(-1)
        return _Rows(
            self.which[index],
            self.tokens[index],
            self.lengths[index],
            self.room[index],
            self.alive[index],
            self.uniforms[index],
            [layer[index] for layer in self.cache],
        )


@dataclass(frozen=True)
class _Start:
    """Where a row begins: the tokens before the first one to sample, its seed, what it has sampled before, and how
    many more tokens it may sample."""

    ids: tuple[int, ...]
    seed: int
    begun: Completion | None
    room: int

    @staticmethod
    def of(request: Request, seed: int, begun: Completion | None, sampling: Sampling, limit: int) -> _Start:
        done = begun.token_ids if begun else ()
        ids = request.prompt_ids + done
        room = min(sampling.max_tokens - len(done), limit - len(ids))
        return _Start(ids, seed, begun, min(room, sampling.pause_after or room))

    @property
    def done(self) -> int:
        return len(self.begun.token_ids) if self.begun else 0


@dataclass
class _Sampled:
    """What W rows of a wave have sampled: ``tokens`` and ``logprobs`` [W, most], of which ``sizes`` [W] count;
    ``stopped`` [W]; ``routes`` int16 [W, most, MoE layers, K] of each sampled token, where they are recorded."""

    tokens: Tensor
    logprobs: Tensor
    sizes: Tensor
    stopped: Tensor
    routes: Tensor | None

    @staticmethod
    def empty(count: int, most: int, model: Transformer, record: bool) -> _Sampled:
        device, c = model.device, model.c
        layers = c.num_hidden_layers - c.first_k_dense_replace
        return _Sampled(
            torch.zeros(count, most, dtype=torch.int64, device=device),
            torch.zeros(count, most, device=device),
            torch.zeros(count, dtype=torch.int64, device=device),
            torch.zeros(count, dtype=torch.bool, device=device),
            torch.zeros(count, most, layers, c.num_experts_per_tok, dtype=torch.int16, device=device)
            if record
            else None,
        )


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
        self.model = Transformer(config).to(device).requires_grad_(False)
        self.tokenizer = tokenizer
        self.max_rows = max_rows
        self.record_routes = record_routes
        self.version = -1

    async def publish(self, weights: Published) -> None:
        publish.accept(self.model, weights)
        self.version = weights.version

    async def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[list[Completion]]:
        return self.sample(requests, sampling)

    async def close(self) -> None:
        """There is nothing to end."""

    @torch.no_grad()
    def sample(self, requests: Sequence[Request], sampling: Sampling) -> list[list[Completion]]:
        """For each request its completions, one a seed, in order. Raises EngineError for an empty prompt or one that
        leaves no room for a token."""
        limit = self.model.c.max_position_embeddings
        for request in requests:
            if not 0 < len(request.prompt_ids) < limit:
                raise EngineError(f"a prompt has {len(request.prompt_ids)} tokens; the model takes 1 to {limit - 1}")
        starts = [
            _Start.of(request, seed, begun, sampling, limit) for request in requests for seed, begun in request.rows()
        ]
        done: list[Completion] = []
        for first in range(0, len(starts), self.max_rows):
            done += self._wave(starts[first : first + self.max_rows], sampling)
        ended = iter(done)
        return [[next(ended) for _ in request.seeds] for request in requests]

    def _wave(self, wave: list[_Start], sampling: Sampling) -> list[Completion]:
        model, most = self.model, max(start.room for start in wave)
        rows, hidden, prompt_routes = self._prefill(wave, most)
        sampled = _Sampled.empty(len(wave), most, model, self.record_routes)
        for step in range(most):
            rows.tokens, logp = draw(model.logits(hidden), rows.uniforms[:, step], sampling)
            sampled.tokens[rows.which, step], sampled.logprobs[rows.which, step] = rows.tokens, logp
            sampled.sizes[rows.which] += rows.alive
            ended = rows.tokens == model.c.eos_token_id
            if sampling.stop:
                ended |= self._stopped(rows, wave, sampled.tokens, step, sampling)
            sampled.stopped[rows.which] |= rows.alive & ended
            rows.alive &= ~ended & (rows.room > step + 1)
            if not rows.alive.any():
                break
            if step % COMPACT_EVERY == COMPACT_EVERY - 1 and rows.alive.float().mean() < 0.75:
                rows = rows.keep()
            used = int(rows.lengths.max()) + 1
            hidden, routing = model.decode(rows.tokens, [layer[:, :used] for layer in rows.cache], rows.lengths)
            if sampled.routes is not None:
                sampled.routes[rows.which, step] = stacked(routing)
            rows.lengths = (rows.lengths + 1).clamp_max(model.c.max_position_embeddings - 1)
        return self._completions(wave, sampled, prompt_routes, sampling)

    def _prefill(self, wave: list[_Start], most: int) -> tuple[_Rows, Tensor, list[Routes] | None]:
        """Runs each different beginning once; returns a row for every start, the hidden state [R, H] of its last token
        and, where they are recorded, the routes of its tokens."""
        device = self.model.device
        prompts = list(dict.fromkeys(start.ids for start in wave))
        place = {prompt: i for i, prompt in enumerate(prompts)}
        segments = Segments.of([len(p) for p in prompts], device)
        flat = torch.tensor([token for prompt in prompts for token in prompt], device=device)
        out = self.model(flat, segments)
        source = torch.tensor([place[start.ids] for start in wave], device=device)
        lengths = torch.tensor(segments.lengths, device=device)
        longest = min(segments.longest + most, self.model.c.max_position_embeddings)
        cache = []
        for cached in out.cached:
            spread = cached.new_zeros(len(prompts), longest, cached.shape[-1])
            spread[segments.ids, segments.positions] = cached
            cache.append(spread[source])
        last = lengths.cumsum(0) - 1
        random = [uniforms(start.seed, start.done + most)[start.done :] for start in wave]
        rows = _Rows(
            which=torch.arange(len(wave), device=device),
            tokens=torch.zeros(len(wave), dtype=torch.int64, device=device),
            lengths=lengths[source],
            room=torch.tensor([start.room for start in wave], device=device),
            alive=torch.ones(len(wave), dtype=torch.bool, device=device),
            uniforms=torch.from_numpy(np.stack(random)).to(device),
            cache=cache,
        )
        routes = None
        if self.record_routes:
            each = stacked(out.routing).cpu().split(list(segments.lengths))
            routes = [each[place[start.ids]].numpy() for start in wave]
        return rows, out.hidden[last][source], routes

    def _stopped(self, rows: _Rows, wave: list[_Start], tokens: Tensor, step: int, sampling: Sampling) -> Tensor:
        """Which rows' text now contains a stop string; only the tail that could hold a new one is decoded."""
        tail = max(len(s.encode()) for s in sampling.stop) + 1
        found = []
        for i in rows.which.tolist():
            begun = wave[i].begun
            before = begun.token_ids[-tail:] if begun else ()
            text = self.tokenizer.decode([*before, *tokens[i, : step + 1].tolist()][-tail:])
            found.append(any(s in text for s in sampling.stop))
        return torch.tensor(found, device=rows.tokens.device)

    def _completions(
        self, wave: list[_Start], sampled: _Sampled, prompt_routes: list[Routes] | None, sampling: Sampling
    ) -> list[Completion]:
        tokens, logprobs = sampled.tokens.tolist(), sampled.logprobs.tolist()
        sizes, stopped = sampled.sizes.tolist(), sampled.stopped.tolist()
        routes = None if sampled.routes is None else sampled.routes.cpu().numpy()
        limit = self.model.c.max_position_embeddings
        done = []
        for i, (start, n) in enumerate(zip(wave, sizes, strict=True)):
            before = start.begun or Completion((), (), (), "paused", "")
            ids = before.token_ids + tuple(tokens[i][:n])
            full = len(ids) >= sampling.max_tokens or len(start.ids) + n >= limit
            own = None
            if routes is not None and prompt_routes is not None:
                kept = np.zeros_like(prompt_routes[i][:0]) if before.routes is None else before.routes
                own = np.concatenate([kept, prompt_routes[i][len(kept) :], routes[i, : n - 1]])
            done.append(
                Completion(
                    ids,
                    before.logprobs + tuple(logprobs[i][:n]),
                    before.versions + (self.version,) * n,
                    "stop" if stopped[i] else "length" if full else "paused",
                    self.tokenizer.decode(ids),
                    own,
                )
            )
        return done


def stacked(routing: Sequence[Routing]) -> Tensor:
    """The experts of T tokens in every layer, int16 [T, MoE layers, K]."""
    return torch.stack([layer.indices for layer in routing], 1).to(torch.int16)


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
