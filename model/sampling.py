"""What every native engine needs to sample: where a row begins, its random numbers, how a token is drawn, its result.

Token i is the winner of a race (the Gumbel-max trick): each token of the vocabulary takes an exponential time over its
probability, and the times hang on the i-th key of the seed's own random stream alone. So what a row samples depends on
the weights, its prompt and its seed alone, and a paused completion goes on as if it had never been paused. And two
distributions that are alike draw the same token of a key most often, whatever the order of the vocabulary: with
probability (1 - d) / (1 + d) at least, for their total variation d (arXiv:2408.07978).
"""

from __future__ import annotations

import functools
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


def keys(seed: int, count: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    """The first ``count`` keys of the stream that a seed names (Philox, a counter-based generator)."""
    return (np.random.Philox(key=seed).random_raw(count) >> 32).astype(np.uint32).view(np.int32)


def draw(logits: Tensor, keys: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Samples by the race of `exponentials`. logits FP32 [R, V], keys int32 [R] -> tokens [R] and their
    log-probabilities [R] under the distribution before top-p."""
    if sampling.temperature and sampling.top_p == 1 and logits.is_cpu:
        from model import compiled

        return compiled.raced(logits, keys, sampling.temperature)
    scores = logits if sampling.temperature in (0, 1) else logits / sampling.temperature
    probs, total = distribution(scores)
    if sampling.temperature == 0:
        tokens = largest(logits)
    else:
        if sampling.top_p < 1:
            ranked, order = probs.sort(-1, descending=True)
            ranked = ranked.masked_fill(ranked.cumsum(-1) - ranked >= sampling.top_p, 0.0)
            probs = torch.zeros_like(probs).scatter(-1, order, ranked)
        tokens = largest(probs / exponentials(keys, logits.shape[-1]))
    return tokens, scores.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - total


def largest(scores: Tensor) -> Tensor:
    """The first place [R] of the largest number in each row of scores [R, V]. torch looks for it one number at a time
    on a CPU."""
    return torch.from_numpy(scores.numpy().argmax(-1)) if scores.device.type == "cpu" else scores.argmax(-1)


BELOW_1 = 2**-31 * (1 - 2**-23)
"""Times a number below 2^31: a number below 1 even where it is rounded to FP32."""


def exponentials(keys: Tensor, width: int) -> Tensor:
    """For each key int32 [R] ``width`` numbers FP32 [R, width] of the exponential distribution of mean 1: positive, and
    finite."""
    hashed = _mixed(hashes(width, keys.device) ^ keys.unsqueeze(-1)).bitwise_and_(0x7FFFFFFF)
    return hashed.float().add_(0.5).mul_(-BELOW_1).log1p_().neg_()


@functools.lru_cache(maxsize=4)
def hashes(width: int, device: torch.device) -> Tensor:
    """Of each place in the vocabulary, int32 [width]."""
    return _mixed(torch.arange(1, width + 1, dtype=torch.int32, device=device))


def _mixed(x: Tensor) -> Tensor:
    """A hash int32 of each int32, in place (lowbias32 of hash-prospector, of whose bits flips of one of the input's
    change half)."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B - 2**32)):
        x.bitwise_xor_((x >> shift) & (2 ** (32 - shift) - 1)).mul_(factor)
    return x.bitwise_xor_((x >> 16) & 0xFFFF)


def distribution(scores: Tensor) -> tuple[Tensor, Tensor]:
    """scores FP32 [..., V] -> their softmax [..., V] and the logarithm [...] of the sum of their exponentials, from one
    exponential of each. Sampler and trainer both take log-probabilities from here."""
    probs = scores.softmax(-1)
    return probs, scores.amax(-1) - probs.amax(-1).log()
