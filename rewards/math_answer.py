"""The math reward: is the response's answer the gold answer?

    response -> answers.boxes (where it stands) -> answers.exact (plain numbers, here) -> a killable worker -> verdict

The verdict has three values. "Cannot tell" (an error, a time-out) is None with the reason and is never turned into a
wrong answer; only ``equivalent``, which answers a plain bool, has to call it unequal.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rewards.answers.boxes import find_answer
from rewards.answers.exact import read_number, same_number
from rewards.errors import BadProblem
from rewards.protocol import Sample, Score, Status
from rewards.workers import Outcome, WorkerLimits, Workers

TASK = "rewards.answers.judge:judge"
MAX_ANSWER = 4000  # characters; a longer text is not an answer, and scores 0
MAX_CACHED = 1000
_MARKS = ("\\boxed", "\\fbox", "\\framebox", "<answer>")


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether two answers are equal: True, False, or None where the checker could not tell, and why."""

    equal: bool | None
    status: Status = "ok"
    detail: str = ""


class MathReward:
    """1.0 where the response's answer equals the problem's ``answer``, else 0.0.

    ``workers`` processes check at once, each answer within ``timeout_s`` seconds and ``memory_mb`` megabytes. A check
    that fails or takes too long gives no value.
    """

    def __init__(self, workers: int = 0, timeout_s: float = 2.0, memory_mb: int = 512) -> None:
        limits = WorkerLimits(wall_s=timeout_s, cpu_s=timeout_s, memory_mb=memory_mb)
        self._workers = Workers(TASK, workers or os.cpu_count() or 1, limits)
        self._known = _Known()

    def check(self, problem: Mapping[str, Any]) -> None:
        """Raises BadProblem where the problem has no answer to compare with."""
        gold_of(problem)

    async def __call__(self, samples: Sequence[Sample], /) -> list[Score]:
        return list(await asyncio.gather(*(self._judge(sample) for sample in samples)))

    def forget(self) -> None:
        """Drops the remembered verdicts."""
        self._known = _Known()

    async def close(self) -> None:
        await asyncio.to_thread(self._workers.close)

    async def _judge(self, sample: Sample) -> Score:
        try:
            gold = gold_of(sample.problem)
        except BadProblem as error:
            return Score(None, "error", detail=str(error))
        found = find_answer(sample.response)
        if not found.answers:
            return Score(0.0, detail=found.problem)
        answer = join(found.answers)
        verdict = at_once(gold, answer) or self._known.get(gold, answer)
        if verdict is None:
            verdict = read_outcome(await self._workers.ask(gold, answer))
            self._known.put(gold, answer, verdict)
        if verdict.equal is None:
            return Score(None, verdict.status, detail=verdict.detail)
        return Score(float(verdict.equal), detail=verdict.detail)


def gold_of(problem: Mapping[str, Any]) -> str:
    """The problem's gold answer as text; a list of answers becomes one list answer. Raises BadProblem without one."""
    gold = problem.get("answer")
    if isinstance(gold, (list, tuple)) and gold and all(isinstance(part, (str, int, float)) for part in gold):
        return ", ".join(str(part) for part in gold)
    if isinstance(gold, bool) or not isinstance(gold, (str, int, float)) or not str(gold).strip():
        raise BadProblem("the math reward needs the field 'answer': the gold answer as a non-empty string or a number")
    return str(gold)


def equivalent(gold: str, answer: str, timeout_s: float = 2.0) -> bool:
    """Whether the answer says the same as the gold answer; safe to call on hostile text, from any thread.

    Either may be a bare answer or a text with a box or an answer tag. What cannot be judged within the limit is not
    equal.
    """
    return compare(gold, answer, timeout_s).equal is True


def compare(gold: str, answer: str, timeout_s: float = 2.0) -> Verdict:
    """The three-valued form of ``equivalent``."""
    wanted, given = bare_answer(gold), bare_answer(answer)
    if wanted is None or given is None:
        return Verdict(False, detail="no complete answer in the text")
    verdict = at_once(wanted, given)
    return verdict if verdict is not None else read_outcome(_shared().run(wanted, given, wall_s=timeout_s))


def bare_answer(text: str) -> str | None:
    """The answer in a text with a box or an answer tag, or the text itself; None where its box or tag is broken."""
    if not any(mark in text for mark in _MARKS):
        return text
    found = find_answer(text)
    return join(found.answers) if found.answers else None


def join(answers: Sequence[str]) -> str:
    """Several boxes as one list answer."""
    return ", ".join(answers)


def at_once(gold: str, answer: str) -> Verdict | None:
    """The verdict where it needs no parser, or None."""
    if len(answer) > max(MAX_ANSWER, 2 * len(gold)):
        return Verdict(False, detail=f"an answer of {len(answer)} characters")
    if not answer.strip():
        return Verdict(False, detail="an empty answer")
    left, right = read_number(gold), read_number(answer)
    if left is not None and right is not None:
        return Verdict(same_number(left, right))
    return None


def read_outcome(outcome: Outcome) -> Verdict:
    """A worker's outcome as a verdict."""
    if outcome.status != "ok":
        return Verdict(None, outcome.status, outcome.detail)
    return Verdict(bool(outcome.result))


class _Known:
    """Verdicts already given; the samples of one group often repeat an answer. Time-outs are not remembered."""

    def __init__(self) -> None:
        self._verdicts: OrderedDict[tuple[str, str], Verdict] = OrderedDict()

    def get(self, gold: str, answer: str) -> Verdict | None:
        return self._verdicts.get((gold, answer))

    def put(self, gold: str, answer: str, verdict: Verdict) -> None:
        if verdict.equal is not None:
            self._verdicts[gold, answer] = verdict
            if len(self._verdicts) > MAX_CACHED:
                self._verdicts.popitem(last=False)


_SHARED: list[Workers] = []
_SHARED_LOCK = threading.Lock()


def _shared() -> Workers:
    with _SHARED_LOCK:
        if not _SHARED:
            _SHARED.append(Workers(TASK, os.cpu_count() or 1))
        return _SHARED[0]
