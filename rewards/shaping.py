"""Penalties on how long and how repetitive a response is, each a few lines and added through a mix.

Lengths are in tokens where the problem line carries ``response_tokens`` (the trainer sets it), else in characters
divided by ``characters_per_token``.
"""

from __future__ import annotations

from collections import Counter

from rewards.errors import BadSetting
from rewards.protocol import Sample, Score
from rewards.simple import Simple


class OverlongReward(Simple):
    """DAPO's soft overlong punishment (arXiv:2503.14476, equation 13).

    0 up to ``max_tokens - cache_tokens``, then falling linearly to -1 at ``max_tokens``, and -1 beyond.
    """

    def __init__(self, max_tokens: int = 20480, cache_tokens: int = 4096, characters_per_token: float = 4.0) -> None:
        if not 0 < cache_tokens <= max_tokens:
            raise BadSetting(f"overlong: wants 0 < cache_tokens <= max_tokens, not {cache_tokens} and {max_tokens}")
        self.max_tokens = max_tokens
        self.cache_tokens = cache_tokens
        self.characters_per_token = characters_per_token

    def score(self, sample: Sample) -> Score:
        length = tokens_in(sample, self.characters_per_token)
        return Score(overlong_penalty(length, self.max_tokens, self.cache_tokens), detail=f"{length:g} tokens")


def overlong_penalty(length: float, max_tokens: int, cache_tokens: int) -> float:
    """DAPO's equation 13: 0, then ((max - cache) - length) / cache, then -1."""
    return min(0.0, max(-1.0, (max_tokens - cache_tokens - length) / cache_tokens))


class LengthReward(Simple):
    """A linear cost of length: -1 at ``max_tokens`` and beyond, 0 for an empty response."""

    def __init__(self, max_tokens: int = 20480, characters_per_token: float = 4.0) -> None:
        if max_tokens <= 0:
            raise BadSetting(f"length: max_tokens is positive, not {max_tokens}")
        self.max_tokens = max_tokens
        self.characters_per_token = characters_per_token

    def score(self, sample: Sample) -> Score:
        length = tokens_in(sample, self.characters_per_token)
        return Score(-min(1.0, length / self.max_tokens), detail=f"{length:g} tokens")


class RepetitionReward(Simple):
    """Minus the share of n-grams of words that repeat an earlier one: 0 without repetition, towards -1 for a loop."""

    def __init__(self, ngram: int = 20) -> None:
        if ngram < 1:
            raise BadSetting(f"repetition: ngram is at least 1, not {ngram}")
        self.ngram = ngram

    def score(self, sample: Sample) -> Score:
        return Score(-repeated_share(sample.response.split(), self.ngram))


def repeated_share(words: list[str], ngram: int) -> float:
    """1 - distinct / total over the n-grams of the words; 0 where there are fewer words than n."""
    total = len(words) - ngram + 1
    if total < 1:
        return 0.0
    counts = Counter(hash(tuple(words[start : start + ngram])) for start in range(total))
    return 1.0 - len(counts) / total


def tokens_in(sample: Sample, characters_per_token: float) -> float:
    """The response's length in tokens, from the problem's ``response_tokens`` or estimated from its characters."""
    counted = sample.problem.get("response_tokens")
    return float(counted) if isinstance(counted, (int, float)) else len(sample.response) / characters_per_token
