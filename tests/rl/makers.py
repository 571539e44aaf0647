"""Groups made by hand."""

from __future__ import annotations

from collections.abc import Sequence

from model.engine import Completion
from rewards import Score
from rl.problems import Draw, Problem
from rl.rollout import Group


def problem(name: str = "p") -> Problem:
    return Problem(name, "q", "math", {"id": name, "prompt": "q", "reward": "math"})


def completion(ids: Sequence[int], logprob: float = -1.0, version: int = 0, reason: str = "stop") -> Completion:
    count = len(ids)
    return Completion(tuple(ids), (logprob,) * count, (version,) * count, reason, "text")  # type: ignore[arg-type]


def group(
    completions: Sequence[Sequence[int]],
    values: Sequence[float | None],
    advantages: Sequence[float | None] | None = None,
    prompt: Sequence[int] = (3, 4),
    name: str = "p",
) -> Group:
    scores = tuple(Score(None, "error") if v is None else Score(v) for v in values)
    return Group(
        Draw(problem(name), 0),
        tuple(prompt),
        tuple(completion(ids) for ids in completions),
        scores,
        tuple(advantages if advantages is not None else values),
    )
