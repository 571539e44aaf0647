"""Reference solutions of HumanEval and MBPP pass through the sandbox; stubs fail."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
from pathlib import Path
from typing import Any

from sandbox import Limits, Pool, Verdict
from tests.sandbox.programs import asynchronous

EVERY = 1 if os.environ.get("ZEROTH_TEST_ALL") else 10
"""One row in this many; all with ZEROTH_TEST_ALL=1."""
ROOMY = Limits(wall_seconds=60.0, cpu_seconds=60.0)


def _rows(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt") as file:
        return [json.loads(line) for line in file][::EVERY]


async def _judge(programs: list[tuple[str, str]]) -> list[Verdict]:
    async with Pool(limits=ROOMY) as pool:
        return await asyncio.gather(*(pool.run(solution, tests) for solution, tests in programs))


@asynchronous
async def test_humaneval(data: Path) -> None:
    rows = _rows(data / "humaneval" / "humaneval.jsonl.gz")
    tests = [f"{row['tests']}\ncheck({row['entry_point']})\n" for row in rows]
    right = await _judge(
        [(row["prompt"] + row["reference_solution"], test) for row, test in zip(rows, tests, strict=True)]
    )
    assert [row["id"] for row, verdict in zip(rows, right, strict=True) if verdict.status != "passed"] == []
    stubs = await _judge([(row["prompt"] + "\n    pass\n", test) for row, test in zip(rows, tests, strict=True)])
    assert [row["id"] for row, verdict in zip(rows, stubs, strict=True) if verdict.status == "passed"] == []


@asynchronous
async def test_mbpp(data: Path) -> None:
    rows = _rows(data / "mbpp" / "mbpp.jsonl.gz")
    right = await _judge([(row["reference_solution"], row["tests"]) for row in rows])
    assert [row["id"] for row, verdict in zip(rows, right, strict=True) if verdict.status != "passed"] == []
    stubs = await _judge([(f"def {row['entry_point']}(*a, **k): pass", row["tests"]) for row in rows])
    assert [row["id"] for row, verdict in zip(rows, stubs, strict=True) if verdict.status == "passed"] == []
