"""Prints, as JSON, which programs of the suites get a wrong verdict: run as another user or in another place,
none must. ``python -m tests.sandbox.everywhere [--quick]``, standard library only."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import Any

from sandbox import client
from tests.sandbox.attacks import ATTACKS
from tests.sandbox.honest import HONEST
from tests.sandbox.programs import SMALL

QUICK_STEP = 10


def programs(quick: bool) -> list[tuple[str, str, Any, tuple[str, ...], Any]]:
    """(id, code, tests, right verdicts, limits); ``quick`` leaves most of each family out."""
    chosen = []
    for attack in ATTACKS:
        if not any(word in attack.code for word in ("MARK", "SPOT", "SOCKET", "PORT", "ABSTRACT")):
            chosen.append((attack.id, attack.code, attack.tests, attack.expected, SMALL))
    if quick:
        chosen = [row for row in chosen if row[3] != ("time_limit",)][::QUICK_STEP]
    roomy = replace(SMALL, wall_seconds=20.0, cpu_seconds=20.0, memory_mb=512, output_kb=8192, disk_mb=64)
    chosen += [
        (f"honest-{one.name}", one.code, one.tests, ("passed",), roomy)
        for one in HONEST[:: 5 if quick else 1]
        if not one.needs
    ]
    return chosen


def main(arguments: list[str]) -> None:
    worker = client.WorkerProcess(unsafe=False)
    print(json.dumps({"mechanisms": worker.ready()}), file=sys.stderr)
    wrong = {}
    count = 0
    for name, code, tests, expected, limits in programs("--quick" in arguments):
        verdict = worker.judge(client.request(code, tests, "python", limits))
        count += 1
        if verdict.status not in expected:
            wrong[name] = f"{verdict.status} {verdict.detail}"
    worker.close()
    print(json.dumps({"programs": count, "wrong": wrong}))


if __name__ == "__main__":
    main(sys.argv[1:])
