"""What a user of the rewards did wrong: each message says where and how to put it right."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from traceback import extract_tb


class UnknownReward(LookupError):
    """No reward has this name, or what it names cannot be one (``reason``). The message lists ``known`` names and the
    nearest."""

    exit_status = 2

    def __init__(self, name: str, known: Iterable[str] = (), reason: str = "") -> None:
        known = [*known]
        near = get_close_matches(name.rpartition(":")[2], known, n=1, cutoff=0.5)
        what = f"reward {name!r} cannot be used: {reason}" if reason else f"unknown reward {name!r}"
        guess = f"; did you mean {near[0]!r}?" if near else ""
        listed = f"{'' if near else ';'} known: {', '.join(known)}" if known else ""
        super().__init__(f"{what}{guess}{listed}")
        self.name = name

    def __str__(self) -> str:
        return str(self.args[0])


class BadProblem(ValueError):
    """A problem lacks what its reward needs; found before any work starts."""

    exit_status = 2


class BadSetting(ValueError):
    """A reward was given a setting that it does not have, or a value that it cannot use."""

    exit_status = 2


def raised(error: BaseException) -> str:
    """An exception of somebody else's code in one line: what it is, and where it was raised."""
    frames = [] if isinstance(error, SyntaxError) else extract_tb(error.__traceback__)  # it says where by itself
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"
