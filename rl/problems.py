"""Problems: what a policy is asked, and what its reward needs."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from rl import jsonl
from rl.jsonl import DataError


class ProblemError(DataError):
    """A problem that cannot be used."""


@dataclass(frozen=True)
class Problem:
    """``fields`` is the whole line, ``id``, ``prompt`` and ``reward`` included; a reward reads what it needs from it.
    ``prompt`` is text or a list of messages {"role", "content"}."""

    id: str
    prompt: str | tuple[Mapping[str, str], ...]
    reward: str
    fields: Mapping[str, Any]


R1_ZERO = (
    "A conversation between User and Assistant. The User asks a question and the Assistant solves it. The Assistant "
    "first thinks about the reasoning process and then gives the answer, as <think> reasoning process </think> "
    "<answer> answer </answer>.\nUser: {prompt}\nAssistant: <think>"
)
"""The default template: the form of DeepSeek-R1-Zero's (arXiv:2501.12948, table 1), in our words."""


def from_fields(fields: Mapping[str, Any], place: str) -> Problem:
    """A problem from its fields; ``place`` names it in errors. Raises ProblemError."""
    for key in ("id", "prompt", "reward"):
        if key not in fields:
            raise ProblemError(f'{place}: the problem has no "{key}"')
    identity, prompt, reward = fields["id"], fields["prompt"], fields["reward"]
    if not isinstance(identity, str | int) or isinstance(identity, bool) or identity == "":
        raise ProblemError(f'{place}: "id" must be a text or a whole number, not {identity!r}')
    if not isinstance(reward, str):
        raise ProblemError(f'{place}: "reward" must be a name such as "math", not {reward!r}')
    if isinstance(prompt, list):
        if not prompt or not all(_is_message(message) for message in prompt):
            raise ProblemError(f'{place}: a "prompt" list holds messages {{"role": text, "content": text}}')
        return Problem(str(identity), tuple(prompt), reward, fields)
    if not isinstance(prompt, str) or not prompt.strip():
        raise ProblemError(f'{place}: "prompt" must be a text or a list of messages, not {prompt!r}')
    return Problem(str(identity), prompt, reward, fields)


def load(path: Path) -> list[Problem]:
    """Every problem of a JSONL file (packed where it ends in .gz); blank lines are skipped. Raises DataError for the
    first line that is malformed or repeats an id, and for a file that is absent or holds no problem."""
    places: dict[str, str] = {}
    problems: list[Problem] = []
    for place, fields in jsonl.lines(path, "problems"):
        problem = from_fields(fields, place)
        if problem.id in places:
            raise ProblemError(f"{place}: the id {problem.id!r} was used at {places[problem.id]} already")
        places[problem.id] = place
        problems.append(problem)
    return problems


def render(problem: Problem, template: str) -> str:
    """The text that a policy completes. Messages are laid out as "Role: content" lines and take the prompt's place."""
    from model.chat import fill

    return fill(template, problem.prompt)


@dataclass(frozen=True)
class Draw:
    """One problem's turn in the endless, shuffled stream of epochs, at ``place`` of it (-1 where it is of none)."""

    problem: Problem
    epoch: int
    place: int = -1

    def sample_id(self, copy: int) -> str:
        return f"{self.problem.id}/{self.epoch}/{copy}"


class Stream:
    """Problems in an order that depends on the seed alone: place i of the stream is always the same draw, so a run
    is resumed by remembering one number."""

    def __init__(self, problems: Sequence[Problem], seed: int) -> None:
        self.problems = problems
        self._order = lru_cache(maxsize=2)(lambda epoch: _shuffled(len(problems), f"{seed}/{epoch}"))

    @property
    def order(self) -> str:
        """What tells problems from others, or from the same in another order."""
        ids = json.dumps([problem.id for problem in self.problems])
        return f"{len(self.problems)} problems, {hashlib.blake2b(ids.encode(), digest_size=4).hexdigest()}"

    def __getitem__(self, place: int) -> Draw:
        epoch, index = divmod(place, len(self.problems))
        return Draw(self.problems[self._order(epoch)[index]], epoch, place)


def _shuffled(count: int, seed: str) -> list[int]:
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return order


def _is_message(message: Any) -> bool:
    return (
        isinstance(message, dict)
        and isinstance(message.get("role"), str)
        and message["role"] != ""
        and isinstance(message.get("content"), str)
    )
