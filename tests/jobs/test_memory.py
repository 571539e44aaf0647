"""A process that keeps what it frees is not given cleared pages for every large block again."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from concurrent.futures import ThreadPoolExecutor
from jobs import memory

def faults():
    blocks = [bytearray(2**23) for _ in range(8)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

if sys.argv[1] == "keep":
    memory.keep_freed()
with ThreadPoolExecutor(1) as thread:
    first, second = (thread.submit(faults).result() for _ in range(2))
print(second - first)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_large_blocks_are_used_again() -> None:
    def faults(mode: str) -> int:
        # Where another test has begun a cluster, processes are started with pages of 2 MiB, of which few are needed.
        env = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
        call = [sys.executable, "-c", PROGRAM, mode]
        return int(subprocess.run(call, env=env, capture_output=True, text=True, check=True).stdout)

    assert faults("keep") < 100 < faults("as it is")
