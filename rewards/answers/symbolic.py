"""The only file that imports sympy and Math-Verify; it runs in worker processes."""

from __future__ import annotations

import logging

from math_verify import parse, verify

logging.getLogger("math_verify").setLevel(logging.CRITICAL)

MAX_LENGTH = 2000


def judge(gold: str, answer: str) -> bool:
    """Whether Math-Verify takes the two for equal. Time and memory are the worker's to limit."""
    golds = parse(_in_dollars(gold), parsing_timeout=None)
    answers = parse(_in_dollars(answer), parsing_timeout=None)
    return bool(verify(golds, answers, timeout_seconds=None))


def warm_up() -> None:
    """Fills the parser's tables once, before workers are forked."""
    for text in (r"\frac{1}{2}+\sqrt{3}x^2", r"(1,2)\cup[3,\infty)", r"\{1,2\}", r"x<5", "1,2,3"):
        judge(text, text)


def _in_dollars(text: str) -> str:
    return text if "$" in text or "\\boxed" in text else f"${text}$"
