"""What samples: the types that go into and come out of an engine, and the protocol that every engine keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from model.publish import Published


@dataclass(frozen=True)
class Sampling:
    """``temperature`` 0 is greedy. ``top_p`` keeps the smallest set of tokens whose probabilities reach it.
    ``max_tokens`` bounds the new tokens of one completion. ``stop`` ends a completion after the token that completes
    one of these strings."""

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 128
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Request:
    """One prompt to be completed once for each seed: a completion depends on the weights, the prompt and its seed."""

    prompt_ids: tuple[int, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Completion:
    """``token_ids`` are the sampled tokens, the end token included. ``logprobs`` are their log-probabilities under
    the whole distribution at the sampling temperature (at 1 when greedy), ``versions`` the weight version that sampled
    each. ``finish_reason`` is "stop" for an end token or a stop string and "length" for a spent budget."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    versions: tuple[int, ...]
    finish_reason: Literal["stop", "length"]
    text: str


class Engine(Protocol):
    """Samples completions from the weights last published to it."""

    async def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[list[Completion]]:
        """For each request its completions, one a seed, in order."""

    async def publish(self, weights: Published) -> None:
        """Takes new weights, between two calls of `generate`, and checks them. Raises `PublishError`."""
