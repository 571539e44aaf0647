"""`zeroth bench math`: verdicts on pairs of math answers, ours beside Math-Verify's, in one run on the same pairs.

Both run in warm, killable worker processes, as many as there are cores, and see the same pairs in the same order, each
once: nothing is cached across pairs. Math-Verify is called as its documentation says: ``verify(parse(gold),
parse(answer))``. A verdict that is late or fails counts as "not equal" for both.
"""

from __future__ import annotations

import asyncio
import os
import re
import statistics
import time
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from jobs import console
from jobs.options import AsJson, Out

LIMIT_S = 10.0
_PROSE = re.compile(r"(?<![\\a-zA-Z{])[A-Za-z]{3,} ")  # a word of its own, which is no command and not in \text{}


def command(
    workers: Annotated[int, typer.Option(min=1, help="Worker processes of each.")] = len(os.sched_getaffinity(0)),
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Math verdicts beside Math-Verify's on the same pairs: pairs a second, and how many are right."""
    from rich.table import Table

    from jobs.bench import record

    results = record.stamped(asyncio.run(measure(workers)))
    if as_json or out:
        record.emit(results, out)
    table = Table("", "pairs/s", "ms, median", "ms, 99 %", "accuracy", "true positives", "false positives")
    for name, row in results["graders"].items():
        figures = (f"{row[key]:.3f}" for key in ("accuracy", "true_positives", "false_positives"))
        table.add_row(name, f"{row['pairs_per_second']:.0f}", f"{row['p50_ms']:.2f}", f"{row['p99_ms']:.1f}", *figures)
    console.console.print(table)
    console.say(f"{results['times_faster']:.1f} times Math-Verify's throughput")


async def measure(workers: int) -> dict[str, Any]:
    """Both graders over the whole suite, one after the other."""
    from jobs.bench.math_pairs import pairs

    suite = list({(pair.gold, pair.answer): pair for pair in pairs()}.values())
    truth = [pair.equal for pair in suite]
    texts = [(pair.gold, pair.answer) for pair in suite]
    graders = {
        "zeroth": figures(truth, *await timed("jobs.bench.math:ours", texts, workers, direct=True)),
        "zeroth, every pair in a worker": figures(truth, *await timed("jobs.bench.math:ours", texts, workers)),
        "Math-Verify": figures(truth, *await timed("jobs.bench.math:theirs", texts, workers)),
    }
    ratio = graders["zeroth"]["pairs_per_second"] / graders["Math-Verify"]["pairs_per_second"]
    return {"bench": "math", "pairs": len(suite), "workers": workers, "graders": graders, "times_faster": ratio}


async def timed(
    task: str, texts: Sequence[tuple[str, str]], workers: int, *, direct: bool = False
) -> tuple[float, list[bool], list[float]]:
    """Seconds for all pairs, the verdicts, and each pair's own seconds; ``direct`` takes the exact path first, as the
    reward does, and asks a worker only for the rest."""
    from rewards.math_answer import at_once, bare_answer
    from rewards.workers import WorkerLimits, Workers

    limits = WorkerLimits(wall_s=LIMIT_S, cpu_s=LIMIT_S, memory_mb=2048)
    pool = Workers(task, workers, limits)
    try:
        await asyncio.gather(*(pool.ask("1/2", r"\frac{1}{2}x") for _ in range(workers * 4)))

        async def judge(gold: str, answer: str) -> tuple[bool, float]:
            started = time.perf_counter()
            if direct:
                wanted, given = bare_answer(gold), bare_answer(answer)
                verdict = at_once(wanted, given) if wanted is not None and given is not None else None
                if verdict is not None:
                    return verdict.equal is True, time.perf_counter() - started
            outcome = await pool.ask(gold, answer)
            return outcome.result is True, outcome.seconds

        started = time.perf_counter()
        answers = await asyncio.gather(*(judge(gold, answer) for gold, answer in texts))
        return time.perf_counter() - started, [equal for equal, _ in answers], [seconds for _, seconds in answers]
    finally:
        await asyncio.to_thread(pool.close)


def ours(gold: str, answer: str) -> bool:
    """The worker's side of ours."""
    from rewards.answers.judge import judge
    from rewards.math_answer import bare_answer

    wanted, given = bare_answer(gold), bare_answer(answer)
    return wanted is not None and given is not None and judge(wanted, given)


def theirs(gold: str, answer: str) -> bool:
    """The worker's side of Math-Verify; its own time-outs are off, because the worker's limit takes their place.

    It looks for formulas in a text, so a bare formula is put in dollars, and a text with dollars, a box or prose is
    left as it is.
    """
    from math_verify import parse, verify

    def read(text: str) -> Any:
        found = "$" in text or "\\boxed" in text or _PROSE.search(text)
        return parse(text if found else f"${text}$", parsing_timeout=None)

    return bool(verify(read(gold), read(answer), timeout_seconds=None))


def warm_up() -> None:
    """Imports and fills the parsers' tables before workers are forked, for both."""
    import logging

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    from rewards.answers import judge

    judge.warm_up()
    theirs(r"\frac{1}{2}", "0.5")


def figures(truth: Sequence[bool], seconds: float, verdicts: Sequence[bool], each: Sequence[float]) -> dict[str, float]:
    """Throughput, latency and correctness of one grader."""
    right = sum(verdict is equal for verdict, equal in zip(verdicts, truth, strict=True))
    positives = [verdict for verdict, equal in zip(verdicts, truth, strict=True) if equal]
    negatives = [verdict for verdict, equal in zip(verdicts, truth, strict=True) if not equal]
    return {
        "seconds": seconds,
        "pairs_per_second": len(truth) / seconds,
        "p50_ms": 1000 * statistics.median(each),
        "p99_ms": 1000 * statistics.quantiles(each, n=100)[98],
        "accuracy": right / len(truth),
        "true_positives": sum(positives) / len(positives),
        "false_positives": sum(negatives) / len(negatives),
    }
