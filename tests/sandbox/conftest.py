"""One worker for most tests: its processes can be looked at from outside after each program."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox import Limits, Verdict, client, watch
from tests.sandbox.programs import SMALL


class Bench:
    """A worker and what its processes hold."""

    def __init__(self) -> None:
        os.environ["ZEROTH_SECRET"] = "ZEROTH_SECRET_VALUE"
        self.worker = client.WorkerProcess(unsafe=False)
        self.mechanisms = self.worker.ready()

    def judge(self, solution: str, tests: Any = None, limits: Limits = SMALL, language: str = "python") -> Verdict:
        return self.worker.judge(client.request(solution, tests, language, limits))

    @property
    def pid(self) -> int:
        return self.worker._process.pid

    @property
    def zygote(self) -> int:
        (zygote,) = watch.children(self.pid)
        return zygote

    def holdings(self) -> dict[str, Any]:
        """What a run could have left behind: processes, descriptors, mounts."""
        return {
            "processes": watch.children(self.zygote),
            "descriptors": [len(os.listdir(f"/proc/{pid}/fd")) for pid in (self.pid, self.zygote)],
            "mounts": len(Path(f"/proc/{self.zygote}/mounts").read_text().splitlines()),
        }


@pytest.fixture(scope="session")
def bench() -> Iterator[Bench]:
    bench = Bench()
    bench.judge("print(1)")
    yield bench
    bench.worker.close()
