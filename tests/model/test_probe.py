"""A prompt follows the parts of a publish, somewhat behind the first of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from model.parts import Outline, Part
from model.probe import HEAD_START, Following, Probed

FOUND = iter(Probed(torch.zeros(3, 1, 4), torch.zeros(1)))


class Walk:
    """As `model.walk.Walk`: keeps the names of the parts that it is led through."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def through(self, part: Part) -> None:
        self.names.append(part.name)

    def found(self) -> Iterator[Tensor]:
        return FOUND


def part(number: int) -> Part:
    return Outline.of(str(number), {}).empty(torch.device("cpu"))


@pytest.mark.parametrize("parts", [0, 1, HEAD_START, HEAD_START + 1, 20])
def test_it_goes_through_every_part_once_and_in_order(parts: int) -> None:
    walk = Walk()
    follower = Following(walk)  # type: ignore[arg-type]
    for i in range(parts):
        follower.through(part(i))
    assert follower.found() is FOUND
    assert walk.names == [str(i) for i in range(parts)]


def test_it_lets_the_first_parts_go_ahead_and_catches_up() -> None:
    walk, behind = Walk(), []
    follower = Following(walk)  # type: ignore[arg-type]
    for i in range(4 * HEAD_START):
        follower.through(part(i))
        behind.append(i + 1 - len(walk.names))
    assert behind[:HEAD_START] == [*range(1, HEAD_START + 1)]
    assert not any(behind[2 * HEAD_START :])
