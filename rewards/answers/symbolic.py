"""The only file that imports sympy and Math-Verify; it runs in worker processes.

It is asked only about calculus: integrals, limits, derivatives and infinite sums, which the grammar leaves alone. Both
sides are parsed by Math-Verify's LaTeX parser, worked out by sympy, and compared by value.
"""

from __future__ import annotations

import logging
from typing import Any

import sympy
from math_verify import parse, verify

logging.getLogger("math_verify").setLevel(logging.CRITICAL)
DIGITS = 30


def judge(gold: str, answer: str) -> bool:
    """Whether the two are equal. Time and memory are the worker's to limit."""
    golds, answers = read(gold), read(answer)
    left, right = worked_out(golds), worked_out(answers)
    if left is None or right is None:
        return bool(verify(golds, answers, timeout_seconds=None))
    if left.free_symbols or right.free_symbols:
        rest = sympy.simplify(left - right)
        constant = {str(symbol) for symbol in rest.free_symbols} <= {"C", "c", "K"}
        return bool(
            rest == 0 or (constant and isinstance(golds[0], sympy.Integral) != isinstance(answers[0], sympy.Integral))
        )
    difference = sympy.N(left - right, DIGITS, maxn=200)
    return bool(difference.is_number and abs(difference) < sympy.Float(10) ** -(DIGITS - 5))


def read(text: str) -> list[Any]:
    """What Math-Verify reads in the text: candidates, trees first. No text is ever evaluated as Python."""
    found: list[Any] = parse(text if "$" in text else f"${text}$", parsing_timeout=None)
    return found


def worked_out(candidates: list[Any]) -> Any:
    """The expression with its integrals, limits, derivatives and sums worked out, or None where it is no expression."""
    if not candidates or not isinstance(candidates[0], sympy.Expr):
        return None
    return candidates[0].doit()


def warm_up() -> None:
    """Fills the parser's tables once, before workers are forked."""
    for text in (r"\int_0^1 x^2 dx", r"\lim_{x\to 0} \frac{\sin x}{x}", r"\sum_{n=1}^{\infty} \frac{1}{n^2}"):
        judge(text, r"\frac{1}{3}")
