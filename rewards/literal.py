"""The literal reward: is the value that a response states, as a Python literal, the gold value?

For problems that ask what a program returns (CRUXEval's output prediction). Nothing is run: the text is read by
``ast.literal_eval``, in a worker process that can be killed, because deep or huge literals can exhaust a process.
"""

from __future__ import annotations

import ast
import asyncio
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rewards.errors import BadProblem
from rewards.program import extract_program
from rewards.protocol import Sample, Score
from rewards.workers import WorkerLimits, Workers

_ANSWER = re.compile(r"<answer>((?:(?!<answer>).)*)</answer>", re.DOTALL)
MAX_CHARACTERS = 100_000


class LiteralReward:
    """1.0 where the response's literal equals the problem's ``answer`` in value and kind (1 is not True, nor 1.0),
    else 0.0.

    The literal is the last fenced block of the response, without one the last ``<answer> </answer>``, without either
    all of what follows the last ``</think>``.
    """

    def __init__(self, workers: int = 0, timeout_s: float = 2.0, memory_mb: int = 512) -> None:
        limits = WorkerLimits(wall_s=timeout_s, cpu_s=timeout_s, memory_mb=memory_mb)
        self._workers = Workers("rewards.literal:same", workers or os.cpu_count() or 1, limits)

    def check(self, problem: Mapping[str, Any]) -> None:
        """Raises BadProblem where the problem has no literal to compare with."""
        try:
            ast.literal_eval(problem["answer"])
        except (KeyError, TypeError, ValueError, SyntaxError):
            raise BadProblem("the literal reward needs the field 'answer': a Python literal, as text") from None

    async def __call__(self, samples: Sequence[Sample], /) -> list[Score]:
        return list(await asyncio.gather(*(self._judge(sample) for sample in samples)))

    async def close(self) -> None:
        await asyncio.to_thread(self._workers.close)

    async def _judge(self, sample: Sample) -> Score:
        text = stated(sample.response)
        if len(text) > MAX_CHARACTERS:
            return Score(0.0, detail=f"a literal of {len(text)} characters")
        outcome = await self._workers.ask(sample.problem["answer"], text)
        if outcome.status != "ok":
            return Score(None, outcome.status, detail=outcome.detail)
        return Score(float(outcome.result), detail="" if outcome.result else f"not the value: {text[:80]!r}")


def stated(response: str) -> str:
    """The text of the literal that a response states."""
    final = response.rpartition("</think>")[2]
    block = extract_program(final)
    if block is not final:
        return block.strip()
    tagged = _ANSWER.findall(final)
    return (tagged[-1] if tagged else final).strip()


def same(gold: str, answer: str) -> bool:
    """The worker's side: whether both are literals of one value. What is no literal is not equal."""
    try:
        return bool(_kinds(ast.literal_eval(gold)) == _kinds(ast.literal_eval(answer)))
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return False


def _kinds(value: Any) -> Any:
    """The value with the type of each part beside it, so that 1, 1.0 and True differ."""
    if isinstance(value, list | tuple):
        return type(value), [_kinds(part) for part in value]
    if isinstance(value, dict):
        return dict, {(type(key), key): _kinds(part) for key, part in value.items()}
    if isinstance(value, set | frozenset):
        return type(value), {(type(part), part) for part in value}
    return type(value), repr(value)
