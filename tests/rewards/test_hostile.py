"""No response hangs, lies or grows the memory. Large form: ZEROTH_CHECKS=100000 pytest tests/rewards/test_hostile.py"""

import asyncio
import itertools
import os
import sys
import time
from pathlib import Path

import pytest

from rewards import Sample, find
from tests.rewards.hostile import cases

CASES = list(cases())
LIMIT_S = 10.0
CHECKS = int(os.environ.get("ZEROTH_CHECKS", "3000"))


def test_there_are_enough_of_them():
    assert len(CASES) >= 300


async def _judge_all():
    reward = find("math", workers=2, timeout_s=LIMIT_S)
    await reward([Sample({"answer": "x+1"}, r"\boxed{1+x}")])  # starts the workers
    answers = []
    for case in CASES:
        started = time.monotonic()
        (score,) = await reward([Sample({"answer": case.gold}, case.response)])
        answers.append((case, score, time.monotonic() - started))
    await reward.close()
    return answers


@pytest.fixture(scope="module")
def answers():
    return asyncio.run(_judge_all())


def test_every_verdict_is_right(answers):
    wrong = [
        (case.kind, case.response[:80], case.value, score) for case, score, _ in answers if score.value != case.value
    ]
    assert wrong == []


def test_every_verdict_comes_within_its_limit(answers):
    late = [(case.kind, case.response[:80], seconds) for case, _, seconds in answers if seconds > LIMIT_S + 0.1]
    assert late == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_stays_flat_over_many_checks():
    """Resident memory of this process and all its workers, after a first tenth and at the end."""
    small = [case for case in CASES if len(case.response) < 5000]

    async def check_many():
        reward = find("math", workers=2, timeout_s=LIMIT_S)
        stream = itertools.cycle(small)
        tenth = 0
        for batch in range(CHECKS // 100):
            chosen = [next(stream) for _ in range(100)]
            samples = [Sample({"answer": case.gold}, case.response + " " * (batch % 97)) for case in chosen]
            await reward(samples)
            reward.forget()
            if batch == max(2, CHECKS // 1000):
                tenth = _resident_mb()
        end = _resident_mb()
        await reward.close()
        return tenth, end

    tenth, end = asyncio.run(check_many())
    print(f"{CHECKS} checks: {tenth:.0f} MB after a tenth, {end:.0f} MB at the end")
    assert end < tenth + 60


def _resident_mb():
    return sum(_resident_kb(pid) for pid in _family(os.getpid())) / 1024


def _family(pid):
    """The process and its descendants."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += _family(int(child))
    return found


def _resident_kb(pid):
    """The proportional share: pages that forked workers share are counted once."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
