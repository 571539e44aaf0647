r"""Where in a response the answer stands.

Policy, in this order:

1. Only what follows the last ``</think>`` counts, when anything does.
2. In it, the last complete ``\boxed{}`` or ``\fbox{}``. A box that is never closed is no box.
3. Otherwise the content of the last complete ``<answer> </answer>`` pair.
4. Otherwise there is no answer; nothing is picked out of the prose.

Several boxes that disagree are a hedge and do not score. An earlier box is an intermediate result, and not a
disagreement, only where the text between says so (a step, a conclusion, a correction) and does not offer a choice.
For a problem with several answers, neighbouring boxes are read as one list. Every function is linear in the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_BOXES = 64
_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s*(?=\{)|\\(?:boxed|fbox)\s+(?=[^\s{\\])")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_CHOICE = re.compile(r"\b(?:or|alternatively|maybe|perhaps|possibly|could|might|either|another|also|versus|vs)\b", re.I)
_STEP = re.compile(
    r"\b(?:then|so|therefore|thus|hence|next|step|now|final(?:ly)?|wait|actually|correct(?:ion|ed|ing)?|instead|mistake|"
    r"error|wrong|because|since|substitut\w+|plug\w*|using|which gives|we (?:get|have|find|obtain)|part|total)\b",
    re.I,
)
_SEPARATOR = re.compile(
    r"(?:\s|\\[,;:! ]|\\text\s*\{|\\quad|\\qquad|[,;$.&}]|\band\b|\\\\|\\\[|\\\]|\\\(|\\\)|\*\*)*\Z"
)


@dataclass(frozen=True, slots=True)
class Box:
    """A complete box: what is inside it, and where it begins and ends in the text."""

    content: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Found:
    """The answers that a response gives: usually one, several where neighbouring boxes make a list, none where
    ``problem`` says why."""

    answers: tuple[str, ...]
    problem: str = ""


def complete_boxes(text: str) -> list[Box]:
    """The outermost complete boxes in order, at most the last MAX_BOXES of them."""
    boxes: list[Box] = []
    position = 0
    for match in _BOX.finditer(text):
        if match.start() < position:
            continue  # inside the box before it
        if match.end() < len(text) and text[match.end()] != "{":
            boxes.append(Box(text[match.end()], match.start(), match.end() + 1))
            continue
        end = closing_brace(text, match.end())
        if end < 0:
            break  # never closed, and so is no later box that this one would contain
        boxes.append(Box(text[match.end() + 1 : end], match.start(), end + 1))
        position = end + 1
    return boxes[-MAX_BOXES:]


def closing_brace(text: str, opening: int) -> int:
    """Where the brace that opens at ``opening`` is closed, or -1; an escaped brace counts for nothing."""
    depth = 0
    for match in _BRACE.finditer(text, opening):
        brace = match.group()
        if brace == "{":
            depth += 1
        elif brace == "}":
            depth -= 1
            if depth == 0:
                return match.start()
    return -1


def find_answer(response: str) -> Found:
    """The answer or answers that the response gives, by the policy above."""
    text = after_thinking(response)
    boxes = complete_boxes(text)
    if boxes:
        return _from_boxes(text, boxes)
    inside = last_tag(text)
    if inside is not None:
        return Found((inside,))
    if _BOX.search(text):
        return Found((), "the box is never closed")
    return Found((), "no box and no answer tag")


def after_thinking(response: str) -> str:
    """What follows the last ``</think>``; the whole response where nothing does."""
    _, mark, rest = response.rpartition("</think>")
    return rest if mark and rest.strip() else response


def last_tag(text: str) -> str | None:
    """The content of the last complete ``<answer> </answer>`` pair."""
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, max(end, 0))
    return text[start + len("<answer>") : end] if 0 <= start < end else None


def _from_boxes(text: str, boxes: list[Box]) -> Found:
    contents = [squeeze(box.content) for box in boxes]
    if len(set(contents)) == 1:
        return Found((boxes[-1].content,)) if contents[0] else Found((), "an empty box")
    run = [boxes[-1]]
    for earlier, later in zip(reversed(boxes[:-1]), reversed(boxes[1:]), strict=True):
        between = text[earlier.end : later.start]
        if len(run) < len(boxes) and _neighbours(between) and run[0] is later:
            run.insert(0, earlier)
        elif _CHOICE.search(between[-2000:]) and not _STEP.search(between[-2000:]):
            return Found((), "boxes that offer a choice")
        elif squeeze(earlier.content) != contents[-1] and not _STEP.search(between[-2000:]) and len(between) < 400:
            return Found((), "boxes that disagree")
    return Found(tuple(box.content for box in run))


def _neighbours(between: str) -> bool:
    return len(between) <= 40 and _SEPARATOR.match(between) is not None


def squeeze(text: str) -> str:
    """The text without white space, for telling whether two boxes say the same."""
    return "".join(text.split())
