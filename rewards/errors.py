"""What a user of the rewards did wrong: each message says where and how to put it right."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UnknownReward(LookupError):
    """No reward has this name. The message lists the known ones and the nearest."""

    exit_status = 2

    def __init__(self, name: str, known: Iterable[str], reason: str = "") -> None:
        known = sorted(known)
        near = get_close_matches(name, known, n=1, cutoff=0.5)
        guess = f"; did you mean {near[0]!r}?" if near else ""
        why = f" ({reason})" if reason else ""
        super().__init__(
            f"unknown reward {name!r}{why}{guess} known: {', '.join(known)}, module:object, DIALECT:file.py:function"
        )
        self.name = name

    def __str__(self) -> str:
        return str(self.args[0])


class BadProblem(ValueError):
    """A problem lacks what its reward needs; found before any work starts."""

    exit_status = 2


class BadSetting(ValueError):
    """A reward was given a setting that it does not have, or a value that it cannot use."""

    exit_status = 2
