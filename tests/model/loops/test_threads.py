from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import numba
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.loops import threads as threads_module
from model.loops.threads import THREAD, WORTH, in_threads, shared_out
from tests.model.loops import torch_threads


@pytest.fixture(params=[1, 2, 5], ids=lambda count: f"{count} threads")
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    with torch_threads(request.param):
        yield request.param


@numba.njit
def _count(first: int, last: int, seen: Any, by: int) -> None:
    for row in range(first, last):
        seen[row] += by


_count_in_threads = in_threads(_count)


@numba.njit
def count(threads: int, rows: int, *args: Any) -> None:
    _count_in_threads(threads, rows, args)


def test_each_row_is_somebody_s(threads: int) -> None:
    @settings(deadline=None)
    @given(st.integers(0, 40), st.sampled_from([0, WORTH, 100 * WORTH]))
    def check(rows: int, work: int) -> None:
        seen = np.zeros(rows + 1, np.int64)
        shared_out(count, rows, work, seen, 3)
        assert seen.tolist() == [3] * rows + [0]

    check()


@pytest.mark.skipif(threads_module.LIBRARY is None, reason="torch's OpenMP library was not found")
def test_the_threads_are_torch_s_own(threads: int) -> None:
    """A product in between finds as many as there were: of any other number the library would end some."""
    if threads > len(os.sched_getaffinity(0)):
        pytest.skip("a product takes no more threads than there are processors")
    found = []
    for _ in range(4):
        torch.ones(500, 500) @ torch.ones(500, 500)
        shared_out(count, 1000, WORTH, np.zeros(1000, np.int64), 1)
        time.sleep(0.2)  # until those have ended that another test had begun
        found.append(set(os.listdir("/proc/self/task")))
    assert found[1] == found[2] == found[3]
    assert getattr(threads_module.LIBRARY, THREAD)() == 0
