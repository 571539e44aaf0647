"""What an evaluation has answered so far: samples.jsonl, one line a sample, and settings.json, in one folder.

A line is written once its response is scored, so a killed evaluation loses what was being answered and nothing else.
The settings say what the samples are samples of; a folder is continued only with the same ones.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from jobs.evaluation.sources import Answer, Batch, Wanted
from jobs.files import same_settings
from rewards import Score
from rewards.answers.boxes import find_answer
from rl.problems import ProblemError

SAMPLES, SETTINGS, RESULT = "samples.jsonl", "settings.json", "result.json"


@dataclass(frozen=True)
class Judged:
    """One sample without its text. ``score`` is None where it could not be judged, for the reason in ``detail``;
    ``answer`` is what a math response put in its box."""

    suite: str
    problem: str
    reward: str
    copy: int
    score: float | None
    detail: str
    answer: str
    tokens: int | None
    finish_reason: str | None

    @staticmethod
    def read(line: Mapping[str, Any]) -> Judged:
        return Judged(**{name: line[name] for name in Judged.__dataclass_fields__})


class Record:
    """The samples of one evaluation: in memory, and in ``folder`` where there is one, which the caller holds
    (`jobs.files.held`). Raises FolderError where the folder holds samples of other settings."""

    def __init__(self, folder: Path | None, settings: Mapping[str, Any]) -> None:
        self.samples: dict[tuple[str, str, int], Judged] = {}
        self._file: BinaryIO | None = None
        if folder is None:
            return
        self._file = (folder / SAMPLES).open("a+b")
        same_settings(folder / SETTINGS, settings, "an evaluation")
        self._file.truncate(_whole_lines(folder / SAMPLES))
        for judged in read(folder):
            self._keep(judged)

    def __enter__(self) -> Record:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()

    def has(self, wanted: Wanted) -> bool:
        return (wanted.suite, wanted.problem.id, wanted.copy) in self.samples

    def add(self, batch: Batch, scores: Sequence[Score]) -> None:
        """Keeps answers with their scores, on disk before it returns."""
        lines = [to_line(wanted, answer, score) for (wanted, answer), score in zip(batch, scores, strict=True)]
        if self._file is not None:
            self._file.write("".join(json.dumps(line) + "\n" for line in lines).encode())
            self._file.flush()
            os.fsync(self._file.fileno())
        for line in lines:
            self._keep(Judged.read(line))

    def _keep(self, judged: Judged) -> None:
        self.samples[judged.suite, judged.problem, judged.copy] = judged


def to_line(wanted: Wanted, answer: Answer, score: Score) -> dict[str, Any]:
    """A sample as a line of samples.jsonl; fields are named as in a training run's."""
    boxed = ", ".join(find_answer(answer.text).answers) if wanted.problem.reward == "math" else ""
    return {
        "id": wanted.id,
        "suite": wanted.suite,
        "problem": wanted.problem.id,
        "reward": wanted.problem.reward,
        "copy": wanted.copy,
        "text": answer.text,
        "answer": boxed,
        "tokens": answer.tokens,
        "finish_reason": answer.finish_reason,
        "score": score.value,
        "status": score.status,
        "detail": score.detail,
    }


def read(folder: Path) -> list[Judged]:
    """The samples of an evaluation's folder. Raises ProblemError where it holds none, or lines of another kind."""
    path = folder / SAMPLES
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise ProblemError(f"{folder}: no evaluation (made with --out) in this folder: {error.strerror}") from None
    found = []
    for number, line in enumerate(lines[:-1], 1):
        try:
            found.append(Judged.read(json.loads(line)))
        except (ValueError, KeyError, TypeError) as error:
            raise ProblemError(f"{path}:{number}: no sample of an evaluation ({error!r})") from None
    return found


def _whole_lines(path: Path) -> int:
    """The length of the file without a last line that a kill cut off."""
    with path.open("rb") as file:
        return file.read().rfind(b"\n") + 1
