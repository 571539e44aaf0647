"""Processes that train the same weights: what they add up, and what is said when one is missing."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest
import torch
from torch import nn

from model import transport
from model.ranks import Alone, Ranks, RanksError
from model.transport import Meeting

T = TypeVar("T")
CPU = torch.device("cpu")


def together(size: int, work: Callable[[Ranks], T], seconds: float = 20.0) -> list[T]:
    """What each of so many members makes of it, in threads of this process."""
    listener = transport.listening("127.0.0.1")
    meeting = Meeting(*listener.getsockname(), size, nccl=False, seconds=seconds)

    def member(rank: int) -> T:
        return work(Ranks(meeting, rank, CPU, None if rank else listener))

    with ThreadPoolExecutor(size) as threads:
        return list(threads.map(member, range(size)))


def test_gradients_are_added_up_and_a_missing_one_counts_as_zeros() -> None:
    def work(ranks: Ranks) -> tuple[list[torch.Tensor | None], torch.Tensor]:
        parameters = [nn.Parameter(torch.ones(3)) for _ in range(3)]
        parameters[0].grad = torch.arange(3.0) + ranks.rank
        if ranks.rank == 1:
            parameters[1].grad = torch.full((3,), 5.0)
        counts = torch.tensor([1.0, ranks.rank])
        ranks.add_up(parameters, counts)
        return [p.grad for p in parameters], counts

    for gradients, counts in together(2, work):
        both, one, none = gradients
        assert both is not None
        assert one is not None
        assert both.tolist() == [1.0, 3.0, 5.0]
        assert one.tolist() == [5.0, 5.0, 5.0]
        assert none is None
        assert counts.tolist() == [2.0, 1.0]


def test_a_gradient_that_lies_across_is_added_up_in_its_places() -> None:
    def work(ranks: Ranks) -> torch.Tensor:
        p = nn.Parameter(torch.zeros(2, 3))
        p.grad = torch.arange(6.0).view(3, 2).T if ranks.rank else torch.zeros(2, 3)
        ranks.add_up([p], torch.zeros(1))
        assert p.grad is not None
        return p.grad

    for gradient in together(2, work):
        assert gradient.tolist() == [[0.0, 2.0, 4.0], [1.0, 3.0, 5.0]]


@pytest.mark.parametrize(("size", "total", "largest"), [(1, 1.0, 1.0), (3, 6.0, 3.0)])
def test_numbers_of_all_members(size: int, total: float, largest: float) -> None:
    def work(ranks: Ranks) -> tuple[list[float], list[float]]:
        return ranks.sums([ranks.rank + 1, 0.5]), ranks.largest([ranks.rank + 1, -1])

    assert together(size, work) == [([total, 0.5 * size], [largest, -1.0])] * size


def test_one_alone_has_its_own_numbers() -> None:
    assert Alone().sums([1.0, 2.0]) == Alone().largest([1.0, 2.0]) == [1.0, 2.0]


def test_members_that_do_not_come_are_missed_in_time() -> None:
    listener = transport.listening("127.0.0.1")
    meeting = Meeting(*listener.getsockname(), 2, nccl=False, seconds=1.0)
    with pytest.raises(RanksError, match="did not meet at 127"):
        Ranks(meeting, 0, CPU, listener)


def test_a_member_that_is_gone_ends_the_others_with_the_remedy() -> None:
    def work(ranks: Ranks) -> str:
        ranks.sums([1.0])  # both have met
        if ranks.rank:
            return ""
        with pytest.raises(RanksError, match="trainer 0 of 2 lost the others .*--resume") as caught:
            ranks.sums([1.0])
        return str(caught.value)

    assert all(len(said.splitlines()) <= 2 for said in together(2, work, seconds=5.0))
