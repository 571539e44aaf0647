"""Sampling in waves with drafts: the first MTP module guesses each row's next token, and one step of the model takes
the row's last token and the guess together.

Token i of a row is drawn with the row's i-th key, whoever guessed what. The second draw of a step counts just
where the first one equals the guess, for only then did the model see what it was drawn from. So the same tokens come
out as without drafts, and a good guess saves a step. A guess is drawn from the module's distribution with the key of
the token that it guesses, which agrees with the model's draw where the distributions do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model import rope
from model.decoding import Decoder
from model.engine import Sampling
from model.sampling import Sampled, Start, Stops, draw, keys
from model.segments import Segments
from model.transformer import MTP, Transformer
from model.waves import COMPACT_EVERY, stacked


@dataclass
class Tally:
    """What a call did: steps that rows took, and the tokens that came of them, at most two of a step."""

    row_steps: int = 0
    tokens: int = 0


@dataclass
class _Rows:
    """The rows still sampling, R of them. ``which`` [R] is each row's place in the wave; ``tokens`` [R] its last token,
    which is to come to place ``lengths`` [R], and ``guess`` [R] a guess at the next. Of ``room`` [R] tokens ``count``
    [R] are sampled. ``cache`` is one [R, T, kv_lora_rank + rope] a layer, the MTP module's last; ``routes`` [R, T, MoE
    layers, K] by place. ``decoder`` is the model's."""

    which: Tensor
    tokens: Tensor
    guess: Tensor
    lengths: Tensor
    count: Tensor
    room: Tensor
    alive: Tensor
    routes: Tensor
    cache: list[Tensor]
    decoder: Decoder

    def keep(self) -> _Rows:
        index = self.alive.nonzero().squeeze(-1)
        return _Rows(
            self.which[index],
            self.tokens[index],
            self.guess[index],
            self.lengths[index],
            self.count[index],
            self.room[index],
            self.alive[index],
            self.routes[index],
            [layer[index] for layer in self.cache],
            self.decoder,
        )


class DraftedWaves:
    def __init__(self, model: Transformer, max_rows: int, record_routes: bool) -> None:
        self.model, self.max_rows, self.record_routes = model, max_rows, record_routes
        module = model.mtp[0]
        assert isinstance(module, MTP)
        self.module = module
        self.tally = Tally()

    @torch.no_grad()
    def sample(self, starts: Sequence[Start], sampling: Sampling, stops: Stops | None = None) -> list[Sampled]:
        """For each start what it sampled."""
        self.tally = Tally()
        done: list[Sampled] = []
        for first in range(0, len(starts), self.max_rows):
            done += self._wave(starts[first : first + self.max_rows], sampling, stops)
        return done

    def _wave(self, wave: Sequence[Start], sampling: Sampling, stops: Stops | None = None) -> list[Sampled]:
        rows, most, done = self._prefill(wave), max(start.room for start in wave), [Sampled([], [], False)] * len(wave)
        random = [keys(start.seed, start.done + most)[start.done :] for start in wave]
        # A guess may look one past the last token.
        own = torch.from_numpy(np.pad(np.stack(random), ((0, 0), (0, 2)))).to(self.model.device)
        tokens = torch.zeros(len(wave), most + 2, dtype=torch.int64, device=own.device)
        logprobs = torch.zeros(len(wave), most + 2, device=own.device)
        for step in range(1, most + 1):
            before = rows.count
            self._step(rows, own, tokens, logprobs, sampling)
            if stops is not None:
                self._stop(rows, before, wave, tokens, stops, done)
            self._finish(rows, wave, tokens, logprobs, done)
            if not rows.alive.any():
                break
            if step % COMPACT_EVERY == 0 and rows.alive.float().mean() < 0.75:
                rows = rows.keep()
        self.tally.tokens += sum(len(row.tokens) for row in done)
        return done

    def _step(self, rows: _Rows, own: Tensor, tokens: Tensor, logprobs: Tensor, sampling: Sampling) -> None:
        """Each row's last token and guess through the model: one or two tokens more, and a new guess. ``own`` [W, most
        + 2] are the rows' keys."""
        model, count, pair = self.model, len(rows.which), torch.arange(2, device=own.device)
        places = (rows.lengths.unsqueeze(1) + pair).flatten()
        given = torch.stack([rows.tokens, rows.guess], 1).flatten()
        reach = rows.decoder.reach(places, int(rows.lengths.max()) + 2, count)
        hidden, routing = rows.decoder.step(given, rows.cache[:-1], reach)
        rows.routes[torch.arange(count).repeat_interleave(2), places] = stacked(routing)
        index = rows.count.unsqueeze(1) + pair
        drawn, logp = draw(model.logits(hidden), own[rows.which.unsqueeze(1), index].flatten(), sampling)
        end, first, second = model.c.eos_token_id, *drawn.view(-1, 2).unbind(1)
        tokens[rows.which.unsqueeze(1), index] = drawn.view(-1, 2)
        logprobs[rows.which.unsqueeze(1), index] = logp.view(-1, 2)
        self.tally.row_steps += int(rows.alive.sum())
        going = rows.alive & (first != end) & (rows.count + 1 < rows.room)
        hit = going & (rows.guess == first)
        taken = rows.alive.long() + hit
        rows.count = rows.count + taken
        rows.alive = going & (~hit | ((second != end) & (rows.count < rows.room)))
        further = rows.decoder.draft(hidden, drawn, rows.cache[-1], reach).view(count, 2, -1)
        further = further[torch.arange(count, device=own.device), hit.long()]
        rows.tokens = torch.where(hit, second, first)
        rows.lengths = torch.where(rows.alive, rows.lengths + taken, rows.lengths)
        rows.guess, _ = draw(model.logits(further), own[rows.which, rows.count], sampling)

    def _stop(
        self, rows: _Rows, before: Tensor, wave: Sequence[Start], tokens: Tensor, stops: Stops, done: list[Sampled]
    ) -> None:
        """Ends rows, at the token that completes it, whose new tokens complete a stop string."""
        for i in (rows.count > before).nonzero().squeeze(-1).tolist():
            place, n = int(rows.which[i]), int(rows.count[i])
            stopped = stops.first(wave[place], tokens[place, :n].tolist(), int(before[i]))
            if stopped is not None:
                done[place] = Sampled([], [], True)
                rows.count[i], rows.alive[i] = stopped, False

    def _finish(
        self, rows: _Rows, wave: Sequence[Start], tokens: Tensor, logprobs: Tensor, done: list[Sampled]
    ) -> None:
        """Takes down the rows that have ended."""
        end = self.model.c.eos_token_id
        for i in (~rows.alive).nonzero().squeeze(-1).tolist():
            place, n = int(rows.which[i]), int(rows.count[i])
            if done[place].tokens:
                continue
            ids = tokens[place, :n].tolist()
            kept = rows.routes[i, : len(wave[place].ids) + n - 1].cpu().numpy().copy()
            routes = kept if self.record_routes else None
            done[place] = Sampled(ids, logprobs[place, :n].tolist(), done[place].stopped or ids[-1] == end, routes)

    def _prefill(self, wave: Sequence[Start]) -> _Rows:
        """Runs each different beginning but for its last token, which the first step then takes."""
        model, device, c = self.model, self.model.device, self.model.c
        prompts = list(dict.fromkeys(start.ids for start in wave))
        segments = Segments.of([len(p) - 1 for p in prompts], device)
        flat, following = (
            torch.tensor([token for p in prompts for token in p[part]], dtype=torch.int64, device=device)
            for part in (slice(-1), slice(1, None))
        )
        longest = max(len(start.ids) + start.room for start in wave) + 1
        cache = [
            torch.zeros(len(prompts), longest, c.kv_lora_rank + c.qk_rope_head_dim, dtype=model.dtype, device=device)
            for _ in range(c.num_hidden_layers + 1)
        ]
        shape = (len(prompts), longest, c.num_hidden_layers - c.first_k_dense_replace, c.num_experts_per_tok)
        routes = torch.zeros(shape, dtype=torch.int16, device=device)
        if len(flat):
            out = model(flat, segments)
            turns = rope.rotations(segments.positions, model.freqs)
            joined = self.module.joined(out.hidden, model.embed_tokens(following).to(model.dtype))
            for layer, cached in zip(cache, [*out.cached, self.module.block(joined, turns, segments)[1]], strict=True):
                layer[segments.ids, segments.positions] = cached
            routes[segments.ids, segments.positions] = stacked(out.routing)
        place = {prompt: i for i, prompt in enumerate(prompts)}
        source = torch.tensor([place[start.ids] for start in wave], device=device)
        zeros = torch.zeros(len(wave), dtype=torch.int64, device=device)
        return _Rows(
            torch.arange(len(wave), device=device),
            torch.tensor([start.ids[-1] for start in wave], device=device),
            zeros,
            torch.tensor([len(start.ids) - 1 for start in wave], device=device),
            zeros,
            torch.tensor([start.room for start in wave], device=device),
            torch.ones(len(wave), dtype=torch.bool, device=device),
            routes[source],
            [layer[source] for layer in cache],
            Decoder(model),
        )
