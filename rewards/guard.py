"""A foreign reward behind a guard: whatever it does, each sample gets a Score that says whose fault a failure was."""

from __future__ import annotations

import asyncio
import inspect
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from rewards.errors import raised
from rewards.protocol import Sample, Score


class Guarded:
    """Calls a reward written by someone else.

    A reward that raises, takes longer than ``timeout_s`` seconds for a batch, or answers anything but one Score (or
    number) for each sample, gives Scores without a value that name the plugin, the sample and the remedy. A plain
    function is called in a thread, which cannot be killed and is left alone: a plugin that often hangs belongs behind a
    dialect prefix, whose functions run in killable processes.
    """

    DEFAULT_TIMEOUT_S = 60.0

    def __init__(self, name: str, inner: Any, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        self.name = name
        self.inner = inner
        self.timeout_s = timeout_s

    def check(self, problem: Mapping[str, Any]) -> None:
        """What the plugin's own ``check`` says, where it has one."""
        inner_check = getattr(self.inner, "check", None)
        if inner_check is not None:
            inner_check(problem)

    async def __call__(self, samples: Sequence[Sample], /) -> list[Score]:
        try:
            answered = await asyncio.wait_for(self._ask(samples), self.timeout_s)
        except TimeoutError:
            remedy = (
                f"took longer than timeout_s = {self.timeout_s} s for {len(samples)} samples: raise it or be faster"
            )
            return [Score(None, "timeout", detail=self._about(sample, remedy)) for sample in samples]
        except Exception as error:  # noqa: BLE001  a plugin may raise anything; the samples are reported, the run goes on
            remedy = f"raised {raised(error)}"
            return [Score(None, "error", detail=self._about(sample, remedy)) for sample in samples]
        if hasattr(answered, "tolist"):  # an array or a tensor
            answered = answered.tolist()
        if not isinstance(answered, (list, tuple)) or len(answered) != len(samples):
            got = f"{len(answered)} values" if isinstance(answered, (list, tuple)) else type(answered).__name__
            remedy = f"must return a list of {len(samples)} Scores, one for each sample, not {got}"
            return [Score(None, "error", detail=self._about(sample, remedy)) for sample in samples]
        return [self._score(sample, value) for sample, value in zip(samples, answered, strict=True)]

    async def close(self) -> None:
        close = getattr(self.inner, "close", None)
        result = close() if close is not None else None
        if inspect.isawaitable(result):
            await result

    async def _ask(self, samples: Sequence[Sample]) -> Any:
        call = self.inner if inspect.isroutine(self.inner) else type(self.inner).__call__
        try:
            if inspect.iscoroutinefunction(call):
                return await self.inner(samples)
            result = await _called(self.inner, samples)
            return await result if inspect.isawaitable(result) else result
        except SystemExit as error:  # which would end the whole process
            raise RuntimeError(f"SystemExit({error})").with_traceback(error.__traceback__) from None

    def _score(self, sample: Sample, value: Any) -> Score:
        try:
            if not isinstance(value, Score):
                return Score(_number(value))
            known = None if value.value is None else _number(value.value)
            return Score(known, value.status, {str(n): _number(p) for n, p in value.parts.items()}, str(value.detail))
        except (TypeError, ValueError):
            remedy = f"must return Scores or finite numbers, not {value!r:.80}"
            return Score(None, "error", detail=self._about(sample, remedy))

    def _about(self, sample: Sample, what: str) -> str:
        return f"reward {self.name!r}, sample {sample.problem.get('id', '?')!r}: {what}"


async def _called(function: Callable[[Sequence[Sample]], Any], samples: Sequence[Sample]) -> Any:
    """In a thread of its own, which neither later calls nor the end of the process wait for once it is late."""
    answer: Future[Any] = Future()

    def call() -> None:
        answer.set_running_or_notify_cancel()
        try:
            answer.set_result(function(samples))
        except BaseException as error:  # noqa: BLE001  raised again where it is awaited
            answer.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    return await asyncio.wrap_future(answer)


def _number(value: Any) -> float:
    """A float from whatever number it is, NumPy's and tensors of one element included. Raises TypeError, ValueError."""
    if isinstance(value, str) or not math.isfinite(value):
        raise ValueError(value)
    return float(value)
