from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.loops import common
from model.loops.common import WORTH, shared_out


@pytest.fixture(params=[1, 2, 5], ids=lambda count: f"{count} threads")
def _threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=[True, False], ids=["OpenMP", "none"])
def _library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether torch's threads are found."""
    if not request.param:
        monkeypatch.setattr(common, "_torch_s_openmp", lambda: None)


@pytest.mark.usefixtures("_threads", "_library")
def test_each_row_is_somebody_s() -> None:
    @given(st.integers(0, 40), st.sampled_from([0, WORTH, 100 * WORTH]))
    def check(rows: int, work: int) -> None:
        seen: list[int] = []
        shared_out(lambda first, last: seen.extend(range(first, last)), rows, work)
        assert sorted(seen) == list(range(rows))

    check()


@pytest.mark.usefixtures("_threads", "_library")
def test_what_fails_in_a_thread_fails_here() -> None:
    def run(first: int, last: int) -> None:
        if last == 100:
            raise KeyError("the last row")

    with pytest.raises(KeyError, match="the last row"):
        shared_out(run, 100, WORTH)


@pytest.mark.skipif(common._torch_s_openmp() is None, reason="torch's OpenMP library was not found")
@pytest.mark.usefixtures("_threads")
def test_the_threads_are_the_same_ones_every_time() -> None:
    """And those of a product in between: with more or fewer of them their library would end some and begin others."""
    found = []
    for _ in range(3):
        ids: set[int] = set()
        shared_out(lambda first, last, ids=ids: ids.add(threading.get_native_id()), 100, WORTH)  # type: ignore[misc]
        found.append(ids)
        torch.ones(500, 500) @ torch.ones(500, 500)
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == torch.get_num_threads()
