"""From a checked request to pieces of answers: rows for the batcher, and what may be shown of them."""

from __future__ import annotations

import asyncio
import bisect
import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from jobs.serving.answers import Piece, Scored
from jobs.serving.batcher import Batcher, Row
from jobs.serving.schemas import ChatRequest, Common, CompletionRequest
from jobs.serving.text import shown
from model.chat import ChatError, Layout
from model.engine import Completion, Sampling
from model.likelihood import likelihoods
from model.native import NativeEngine
from rl.rollout import sample_seed


class Refused(ValueError):
    """A request that cannot be served; ``param`` names the field."""

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True)
class Ask:
    """What is wanted of each row: how many likely tokens beside each token (None: no log-probabilities), and whether
    the prompt is part of the answer."""

    rows: tuple[Row, ...]
    top: int | None = None
    echo: bool = False


class ModelDesk:
    """A model by ``name``; ``queue`` bounds the completions in flight."""

    def __init__(self, name: str, engine: NativeEngine, layout: Layout, queue: int, tokens: int) -> None:
        self.name, self.engine, self.layout, self.queue = name, engine, layout, queue
        self.tokenizer = engine.tokenizer
        self.context = engine.config.max_position_embeddings
        self.batcher = Batcher(engine, self.context, engine.max_rows, tokens)
        self.in_flight = 0
        self.draining = False

    def ask_completion(self, request: CompletionRequest) -> Ask:
        """Raises Refused."""
        prompts = [
            tuple(self.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt) for prompt in request.prompts()
        ]
        if not prompts or (request.max_tokens == 0 and not request.echo):
            raise Refused("there is nothing to do: no prompt, or max_tokens 0 without echo", "prompt")
        return Ask(self._rows(request, prompts, request.max_tokens), request.logprobs, request.echo)

    def ask_chat(self, request: ChatRequest) -> Ask:
        """Raises Refused."""
        if request.top_logprobs and not request.logprobs:
            raise Refused("top_logprobs needs logprobs", "top_logprobs")
        try:
            prompt = self.layout.prompt([message.plain() for message in request.messages])
        except ChatError as error:
            raise Refused(str(error), "messages") from None
        most = request.max_completion_tokens or request.max_tokens or max(1, self.context - len(prompt))
        return Ask(self._rows(request, [prompt], most), request.top_logprobs if request.logprobs else None)

    def _rows(self, request: Common, prompts: Sequence[tuple[int, ...]], most: int) -> tuple[Row, ...]:
        vocabulary = len(self.tokenizer)
        for prompt in prompts:
            if not prompt or len(prompt) + most > self.context:
                raise Refused(
                    f"{len(prompt)} tokens of prompt and {most} to come: the prompt has at least one, and both "
                    f"together at most {self.context}", "max_tokens",
                )  # fmt: skip
            if not all(0 <= token < vocabulary for token in prompt):
                raise Refused(f"a token id is none of 0 to {vocabulary - 1}", "prompt")
        temperature = 1.0 if request.temperature is None else request.temperature
        sampling = Sampling(temperature, request.top_p or 1.0, most, request.stops)
        seed = secrets.randbits(63) if request.seed is None else request.seed
        return tuple(
            Row(prompt, sample_seed(seed, f"{i}/{copy}"), sampling)
            for i, prompt in enumerate(prompts)
            for copy in range(request.n)
        )

    @contextmanager
    def taken(self, ask: Ask) -> Iterator[None]:
        """Has the rows sampled; when the block ends, whatever the reason, they are sampled no further."""
        self.in_flight += len(ask.rows)
        try:
            self.batcher.submit([row for row in ask.rows if row.sampling.max_tokens])
            yield
        finally:
            self.in_flight -= len(ask.rows)
            for row in ask.rows:
                row.dropped = True

    async def pieces(self, ask: Ask, index: int, *, stream: bool) -> AsyncIterator[Piece]:
        """What row ``index`` gives, as it comes or, without ``stream``, when it is done."""
        row = ask.rows[index]
        if ask.echo:
            tokens = None if ask.top is None else await self._scored(row.prompt, 0, ask.top)
            ended = None if row.sampling.max_tokens else "length"
            yield Piece(index, self.tokenizer.decode(row.prompt), tokens, ended)
            if ended:
                return
        characters = count = 0
        async for completion in row.grow():
            finished = completion.finish_reason != "paused"
            if not finished and not stream:
                continue
            text = shown(completion.text, row.sampling.stop, finished=finished)
            scored = None
            if ask.top is not None:
                end = self._tokens_within(completion, len(text))
                scored = await self._scored(row.prompt + completion.token_ids[:end], len(row.prompt) + count, ask.top)
                count = end
            reason = completion.finish_reason if finished else None
            if finished or len(text) > characters or scored:
                yield Piece(index, text[characters:], scored, reason)
            characters = len(text)

    def _tokens_within(self, completion: Completion, characters: int) -> int:
        """How many tokens the first so many characters of the text are made of; the end token makes none."""
        ids = completion.token_ids
        last = len(ids) - (ids[-1] == self.tokenizer.eos)
        return bisect.bisect_right(range(last + 1), characters, key=lambda n: len(self.tokenizer.decode(ids[:n]))) - 1

    async def _scored(self, ids: tuple[int, ...], start: int, top: int) -> tuple[Scored, ...]:
        """The tokens from ``start`` on, as the model finds them."""
        if start >= len(ids):
            return ()
        model, beside = self.engine.model, min(top, len(self.tokenizer))
        (found,) = await self.batcher.alone(lambda: likelihoods(model, [ids], max(1, beside)))
        first = (Scored(ids[0], None),) if start == 0 else ()
        return first + tuple(
            Scored(ids[i], found.logprobs[i - 1], found.top[i - 1][:beside]) for i in range(max(1, start), len(ids))
        )


async def merged(streams: Sequence[AsyncIterator[Piece]]) -> AsyncIterator[Piece]:
    """The pieces of several choices as they come. Raises what one of them raises."""
    queue: asyncio.Queue[Piece | Exception | None] = asyncio.Queue()

    async def pump(stream: AsyncIterator[Piece]) -> None:
        try:
            async for piece in stream:
                queue.put_nowait(piece)
        except Exception as error:  # noqa: BLE001  handed to the reader
            queue.put_nowait(error)
        queue.put_nowait(None)

    tasks = [asyncio.create_task(pump(stream)) for stream in streams]
    try:
        left = len(tasks)
        while left:
            item = await queue.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                left -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
