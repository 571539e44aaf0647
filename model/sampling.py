"""What every native engine needs to sample: where a row begins, its random numbers, how a token is drawn, its result.

Token i is found by inverting the distribution function at the i-th number of the seed's own random stream, so that what
a row samples depends on the weights, its prompt and its seed alone, and a paused completion goes on as if it had never
been paused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from model.engine import Completion, Request, Routes, Sampling
from model.tokenizer import Tokenizer


@dataclass(frozen=True)
class Start:
    """Where a row begins: the tokens before the first one to sample, its seed, what it has sampled before, and how
    many more tokens it may sample."""

    ids: tuple[int, ...]
    seed: int
    begun: Completion | None
    room: int

    @staticmethod
    def of(request: Request, seed: int, begun: Completion | None, sampling: Sampling, limit: int) -> Start:
        done = begun.token_ids if begun else ()
        ids = request.prompt_ids + done
        room = min(sampling.max_tokens - len(done), limit - len(ids))
        return Start(ids, seed, begun, min(room, sampling.pause_after or room))

    @property
    def done(self) -> int:
        return len(self.begun.token_ids) if self.begun else 0


@dataclass(frozen=True)
class Sampled:
    """What one row sampled in a call, and whether it stopped by itself. ``routes`` are those of every token before the
    last one, the prompt's included, where they are recorded."""

    tokens: list[int]
    logprobs: list[float]
    stopped: bool
    routes: Routes | None = None


@dataclass(frozen=True)
class Stops:
    """Finds where a stop string is complete. ``known`` says of tokens whether one can be completed by them."""

    tokenizer: Tokenizer
    strings: tuple[str, ...]
    known: dict[int, bool] = field(default_factory=dict, repr=False, compare=False)

    def may_end(self, token: int) -> bool:
        """Whether a token holds the last character of a stop string, or what could be the last of its bytes."""
        if token not in self.known:
            # Twice, since some tokenizers drop the space that a text begins with.
            text = self.tokenizer.decode([token, token])
            ends = [s[-1:] for s in self.strings]
            self.known[token] = any(end in text or ("\ufffd" in text and not end.isascii()) for end in ends)
        return self.known[token]

    def first(self, start: Start, tokens: list[int], seen: int) -> int | None:
        """The least number above ``seen`` of a row's ``tokens`` whose text contains a stop string; only the tail that
        could hold a new one is decoded."""
        tail = max(len(s.encode()) for s in self.strings) + 1
        before = start.begun.token_ids[-tail:] if start.begun else ()
        for n in range(seen + 1, len(tokens) + 1):
            if not self.may_end(tokens[n - 1]):
                continue
            text = self.tokenizer.decode([*before, *tokens[max(0, n - tail) : n]][-tail:])
            if any(s in text for s in self.strings):
                return n
        return None


def completed(
    start: Start, sampled: Sampled, versions: Sequence[int], sampling: Sampling, limit: int, tokenizer: Tokenizer
) -> Completion:
    """A row's tokens behind those that it had begun with, whose routes are kept as they were sampled. ``versions`` are
    those of the new tokens, ``limit`` the model's context."""
    before = start.begun or Completion((), (), (), "paused", "")
    ids = before.token_ids + tuple(sampled.tokens)
    full = len(ids) >= sampling.max_tokens or len(start.ids) + len(sampled.tokens) >= limit
    routes = sampled.routes
    if routes is not None and before.routes is not None:
        routes = np.concatenate([before.routes, routes[len(before.routes) :]])
    return Completion(
        ids,
        before.logprobs + tuple(sampled.logprobs),
        before.versions + tuple(versions),
        "stop" if sampled.stopped else "length" if full else "paused",
        tokenizer.decode(ids),
        routes,
    )


def uniforms(seed: int, count: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """The first ``count`` numbers in [0, 1) of the stream that a seed names (Philox, a counter-based generator)."""
    return np.random.Generator(np.random.Philox(key=seed)).random(count)


def draw(logits: Tensor, u: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Samples by inverting the distribution function. logits FP32 [R, V], u FP64 [R] in [0, 1) -> tokens [R] and
    their log-probabilities [R] under the distribution before top-p."""
    scores = logits if sampling.temperature in (0, 1) else logits / sampling.temperature
    probs, total = distribution(scores)

    def with_logprobs(tokens: Tensor) -> tuple[Tensor, Tensor]:
        return tokens, scores.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - total

    if sampling.temperature == 0:
        return with_logprobs(logits.argmax(-1))
    if sampling.top_p < 1:
        ranked, order = probs.sort(-1, descending=True)
        ranked = ranked.masked_fill(ranked.cumsum(-1) - ranked >= sampling.top_p, 0.0)
        probs = torch.zeros_like(probs).scatter(-1, order, ranked)
    cdf = probs.cumsum(-1, dtype=torch.float64)
    # u < 1 in FP64 keeps u * total below the total, so the first sum above it ends with a token that is possible.
    return with_logprobs(torch.searchsorted(cdf, (u * cdf[:, -1]).unsqueeze(-1), right=True).squeeze(-1))


def distribution(scores: Tensor) -> tuple[Tensor, Tensor]:
    """scores FP32 [..., V] -> their softmax [..., V] and the logarithm [...] of the sum of their exponentials, from one
    exponential of each. Sampler and trainer both take log-probabilities from here."""
    probs = scores.softmax(-1)
    return probs, scores.amax(-1) - probs.amax(-1).log()
