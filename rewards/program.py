"""The code reward: the response's program against the problem's tests, in the sandbox."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rewards.errors import BadProblem, BadSetting
from rewards.protocol import Sample, Score

_FUTURE = re.compile(r"^from __future__ import .*\n", re.MULTILINE)

TESTS_SHOWN = 20
"""How many tests a failed program's detail names, a line each."""


class CodeReward:
    """1.0 where the program passes every test, else 0.0; with ``credit="share"`` the share of tests that it passes.

    The program is the last complete fenced block of the response, or all of the response where there is none. The
    problem gives ``tests`` (pairs of stdin and stdout, function calls with expected values, or assert-style Python)
    and may give ``language``, and a ``prefix`` that stands before the program (HumanEval's: imports, helpers and the
    head of the function, whose body or whole text follows). A failure of the sandbox itself is an error without a
    value, never 0. ``workers`` is the number of sandboxes at work at once; ``limits`` sets fields of
    ``sandbox.Limits`` (``{"wall_seconds": 5}``).
    """

    def __init__(
        self,
        credit: Literal["all", "share"] = "all",
        workers: int = 2,
        limits: Mapping[str, Any] | None = None,
    ) -> None:
        if credit not in ("all", "share"):
            raise BadSetting(f"code: credit is 'all' or 'share', not {credit!r}")
        self.credit = credit
        self.workers = workers
        self.limits = dict(limits or {})
        self._pool: Any = None

    def check(self, problem: Mapping[str, Any]) -> None:
        """Raises BadProblem where the problem has no tests that the sandbox could run."""
        tests = problem.get("tests")
        if isinstance(tests, str) and tests.strip():
            return
        if not isinstance(tests, list) or not tests:
            raise BadProblem(
                "the code reward needs the field 'tests': a non-empty list of tests, or assert-style Python"
            )
        for index, test in enumerate(tests):
            fault = _fault_in_test(test)
            if fault:
                raise BadProblem(f"tests[{index}] {fault}")

    async def __call__(self, samples: Sequence[Sample], /) -> list[Score]:
        if not samples:
            return []
        pool = self._open()
        return list(await asyncio.gather(*(self._judge(pool, sample) for sample in samples)))

    async def close(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close()

    def _open(self) -> Any:
        if self._pool is None:
            from sandbox import Limits, Pool

            try:
                limits = Limits(**self.limits)
            except TypeError as error:
                raise BadSetting(f"code: limits: {error}") from error
            self._pool = Pool(workers=self.workers, limits=limits)
        return self._pool

    async def _judge(self, pool: Any, sample: Sample) -> Score:
        try:
            self.check(sample.problem)
        except BadProblem as error:
            return Score(None, "error", detail=str(error))
        language = str(sample.problem.get("language", "python"))
        try:
            verdict = await pool.run(program_of(sample), sample.problem["tests"], language=language)
        except Exception as error:  # noqa: BLE001  the sandbox broke, not the candidate: reported, never scored
            return Score(None, "error", detail=f"sandbox: {type(error).__name__}: {error}")
        return score_of(verdict, self.credit)


def score_of(verdict: Any, credit: str = "all") -> Score:
    """A sandbox verdict as a Score."""
    if verdict.status == "sandbox_error":
        return Score(None, "error", detail=f"sandbox: {verdict.detail}")
    detail = f"{verdict.status}: {verdict.passed} of {verdict.total} tests passed"
    if verdict.detail:
        detail += f"; {verdict.detail}"
    if verdict.status not in ("passed", "compile_error"):
        detail += "".join(f"\ntest {i}: {said(test)}" for i, test in enumerate(verdict.tests[:TESTS_SHOWN], 1))
    if credit == "share" and verdict.total:
        return Score(verdict.passed / verdict.total, detail=detail)
    return Score(1.0 if verdict.status == "passed" else 0.0, detail=detail)


def program_of(sample: Sample) -> str:
    """The response's program behind the problem's ``prefix``; future imports, which must come first, are moved up."""
    program, prefix = extract_program(sample.response), str(sample.problem.get("prefix", ""))
    if not prefix:
        return program
    futures = "".join(_FUTURE.findall(program))
    return f"{futures}{prefix}\n{_FUTURE.sub('', program)}"


def said(test: Any) -> str:
    """One test's result in one line."""
    return f"{test.status}: {' '.join(test.detail.split())[:200]}" if test.detail else str(test.status)


def extract_program(response: str) -> str:
    """The last complete fenced block of the response, or all of it where there is none."""
    last: list[str] | None = None
    inside: list[str] | None = None
    for line in response.splitlines(keepends=True):
        mark = line.strip()
        if inside is None:
            inside = [] if mark.startswith("```") and "`" not in mark[3:] else None
        elif mark == "```":
            last, inside = inside, None
        else:
            inside.append(line)
    return response if last is None else "".join(last)


def _fault_in_test(test: object) -> str:
    if not isinstance(test, dict):
        return f"is {type(test).__name__}, not an object"
    if "stdin" in test or "stdout" in test:
        missing = {"stdin", "stdout"} - set(test)
        return f"lacks {', '.join(sorted(missing))}" if missing else ""
    if "function" in test:
        missing = {"args", "expected"} - set(test)
        return f"lacks {', '.join(sorted(missing))}" if missing else ""
    return "has neither stdin and stdout nor function, args and expected"
