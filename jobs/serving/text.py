"""What may be shown of a completion while it grows."""

from __future__ import annotations

from collections.abc import Sequence

UNFINISHED = "\ufffd"
"""What bytes that are no whole character yet are decoded to."""


def cut_at_stop(text: str, stops: Sequence[str]) -> str:
    """The text before the first stop string in it."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(places)] if places else text


def shown(text: str, stops: Sequence[str], *, finished: bool) -> str:
    """The part of the text that will not be taken back: without a stop string, and while the completion grows without
    an ending that may become one, or that is half a character."""
    cut = cut_at_stop(text, stops)
    if finished or len(cut) < len(text):
        return cut
    whole = cut.rstrip(UNFINISHED)
    for size in range(min(len(whole), max(map(len, stops), default=1) - 1), 0, -1):
        if any(stop.startswith(whole[-size:]) for stop in stops):
            return whole[:-size]
    return whole
