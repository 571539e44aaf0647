"""Whether a response has the shape that was asked for (DeepSeek-R1, arXiv:2501.12948, section 2.2)."""

from __future__ import annotations

from typing import Literal

from rewards.answers.boxes import complete_boxes
from rewards.errors import BadSetting
from rewards.protocol import Sample, Score
from rewards.simple import Simple, last_user_text

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
Opening = Literal["prompt", "response", "either"]


class FormatReward(Simple):
    """R1-Zero's template: 1.0 for ``<think> reasoning </think> <answer> answer </answer>``, else 0.0.

    Each tag stands exactly once, in this order, with only white space outside the two blocks, and neither block is
    empty. Where the opening ``<think>`` stands is ``opening``'s choice: "response" wants it there; "prompt" wants the
    response to go on inside the block that the prompt opened; "either", the default, looks at the end of the
    problem's prompt, and where the prompt does not end in ``<think>`` the response has to open it.
    """

    def __init__(self, opening: Opening = "either") -> None:
        if opening not in ("prompt", "response", "either"):
            raise BadSetting(f"format: opening is 'prompt', 'response' or 'either', not {opening!r}")
        self.opening = opening

    def score(self, sample: Sample) -> Score:
        opened = self.opening == "prompt" or (
            self.opening == "either" and last_user_text(sample.problem.get("prompt")).rstrip().endswith("<think>")
        )
        fault = fault_in_template("<think>" + sample.response if opened else sample.response)
        return Score(0.0, detail=fault) if fault else Score(1.0)


def fault_in_template(text: str) -> str:
    """What keeps the text from being R1-Zero's template, or an empty string; linear in the text's length."""
    for tag in TAGS:
        if (count := text.count(tag)) != 1:
            return f"{tag} stands {count} times, not once"
    think, end_think, answer, end_answer = (text.index(tag) for tag in TAGS)
    if not think < end_think < answer < end_answer:
        return "the tags are out of order"
    outside = text[:think] + text[end_think + len("</think>") : answer] + text[end_answer + len("</answer>") :]
    if outside.strip():
        return "text outside the two blocks"
    if not text[think + len("<think>") : end_think].strip():
        return "the reasoning is empty"
    if not text[answer + len("<answer>") : end_answer].strip():
        return "the answer is empty"
    return ""


class BoxedReward(Simple):
    """1.0 where the response holds a complete, non-empty ``\\boxed{}`` or ``\\fbox{}``, else 0.0."""

    def score(self, sample: Sample) -> Score:
        boxes = complete_boxes(sample.response)
        if any(box.content.strip() for box in boxes):
            return Score(1.0)
        return Score(0.0, detail="an empty box" if boxes else "no complete box")
