"""Sampling in waves, by the policy's own modules.

The prompts of a wave are run once each, their cache rows are copied to every row that begins with them, and all rows
take one token a step until each has ended. Rows that have ended are dropped now and then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model.engine import Routes, Sampling
from model.moe import Routing
from model.sampling import Sampled, Start, Stops, draw, keys
from model.segments import Segments
from model.transformer import Transformer

COMPACT_EVERY = 8


@dataclass
class _Rows:
    """The rows still sampling, R of them. ``which`` [R] is each row's place in the wave; cache is one
    [R, T, kv_lora_rank + rope] a layer; ``lengths`` [R] counts cached tokens; ``room`` [R] the tokens that a row may
    sample in this call; ``keys`` [R, the largest room]."""

    which: Tensor
    tokens: Tensor
    lengths: Tensor
    room: Tensor
    alive: Tensor
    keys: Tensor
    cache: list[Tensor]

    def keep(self) -> _Rows:
        index = self.alive.nonzero().squeeze(-1)
        return _Rows(
            self.which[index],
            self.tokens[index],
            self.lengths[index],
            self.room[index],
            self.alive[index],
            self.keys[index],
            [layer[index] for layer in self.cache],
        )


@dataclass
class _Drawn:
    """What W rows of a wave have drawn: ``tokens`` and ``logprobs`` [W, most], of which ``sizes`` [W] count;
    ``stopped`` [W]; ``routes`` int16 [W, most, MoE layers, K] of each sampled token, where they are recorded."""

    tokens: Tensor
    logprobs: Tensor
    sizes: Tensor
    stopped: Tensor
    routes: Tensor | None

    @staticmethod
    def empty(count: int, most: int, model: Transformer, record: bool) -> _Drawn:
        device, c = model.device, model.c
        layers = c.num_hidden_layers - c.first_k_dense_replace
        return _Drawn(
            torch.zeros(count, most, dtype=torch.int64, device=device),
            torch.zeros(count, most, device=device),
            torch.zeros(count, dtype=torch.int64, device=device),
            torch.zeros(count, dtype=torch.bool, device=device),
            torch.zeros(count, most, layers, c.num_experts_per_tok, dtype=torch.int16, device=device)
            if record
            else None,
        )


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

    def _wave(self, wave: Sequence[Start], sampling: Sampling, stops: Stops | None = None) -> list[Sampled]:
        model, most = self.model, max(start.room for start in wave)
        absorbed = model.absorbed()
        rows, hidden, prompt_routes = self._prefill(wave, most)
        sampled = _Drawn.empty(len(wave), most, model, self.record_routes)
        for step in range(most):
            rows.tokens, logp = draw(model.logits(hidden), rows.keys[:, step], sampling)
            sampled.tokens[rows.which, step], sampled.logprobs[rows.which, step] = rows.tokens, logp
            sampled.sizes[rows.which] += rows.alive
            ended = rows.tokens == model.c.eos_token_id
            if stops is not None:
                for row, (i, token) in enumerate(zip(rows.which.tolist(), rows.tokens.tolist(), strict=True)):
                    # Few tokens can end a completion, so that few rows are read.
                    if stops.may_end(token):
                        ended[row] |= stops.first(wave[i], sampled.tokens[i, : step + 1].tolist(), step) is not None
            sampled.stopped[rows.which] |= rows.alive & ended
            rows.alive &= ~ended & (rows.room > step + 1)
            if not rows.alive.any():
                break
            if step % COMPACT_EVERY == COMPACT_EVERY - 1 and rows.alive.float().mean() < 0.75:
                rows = rows.keep()
            used = int(rows.lengths.max()) + 1
            hidden, routing = model.decode(
                rows.tokens, [layer[:, :used] for layer in rows.cache], rows.lengths, absorbed
            )
            if sampled.routes is not None:
                sampled.routes[rows.which, step] = stacked(routing)
            rows.lengths = (rows.lengths + 1).clamp_max(model.c.max_position_embeddings - 1)
        return self._results(sampled, prompt_routes)

    def _prefill(self, wave: Sequence[Start], most: int) -> tuple[_Rows, Tensor, list[Routes] | None]:
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
        random = [keys(start.seed, start.done + most)[start.done :] for start in wave]
        rows = _Rows(
            which=torch.arange(len(wave), device=device),
            tokens=torch.zeros(len(wave), dtype=torch.int64, device=device),
            lengths=lengths[source],
            room=torch.tensor([start.room for start in wave], device=device),
            alive=torch.ones(len(wave), dtype=torch.bool, device=device),
            keys=torch.from_numpy(np.stack(random)).to(device),
            cache=cache,
        )
        routes = None
        if self.record_routes:
            each = stacked(out.routing).cpu().split(list(segments.lengths))
            routes = [each[place[start.ids]].numpy() for start in wave]
        return rows, out.hidden[last][source], routes

    def _results(self, sampled: _Drawn, prompt_routes: list[Routes] | None) -> list[Sampled]:
        tokens, logprobs = sampled.tokens.tolist(), sampled.logprobs.tolist()
        routes = None if sampled.routes is None else sampled.routes.cpu().numpy()
        done = []
        for i, (n, stopped) in enumerate(zip(sampled.sizes.tolist(), sampled.stopped.tolist(), strict=True)):
            own = None
            if routes is not None and prompt_routes is not None:
                own = np.concatenate([prompt_routes[i], routes[i, : n - 1]])
            done.append(Sampled(tokens[i][:n], logprobs[i][:n], stopped, own))
        return done


def stacked(routing: Sequence[Routing]) -> Tensor:
    """The experts of T tokens in every layer, int16 [T, MoE layers, K]."""
    return torch.stack([layer.indices for layer in routing], 1).to(torch.int16)
