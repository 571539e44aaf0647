"""What samples: the types that go into and come out of an engine, and the protocol that every engine keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from model.publish import Published

Routes = np.ndarray[tuple[int, int, int], np.dtype[np.int16]]
"""[tokens, MoE layers, experts a token]: the experts that each token was sent to."""


class EngineError(ValueError):
    """A request that an engine cannot serve."""

    exit_status = 2


@dataclass(frozen=True)
class Sampling:
    """``temperature`` 0 is greedy. ``top_p`` keeps the smallest set of tokens whose probabilities reach it.
    ``max_tokens`` bounds the new tokens of one completion. ``stop`` ends a completion after the token that completes
    one of these strings. ``pause_after`` pauses a completion after so many new tokens in one call; it can then be
    begun again where it was left."""

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 128
    stop: tuple[str, ...] = ()
    pause_after: int | None = None


@dataclass(frozen=True)
class Completion:
    """``token_ids`` are the sampled tokens, the end token included. ``logprobs`` are their log-probabilities under
    the whole distribution at the sampling temperature (at 1 when greedy), ``versions`` the weight version that sampled
    each. ``finish_reason`` is "stop" for an end token or a stop string, "length" for a spent budget and "paused" for a
    completion that is to go on. ``routes`` are those of the prompt's tokens and of the sampled ones but the last, each
    as it was when the token after it was sampled; None where the engine does not record them."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    versions: tuple[int, ...]
    finish_reason: Literal["stop", "length", "paused"]
    text: str
    routes: Routes | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Request:
    """One prompt to be completed once for each seed: a completion depends on the weights, the prompt and its seed.
    ``begun``, where it is not empty, gives for each seed a paused completion to go on from, or None; what comes back
    includes its tokens."""

    prompt_ids: tuple[int, ...]
    seeds: tuple[int, ...]
    begun: tuple[Completion | None, ...] = ()

    def rows(self) -> list[tuple[int, Completion | None]]:
        """Each seed with what it has begun."""
        return list(zip(self.seeds, self.begun or (None,) * len(self.seeds), strict=True))


class Engine(Protocol):
    """Samples completions from the weights last published to it."""

    async def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[list[Completion]]:
        """For each request its completions, one a seed, in order."""

    async def publish(self, weights: Published) -> None:
        """Takes new weights, between two calls of `generate`, and checks them. Raises `PublishError`."""

    async def close(self) -> None:
        """Ends what the engine has started."""
