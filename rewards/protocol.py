"""The two types that every reward shares: what it is given and what it answers.

A reward scores a batch, because the expensive parts (worker processes, HTTP calls, a reward model) are shared
by a batch; a reward that looks at one response at a time loops over it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Status = Literal["ok", "error", "timeout"]


@dataclass(frozen=True, slots=True)
class Score:
    """One response's score.

    ``value`` is None exactly when ``status`` is not "ok": the checker could not judge, and the sample is left out
    of its group's advantage. A wrong or hostile response is "ok" with a low value. ``parts`` holds the components
    that a mix was made of, each logged under its name. ``detail`` is for a person: a line, and further ones where there
    is more to say (a program's tests).
    """

    value: float | None
    status: Status = "ok"
    parts: Mapping[str, float] = field(default_factory=dict)
    detail: str = ""

    def __post_init__(self) -> None:
        if (self.value is None) == (self.status == "ok"):
            raise ValueError(
                f"a Score has a value exactly when its status is ok, not {self.value!r} with {self.status!r}"
            )
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(
                f"a Score's value is a finite number, not {self.value}: report what could not be judged as an error"
            )


@dataclass(frozen=True, slots=True)
class Sample:
    """What a reward is given: the problem as its line in the problem file says it, extra fields included
    (``id``, ``prompt``, ``answer``, ``tests``, ...), and the text of one response."""

    problem: Mapping[str, Any]
    response: str


class Reward(Protocol):
    """Scores responses: one Score for each sample, in order. Never raises for what a response says."""

    async def __call__(self, samples: Sequence[Sample], /) -> list[Score]: ...

    async def close(self) -> None:
        """Ends worker processes and connections; the reward is not used afterwards."""
