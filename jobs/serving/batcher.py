"""Requests that come one by one, sampled together.

    submit -> rows in turn -> one call of the engine: all rows of the first one's sampling settings, some tokens each
                   ^                       |
                   '--- what goes on ------'---> each row's updates

The engine is asked for a few tokens at a time and pauses what is not done, so a row that comes waits for no long
completion to end, and a row whose reader has gone is dropped. The engine works in a thread of its own, the only one
that touches the model.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from model.engine import Completion, Engine, Request, Sampling

T = TypeVar("T")


@dataclass(eq=False)
class Row:
    """One completion being made. ``sampling.max_tokens`` is what it may have; ``updates`` carries it as it grows, or
    what went wrong. A row that is ``dropped`` is sampled no further."""

    prompt: tuple[int, ...]
    seed: int
    sampling: Sampling
    updates: asyncio.Queue[Completion | Exception] = field(default_factory=asyncio.Queue)
    begun: Completion | None = None
    dropped: bool = False

    @property
    def left(self) -> int:
        return self.sampling.max_tokens - (len(self.begun.token_ids) if self.begun else 0)

    async def grow(self) -> AsyncIterator[Completion]:
        """The completion after each call of the engine, until its finish reason is not "paused". Raises what the
        engine raised."""
        while True:
            update = await self.updates.get()
            if isinstance(update, Exception):
                raise update
            yield update
            if update.finish_reason != "paused":
                return


class Batcher:
    """``context`` is the model's limit, in tokens; ``rows`` bounds the rows of a call, ``tokens`` the tokens that each
    takes in it."""

    def __init__(self, engine: Engine, context: int, rows: int, tokens: int) -> None:
        self.engine, self.context, self.rows, self.tokens = engine, context, rows, tokens
        self._waiting: deque[Row] = deque()
        self._thread = ThreadPoolExecutor(1, "engine")
        self._work: asyncio.Task[None] | None = None

    def submit(self, rows: Sequence[Row]) -> None:
        """Takes rows; the loop runs as long as there are any."""
        self._waiting.extend(rows)
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._run())

    async def alone(self, work: Callable[[], T]) -> T:
        """Runs ``work`` in the engine's thread, between two of its calls."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _run(self) -> None:
        while rows := self._next():
            try:
                completions = await self._call(rows)
            except Exception as error:  # noqa: BLE001  these rows fail; the service goes on
                for row in rows:
                    row.updates.put_nowait(error)
                continue
            for row, completion in zip(rows, completions, strict=True):
                if completion.finish_reason == "paused" and len(completion.token_ids) >= row.sampling.max_tokens:
                    completion = replace(completion, finish_reason="length")  # noqa: PLW2901
                row.begun = completion
                row.updates.put_nowait(completion)
                if completion.finish_reason == "paused":
                    self._waiting.append(row)

    def _next(self) -> list[Row]:
        """The rows of the next call: those that can be sampled with the one whose turn it is."""
        live = [row for row in self._waiting if not row.dropped]
        chosen = [row for row in live if _kind(row.sampling) == _kind(live[0].sampling)][: self.rows]
        taken = set(map(id, chosen))
        self._waiting = deque(row for row in live if id(row) not in taken)
        return chosen

    async def _call(self, rows: Sequence[Row]) -> list[Completion]:
        pause = min(self.tokens, *(row.left for row in rows))
        sampling = replace(rows[0].sampling, max_tokens=self.context, pause_after=pause)
        requests = [Request(row.prompt, (row.seed,), (row.begun,)) for row in rows]
        groups = await self.alone(lambda: _finish(self.engine.generate(requests, sampling)))
        return [completion for group in groups for completion in group]


def _kind(sampling: Sampling) -> Sampling:
    """What rows of one call must share; how long each may get is the batcher's to see to."""
    return replace(sampling, max_tokens=1)


def _finish(made: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(made)
