"""Where the responses of an evaluation come from: an engine, an OpenAI-compatible endpoint, or a file.

A source takes what is wanted and hands on answers in batches as they come, in whatever order; what it has handed on is
recorded at once, so that a restart asks only for the rest.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from jobs import console
from jobs.evaluation.suites import rows
from model.engine import Engine, Request, Sampling
from rl.problems import Draw, Problem, ProblemError, render
from rl.rollout import sample_seed


class EndpointError(RuntimeError):
    """An endpoint that refuses a request (status 2), or fails or stays silent (1); earlier answers are recorded."""

    def __init__(self, message: str, exit_status: int = 1) -> None:
        super().__init__(message)
        self.exit_status = exit_status


@dataclass(frozen=True)
class Wanted:
    """One response to be made: the ``copy``-th to a problem of a suite."""

    suite: str
    problem: Problem
    copy: int

    @property
    def id(self) -> str:
        return Draw(self.problem, -1).sample_id(self.copy)


@dataclass(frozen=True)
class Answer:
    """A response; ``tokens`` and ``finish_reason`` ("stop", "length") where the source knows them."""

    text: str
    tokens: int | None = None
    finish_reason: str | None = None


Batch = list[tuple[Wanted, Answer]]
CONNECT_S = 5.0
TOLD_EVERY_S = 10.0


class Source(Protocol):
    def answers(self, wanted: Sequence[Wanted]) -> AsyncIterator[Batch]:
        """An answer to each that is wanted, once, in batches as they come."""


@dataclass(frozen=True)
class EngineSource:
    """Samples from an engine, ``rows`` completions at a time; ``encode`` gives a draw's prompt tokens."""

    engine: Engine
    encode: Callable[[Draw], tuple[int, ...]]
    sampling: Sampling
    seed: int
    rows: int

    async def answers(self, wanted: Sequence[Wanted]) -> AsyncIterator[Batch]:
        for start in range(0, len(wanted), self.rows):
            part = wanted[start : start + self.rows]
            groups = [list(group) for _, group in itertools.groupby(part, key=lambda w: (w.suite, w.problem.id))]
            completed = await self.engine.generate([self._request(group) for group in groups], self.sampling)
            given = [Answer(c.text, len(c.token_ids), c.finish_reason) for group in completed for c in group]
            yield list(zip(part, given, strict=True))

    def _request(self, group: Sequence[Wanted]) -> Request:
        prompt = self.encode(Draw(group[0].problem, -1))
        return Request(prompt, tuple(sample_seed(self.seed, wanted.id) for wanted in group))


@dataclass
class Contact:
    """Whether an endpoint has answered anything yet, and when it was last said that it is waited for (monotonic)."""

    made: bool = False
    told: float = -TOLD_EVERY_S

    def tell(self, message: str) -> None:
        """Says it, unless something was said a moment ago: requests that are open together fail together."""
        if time.monotonic() - self.told >= TOLD_EVERY_S:
            self.told = time.monotonic()
            console.say(message)


@dataclass(frozen=True)
class EndpointSource:
    """Asks an OpenAI-compatible endpoint: chat messages, or plain completions of ``template`` where there is one.

    ``url`` is the base, as in http://localhost:8000/v1. At most ``concurrency`` requests are open. A request that
    meets a full or failing server (429, 5xx, a broken connection) is tried again ``retries`` times, after the seconds
    that the server names or after longer and longer waits; but an endpoint that has never answered and takes no
    connection is not waited for.
    """

    url: str
    model: str
    sampling: Sampling
    seed: int
    template: str | None = None
    api_key: str | None = None
    concurrency: int = 16
    retries: int = 6
    timeout_s: float = 600.0
    first_wait_s: float = 1.0
    transport: Any = None

    async def answers(self, wanted: Sequence[Wanted]) -> AsyncIterator[Batch]:
        import httpx

        headers = {"authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        timeout = httpx.Timeout(self.timeout_s, connect=min(self.timeout_s, CONNECT_S))
        settings: dict[str, Any] = {"timeout": timeout, "headers": headers, "transport": self.transport}
        contact = Contact()
        async with httpx.AsyncClient(limits=httpx.Limits(max_connections=self.concurrency), **settings) as client:
            left, running = iter(wanted), set[asyncio.Task[tuple[Wanted, Answer]]]()
            try:
                while True:
                    for one in itertools.islice(left, self.concurrency - len(running)):
                        running.add(asyncio.create_task(self._ask(client, contact, one)))
                    if not running:
                        return
                    done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                    failures = [task.exception() for task in done if task.exception()]
                    if len(failures) < len(done):
                        yield [task.result() for task in done if not task.exception()]
                    for failure in failures:
                        raise failure  # type: ignore[misc]
            finally:
                for task in running:
                    task.cancel()

    async def _ask(self, client: Any, contact: Contact, wanted: Wanted) -> tuple[Wanted, Answer]:
        import httpx

        path, body = self._request(wanted)
        trouble, refused = "", False
        for attempt in range(self.retries + 1):
            wait = self.first_wait_s * 2.0**attempt * (0.5 + random.random())
            try:
                response = await client.post(f"{self.url.rstrip('/')}/{path}", json=body)
            except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
                raise EndpointError(f"--endpoint {self.url}: {error}; a base URL is http://HOST:PORT/v1", 2) from None
            except httpx.HTTPError as error:
                trouble = f"{type(error).__name__}: {error}"
                if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout) and not contact.made:
                    raise EndpointError(
                        f"--endpoint {self.url}: nothing answers there ({trouble}); start the service, or check host "
                        "and port"
                    ) from None
            else:
                contact.made = True
                if response.status_code < 300:
                    return wanted, self._answer(response)
                trouble = f"status {response.status_code}: {response.text[:300]}"
                if response.status_code == 404 and not self.url.rstrip("/").endswith("/v1"):
                    trouble += " (a base URL mostly ends in /v1)"
                refused = response.status_code not in (408, 409, 429) and response.status_code < 500
                if refused:
                    break
                wait = _seconds(response.headers.get("retry-after")) or wait
            if attempt < self.retries:
                wait = min(wait, 60.0)
                contact.tell(
                    f"{self.url}: {trouble}; asking again in {wait:.0f} s, {self.retries - attempt} tries left"
                )
                await asyncio.sleep(wait)
        raise EndpointError(
            f"{self.url}: {trouble}; answers so far are kept where --out names a folder, and the same command goes on",
            exit_status=2 if refused else 1,
        )

    def _request(self, wanted: Wanted) -> tuple[str, dict[str, Any]]:
        s = self.sampling
        body: dict[str, Any] = {
            "model": self.model,
            "temperature": s.temperature,
            "top_p": s.top_p,
            "max_tokens": s.max_tokens,
            "seed": sample_seed(self.seed, wanted.id) % 2**31,
        }
        if s.stop:
            body["stop"] = list(s.stop)
        if self.template is not None:
            return "completions", {**body, "prompt": render(wanted.problem, self.template)}
        prompt = wanted.problem.prompt
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        return "chat/completions", {**body, "messages": messages}

    def _answer(self, response: Any) -> Answer:
        try:
            body = response.json()
            choice = body["choices"][0]
            text = choice["text"] if self.template is not None else choice["message"]["content"]
            usage: Mapping[str, Any] = body.get("usage") or {}
        except (ValueError, KeyError, IndexError, TypeError):
            raise EndpointError(f"{self.url}: an answer of another shape: {response.text[:300]}") from None
        return Answer(text or "", usage.get("completion_tokens"), choice.get("finish_reason"))


def _seconds(retry_after: str | None) -> float | None:
    """The header's seconds; a date is not read."""
    try:
        return float(retry_after) if retry_after else None
    except ValueError:
        return None


@dataclass(frozen=True)
class GivenSource:
    """Responses that exist already, by problem id, in order."""

    responses: Mapping[str, Sequence[str]]

    async def answers(self, wanted: Sequence[Wanted]) -> AsyncIterator[Batch]:
        size = 256
        for start in range(0, len(wanted), size):
            part = wanted[start : start + size]
            yield [(one, Answer(self.responses[one.problem.id][one.copy])) for one in part]


def read_responses(path: Path, problems: Sequence[Problem]) -> dict[str, list[str]]:
    """The responses of a JSONL file by problem. A line is {"id" or "task_id", "response" or "completion"}, or a line
    of samples.jsonl, {"problem", "text"}. Raises ProblemError where a line belongs to no problem or a problem has no
    response: left out silently, it would change the result."""
    found: dict[str, list[str]] = {identity: [] for identity in _distinct(problems)}
    for number, row in enumerate(rows(path), 1):
        identity = str(next((row[key] for key in ("problem", "id", "task_id") if key in row), ""))
        text = next((row[key] for key in ("text", "response", "completion") if key in row), None)
        if identity not in found:
            raise ProblemError(f"{path}: response {number} is to {identity!r}, which is no problem of the suites")
        if not isinstance(text, str):
            raise ProblemError(f'{path}: response {number} has no text in "response", "completion" or "text"')
        found[identity].append(text)
    missing = [identity for identity, texts in found.items() if not texts]
    if missing:
        raise ProblemError(
            f"{path}: {len(missing)} of {len(found)} problems have no response, the first of them {missing[0]!r}"
        )
    return found


def references(problems: Sequence[Problem]) -> dict[str, list[str]]:
    """The suites' own reference responses. Raises ProblemError where a problem has none."""
    lacking = [problem.id for problem in problems if not isinstance(problem.fields.get("reference"), str)]
    if lacking:
        raise ProblemError(f"--reference: problem {lacking[0]!r} has no reference response")
    return dict(zip(_distinct(problems), ([problem.fields["reference"]] for problem in problems), strict=True))


def _distinct(problems: Sequence[Problem]) -> list[str]:
    """The problems' ids. Raises ProblemError where two suites share one: a response names no suite."""
    ids = [problem.id for problem in problems]
    if len(set(ids)) < len(ids):
        shared = next(identity for identity in ids if ids.count(identity) > 1)
        raise ProblemError(f"two suites have a problem {shared!r}; score responses to one suite at a time")
    return ids


def read_key(variable: str, file: Path | None) -> str | None:
    """The API key: from a file, else from this environment variable, else none. Raises ProblemError."""
    if file is None:
        return os.environ.get(variable) or None
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ProblemError(f"--api-key-file: {error}") from None
