"""Sampling in waves, by the policy's own modules.

The prompts of a wave are run once each, and their cache rows are copied to every row that begins with them, so that all
end at the same place. All rows take one token a step until each has ended. Rows that have ended are dropped now and
then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model import rope
from model.decoding import Decoder, Reach
from model.engine import Routes, Sampling
from model.moe import Routing
from model.sampling import Sampled, Start, Stops, draw, keys
from model.segments import Segments
from model.transformer import Transformer

COMPACT_EVERY = 8
Numbers = np.ndarray[tuple[int], np.dtype[np.int64]]


class _Samples:
    """What the rows of a call have sampled: the first ``counts`` [rows] of ``tokens`` int32 and ``logprobs`` FP32
    [rows, the largest room]. ``routes`` of each row, where they are recorded, as they come in: int16 [tokens, MoE
    layers, K]."""

    def __init__(self, starts: Sequence[Start]) -> None:
        self.starts, count = starts, len(starts)
        self.rooms = np.array([start.room for start in starts])
        self.tokens = np.zeros((count, self.rooms.max()), np.int32)
        self.logprobs = np.zeros(self.tokens.shape, np.float32)
        self.counts = np.zeros(count, np.int64)
        self.stopped, self.ended = np.zeros(count, bool), np.zeros(count, bool)
        self.routes: list[list[Routes]] = [[] for _ in starts]

    def take(self, rows: Numbers, tokens: Tensor, logprobs: Tensor, end: int, stops: Stops | None) -> None:
        """The next token of each of these rows; those that have ended stay as they are. ``end`` is the end token."""
        going = ~self.ended[rows]
        rows, new = rows[going], tokens.cpu().numpy()[going]
        step = self.counts[rows]
        self.tokens[rows, step], self.logprobs[rows, step] = new, logprobs.cpu().numpy()[going]
        self.counts[rows] += 1
        self.stopped[rows] = new == end
        if stops is not None:
            for row, token in zip(rows.tolist(), new.tolist(), strict=True):
                # Few tokens can end a completion, so that few rows are decoded.
                if stops.may_end(token):
                    taken = self.tokens[row, : self.counts[row]].tolist()
                    self.stopped[row] |= stops.first(self.starts[row], taken, len(taken) - 1) is not None
        self.ended[rows] = self.stopped[rows] | (self.counts[rows] == self.rooms[rows])

    def sampled(self) -> list[Sampled]:
        return [self._row(i, int(n)) for i, n in enumerate(self.counts)]

    def _row(self, i: int, n: int) -> Sampled:
        routes = np.concatenate(self.routes[i]) if self.routes[i] else None
        return Sampled(self.tokens[i, :n].tolist(), self.logprobs[i, :n].tolist(), bool(self.stopped[i]), routes)


@dataclass
class _Wave:
    """R rows that are being sampled, some of which may have ended; ``rows`` [R] are their numbers in the call. cache is
    one [R, T, kv_lora_rank + rope] a layer, in which every row's next token goes to ``place``, and ``mask`` [R, 1, T]
    is -inf before the beginning of a shorter one, else 0. ``lengths`` [R] counts a row's tokens in the cache; ``keys``
    [R, the largest room]."""

    rows: Numbers
    lengths: Tensor
    keys: Tensor
    cache: list[Tensor]
    mask: Tensor
    place: int

    def keep(self, index: Numbers) -> _Wave:
        """These rows of it, which have not ended, from the beginning of the longest on."""
        lengths = self.lengths[index]
        first = self.place - int(lengths.max())
        cache, mask = [layer[index, first:] for layer in self.cache], self.mask[index, :, first:]
        return _Wave(self.rows[index], lengths, self.keys[index], cache, mask, self.place - first)


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
        decoder, samples = Decoder(model), _Samples(starts)
        wave, hidden = self._prefill(samples, most)
        for step in range(most):
            tokens, logp = draw(model.logits(hidden), wave.keys[:, step], sampling)
            samples.take(wave.rows, tokens, logp, model.c.eos_token_id, stops)
            going = np.flatnonzero(~samples.ended[wave.rows])
            if not len(going):
                break
            if step % COMPACT_EVERY == COMPACT_EVERY - 1 and len(going) < 0.75 * len(wave.rows):
                wave, tokens = wave.keep(going), tokens[going]
            turns, used = rope.rotations(wave.lengths, model.freqs), wave.place + 1
            places = torch.full_like(tokens, wave.place)
            hidden, routing = decoder.step(tokens, wave.cache, Reach(turns, places, wave.mask, used))
            if self.record_routes:
                for row, routes in zip(wave.rows, stacked(routing).cpu().numpy(), strict=True):
                    if not samples.ended[row]:
                        samples.routes[row].append(routes[None])
            wave.lengths, wave.place = (wave.lengths + 1).clamp_max(model.c.max_position_embeddings - 1), used
        return samples.sampled()

    def _prefill(self, samples: _Samples, most: int) -> tuple[_Wave, Tensor]:
        """Runs each different beginning once; gives rows the routes of its tokens, where they are recorded, and returns
        the wave and the hidden state [R, H] of each row's last token."""
        device, starts = self.model.device, samples.starts
        prompts = list(dict.fromkeys(start.ids for start in starts))
        number = {prompt: i for i, prompt in enumerate(prompts)}
        segments = Segments.of([len(p) for p in prompts], device)
        flat = torch.tensor([token for prompt in prompts for token in prompt], device=device)
        out = self.model(flat, segments)
        source = torch.tensor([number[start.ids] for start in starts], device=device)
        lengths = torch.tensor(segments.lengths, device=device)
        places = segments.positions + (segments.longest - lengths)[segments.ids]
        width = segments.longest + most
        mask = out.hidden.new_zeros(len(prompts), 1, width)
        before = torch.arange(width, device=device) < (segments.longest - lengths)[:, None, None]
        mask.masked_fill_(before, float("-inf"))
        cache = []
        for cached in out.cached:
            spread = cached.new_zeros(len(prompts), width, cached.shape[-1])
            spread[segments.ids, places] = cached
            cache.append(spread[source])
        random = [keys(start.seed, start.done + most)[start.done :] for start in starts]
        if self.record_routes:
            each = stacked(out.routing).cpu().split(list(segments.lengths))
            samples.routes = [[each[number[start.ids]].numpy()] for start in starts]
        own, rows = torch.from_numpy(np.stack(random)).to(device), np.arange(len(starts))
        wave = _Wave(rows, lengths[source], own, cache, mask[source], segments.longest)
        return wave, out.hidden[lengths.cumsum(0) - 1][source]


def stacked(routing: Sequence[Routing]) -> Tensor:
    """The experts of T tokens in every layer, int16 [T, MoE layers, K]."""
    return torch.stack([layer.indices for layer in routing], 1).to(torch.int16)
