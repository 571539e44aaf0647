"""An index of samples.jsonl that grows with the file: a few numbers a sample, so that weeks of a run fit in memory."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Filter:
    """Which samples are wanted; a group is shown when one of its samples is. Bounds are inclusive, None is open.
    ``problem`` is a part of the problem's id, ``status`` a score's ("ok", "error", "timeout")."""

    step_from: float | None = None
    step_to: float | None = None
    score_from: float | None = None
    score_to: float | None = None
    tokens_from: float | None = None
    tokens_to: float | None = None
    problem: str = ""
    status: str = ""


STATUSES = ("ok", "error", "timeout")


class SampleIndex:
    """`refresh` reads what was appended since the last call; a file that was rewritten (a resumed run forgets steps) is
    read anew. Samples of a group stand together in the file, in the order of their copies."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._begin()

    def _begin(self) -> None:
        self.read_to, self.inode = 0, -1
        self.offsets, self.steps, self.tokens = array("q"), array("q"), array("q")
        self.scores, self.statuses, self.groups = array("d"), array("b"), array("q")
        self.names: list[str] = []
        self.problems: list[str] = []

    def __len__(self) -> int:
        return len(self.offsets)

    def refresh(self) -> None:
        try:
            state = self.path.stat()
        except FileNotFoundError:
            return
        if state.st_ino != self.inode or state.st_size < self.read_to:
            self._begin()
            self.inode = state.st_ino
        with self.path.open("rb") as file:
            file.seek(self.read_to)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._add(self.read_to, json.loads(line))
                self.read_to += len(line)

    def _add(self, offset: int, sample: dict[str, Any]) -> None:
        name = group_name(sample)
        if not self.names or self.names[-1] != name:
            self.names.append(name)
            self.problems.append(sample["problem"])
        self.offsets.append(offset)
        self.steps.append(sample["step"])
        self.tokens.append(sample["tokens"])
        self.scores.append(float("nan") if sample["score"] is None else sample["score"])
        self.statuses.append(STATUSES.index(sample["status"]))
        self.groups.append(len(self.names) - 1)

    def find(self, wanted: Filter) -> list[int]:
        """The numbers of the groups that have a wanted sample, newest first."""
        keep = np.ones(len(self), dtype=bool)
        for values, low, high in (
            (self.steps, wanted.step_from, wanted.step_to),
            (self.scores, wanted.score_from, wanted.score_to),
            (self.tokens, wanted.tokens_from, wanted.tokens_to),
        ):
            column = np.array(values)
            if low is not None:
                keep &= column >= low
            if high is not None:
                keep &= column <= high
        if wanted.status:
            keep &= np.array(self.statuses) == STATUSES.index(wanted.status)
        found = np.unique(np.array(self.groups)[keep])[::-1].tolist()
        return [group for group in found if wanted.problem in self.problems[group]]

    def group(self, number: int) -> list[dict[str, Any]]:
        """The samples of one group, whole."""
        return list(self._read(self._places(number)))

    def scores_of(self, number: int) -> list[float | None]:
        return [None if math.isnan(s) else s for s in (self.scores[i] for i in self._places(number))]

    def tokens_of(self, number: int) -> list[int]:
        return [self.tokens[i] for i in self._places(number)]

    def first(self, number: int) -> dict[str, Any]:
        return next(self._read(self._places(number)[:1]))

    def _places(self, number: int) -> Sequence[int]:
        groups = np.array(self.groups)
        return range(int(np.searchsorted(groups, number)), int(np.searchsorted(groups, number, "right")))

    def _read(self, places: Sequence[int]) -> Iterator[dict[str, Any]]:
        with self.path.open("rb") as file:
            for i in places:
                file.seek(self.offsets[i])
                yield json.loads(file.readline())


def group_name(sample: dict[str, Any]) -> str:
    """Step and draw: the sample's id without its copy."""
    return f"{sample['step']}/{sample['id'].rpartition('/')[0]}"
