"""`zeroth score`: responses in, scores out, one JSON object a line, in order.

    standard input -> lines -> a window of samples in flight -> scores in the order of their lines -> standard output

One loop reads (and waits while the window is full), one writes (and waits for the oldest sample). No line ends the run:
what cannot be read is answered by an error that names the line.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Annotated, Any

import typer

from jobs import console

CHUNK = 1 << 18
MAX_LINE_MB = 64


def score(
    reward: Annotated[str, typer.Option(help="math, code, module:object, verl:file.py:f ...")],
    workers: Annotated[int, typer.Option(help="Samples checked at once; 0: one for each core.")] = 0,
    settings: Annotated[str, typer.Option(help="The reward's settings as a JSON object.")] = "{}",
) -> None:
    """Score responses: a problem and its "response" a line on standard input, a score a line on standard output."""
    count = workers or os.cpu_count() or 1
    scorer = find_with_workers(reward, count, settings_of(settings))
    tally = Tally()
    asyncio.run(_run(scorer, count, tally))
    console.say(tally.summary())


def settings_of(text: str) -> dict[str, Any]:
    """The option --settings. Raises BadSetting."""
    from rewards import BadSetting

    try:
        chosen = json.loads(text)
    except ValueError as error:
        raise BadSetting(f"--settings is no JSON: {error}") from error
    if not isinstance(chosen, dict):
        raise BadSetting("--settings is a JSON object")
    return chosen


def find_with_workers(name: str, workers: int, settings: Mapping[str, Any]) -> Any:
    """The reward with so many workers, or without the setting where it needs none."""
    from rewards import BadSetting, find

    try:
        return find(name, **{"workers": workers, **settings})
    except BadSetting:
        return find(name, **settings)


async def _run(scorer: Any, workers: int, tally: Tally) -> None:
    out = sys.stdout.buffer

    def write(answer: Mapping[str, Any]) -> None:
        out.write(json.dumps(answer, allow_nan=False).encode() + b"\n")
        out.flush()

    with console.progress() as progress:
        bar = progress.add_task("scoring", total=None, note="")

        def done(answer: Mapping[str, Any]) -> None:
            write(answer)
            tally.add(answer)
            progress.update(bar, advance=1, note=tally.rate())

        try:
            with contextlib.redirect_stdout(sys.stderr):  # what a plugin prints is no answer
                await stream(scorer, lines(lambda: os.read(0, CHUNK)), done, window=max(64, workers * 32))
        finally:
            await scorer.close()


async def stream(
    scorer: Any, source: AsyncIterator[tuple[int, bytes | None]], done: Callable[[Mapping[str, Any]], None], window: int
) -> None:
    """Scores each line and hands on its answer in the order of the lines, with at most ``window`` in flight."""
    pending: asyncio.Queue[asyncio.Task[dict[str, Any]] | None] = asyncio.Queue(window)

    async def read() -> None:
        async for number, line in source:
            await pending.put(asyncio.create_task(answer_line(scorer, number, line)))
        await pending.put(None)

    reader = asyncio.create_task(read())
    try:
        while (task := await pending.get()) is not None:
            done(await task)
        await reader
    finally:
        reader.cancel()


async def answer_line(scorer: Any, number: int, line: bytes | None) -> dict[str, Any]:
    """The answer to one line; never raises for what the line says."""
    from rewards import BadProblem, Sample, check_problem

    started = time.perf_counter()
    identity: Any = None
    try:
        problem = parse_line(line)
        identity = problem.get("id")
        check_problem(scorer, problem)
        response = problem.pop("response")
        (given,) = await scorer([Sample(problem, response)])
    except (ValueError, RecursionError, BadProblem) as error:
        return failed(identity, f"line {number}: {str(error) or type(error).__name__}", started)
    except Exception as error:  # noqa: BLE001  one line's failure is that line's answer
        return failed(identity, f"line {number}: {type(error).__name__}: {error}", started)
    return {
        "id": identity,
        "value": given.value,
        "status": given.status,
        "parts": dict(given.parts),
        "detail": given.detail,
        "seconds": round(time.perf_counter() - started, 6),
    }


def parse_line(line: bytes | None) -> dict[str, Any]:
    """The problem with its response. Raises ValueError."""
    if line is None:
        raise ValueError(f"longer than {MAX_LINE_MB} MB")
    try:
        problem = json.loads(line.decode("utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"not JSON ({error})") from None
    if not isinstance(problem, dict):
        raise ValueError(f"a JSON object is wanted, not {type(problem).__name__}")  # noqa: TRY004
    if not isinstance(problem.get("response"), str):
        raise ValueError('the field "response" is missing or no string')  # noqa: TRY004
    return problem


def failed(identity: Any, detail: str, started: float) -> dict[str, Any]:
    """An answer without a value."""
    seconds = round(time.perf_counter() - started, 6)
    return {"id": identity, "value": None, "status": "error", "parts": {}, "detail": detail, "seconds": seconds}


async def lines(read: Callable[[], bytes]) -> AsyncIterator[tuple[int, bytes | None]]:
    """The non-empty lines and their numbers as they arrive; None for a line that is too long.

    ``read`` blocks until there are bytes and answers none at the end.
    """
    number = 0
    kept: list[bytes] = []
    size = 0
    while chunk := await asyncio.to_thread(read):
        *complete, rest = chunk.split(b"\n")
        for part in complete:
            number += 1
            line = b"".join([*kept, part]) if size + len(part) <= MAX_LINE_MB << 20 else None
            kept, size = [], 0
            if line is None or line.strip():
                yield number, line
        size += len(rest)
        if size <= MAX_LINE_MB << 20:
            kept.append(rest)
        else:
            kept = []
    if size:
        line = b"".join(kept) if kept else None
        if line is None or line.strip():
            yield number + 1, line


class Tally:
    """What has been scored so far."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.statuses: Counter[str] = Counter()
        self.total = 0.0

    def add(self, answer: Mapping[str, Any]) -> None:
        self.statuses[answer["status"]] += 1
        self.total += answer["value"] or 0.0

    def rate(self) -> str:
        return f"{self.statuses.total() / (time.perf_counter() - self.started):.0f}/s"

    def summary(self) -> str:
        good = self.statuses["ok"]
        mean = f", mean {self.total / good:.4f}" if good else ""
        failures = ", ".join(f"{count} {status}" for status, count in self.statuses.items() if status != "ok")
        seconds = time.perf_counter() - self.started
        return f"{self.statuses.total()} scored in {seconds:.1f} s: {good} ok{mean}" + (
            f", {failures}" if failures else ""
        )
