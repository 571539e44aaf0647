"""Sampling in waves, by the policy's own modules.

The prompts of a wave are run once each, their cache rows are copied to every row that begins with them, and all rows
take one token a step until each has ended. Rows that have ended are dropped now and then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from model.decoding import Decoder
from model.engine import Routes, Sampling
from model.moe import Routing
from model.sampling import Sampled, Start, Stops, draw, keys
from model.segments import Segments
from model.transformer import Transformer

COMPACT_EVERY = 8


@dataclass
class _Row:
    """What is sampled from one start. ``routes`` [tokens before the last sampled one, MoE layers, K], where they are
    recorded, as they come in."""

    start: Start
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    routes: list[Routes] = field(default_factory=list)
    stopped: bool = False
    ended: bool = False

    def take(self, token: int, logprob: float, end: int, stops: Stops | None) -> None:
        """The next token of a row that has not ended; ``end`` is the end token."""
        self.tokens.append(token)
        self.logprobs.append(logprob)
        # Few tokens can end a completion, so that few rows are decoded.
        self.stopped = token == end or (
            stops is not None
            and stops.may_end(token)
            and stops.first(self.start, self.tokens, len(self.tokens) - 1) is not None
        )
        self.ended = self.stopped or len(self.tokens) == self.start.room

    def sampled(self) -> Sampled:
        return Sampled(self.tokens, self.logprobs, self.stopped, np.concatenate(self.routes) if self.routes else None)


@dataclass
class _Wave:
    """R rows that are being sampled, some of which may have ended. cache is one [R, T, kv_lora_rank + rope] a layer;
    ``lengths`` [R] counts cached tokens; ``keys`` [R, the largest room]."""

    rows: list[_Row]
    lengths: Tensor
    keys: Tensor
    cache: list[Tensor]

    def keep(self, index: list[int]) -> _Wave:
        """These rows of it."""
        rows = [self.rows[i] for i in index]
        return _Wave(rows, self.lengths[index], self.keys[index], [layer[index] for layer in self.cache])


class Waves:
    def __init__(self, model: Transformer, max_rows: int, record_routes: bool) -> None:
        self.model, self.max_rows, self.record_routes = model, max_rows, record_routes

    @torch.inference_mode()
    def sample(self, starts: Sequence[Start], sampling: Sampling, stops: Stops | None = None) -> list[Sampled]:
        """For each start what it sampled."""
        done: list[Sampled] = []
        for first in range(0, len(starts), self.max_rows):
            done += self._wave(starts[first : first + self.max_rows], sampling, stops)
        return done

    def _wave(self, starts: Sequence[Start], sampling: Sampling, stops: Stops | None = None) -> list[Sampled]:
        model, most = self.model, max(start.room for start in starts)
        decoder = Decoder(model)
        rows = [_Row(start) for start in starts]
        wave, hidden = self._prefill(rows, most)
        for step in range(most):
            tokens, logp = draw(model.logits(hidden), wave.keys[:, step], sampling)
            for row, token, logprob in zip(wave.rows, tokens.tolist(), logp.tolist(), strict=True):
                if not row.ended:
                    row.take(token, logprob, model.c.eos_token_id, stops)
            going = [i for i, row in enumerate(wave.rows) if not row.ended]
            if not going:
                break
            if step % COMPACT_EVERY == COMPACT_EVERY - 1 and len(going) < 0.75 * len(wave.rows):
                wave, tokens = wave.keep(going), tokens[going]
            used = int(wave.lengths.max()) + 1
            hidden, routing = decoder.step(tokens, [layer[:, :used] for layer in wave.cache], wave.lengths)
            if self.record_routes:
                for row, routes in zip(wave.rows, stacked(routing).cpu().numpy(), strict=True):
                    if not row.ended:
                        row.routes.append(routes[None])
            wave.lengths = (wave.lengths + 1).clamp_max(model.c.max_position_embeddings - 1)
        return [row.sampled() for row in rows]

    def _prefill(self, rows: Sequence[_Row], most: int) -> tuple[_Wave, Tensor]:
        """Runs each different beginning once; gives rows the routes of its tokens, where they are recorded, and returns
        the wave and the hidden state [R, H] of each row's last token."""
        device = self.model.device
        prompts = list(dict.fromkeys(row.start.ids for row in rows))
        place = {prompt: i for i, prompt in enumerate(prompts)}
        segments = Segments.of([len(p) for p in prompts], device)
        flat = torch.tensor([token for prompt in prompts for token in prompt], device=device)
        out = self.model(flat, segments)
        source = torch.tensor([place[row.start.ids] for row in rows], device=device)
        lengths = torch.tensor(segments.lengths, device=device)
        longest = min(segments.longest + most, self.model.c.max_position_embeddings)
        cache = []
        for cached in out.cached:
            spread = cached.new_zeros(len(prompts), longest, cached.shape[-1])
            spread[segments.ids, segments.positions] = cached
            cache.append(spread[source])
        last = lengths.cumsum(0) - 1
        random = [keys(row.start.seed, row.start.done + most)[row.start.done :] for row in rows]
        if self.record_routes:
            each = stacked(out.routing).cpu().split(list(segments.lengths))
            for row in rows:
                row.routes.append(each[place[row.start.ids]].numpy())
        wave = _Wave(list(rows), lengths[source], torch.from_numpy(np.stack(random)).to(device), cache)
        return wave, out.hidden[last][source]


def stacked(routing: Sequence[Routing]) -> Tensor:
    """The experts of T tokens in every layer, int16 [T, MoE layers, K]."""
    return torch.stack([layer.indices for layer in routing], 1).to(torch.int16)
