"""Whether two expressions have the same value: exactly, as a rounded decimal, or at several points."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import mpmath  # type: ignore[import-untyped]

from rewards.answers.exact import MIN_DIGITS, Number, same_number, stands_for
from rewards.answers.tree import Node, Unreadable, variables, walk
from rewards.answers.values import SAME, NoValue, TooLarge, close, evaluate, exact, points

LOG_BASE = mpmath.mpf(10)
_I = Node("const", value="i")
_CONSTANT_NAMES = frozenset("CcKk")


def same_expression(gold: Node, answer: Node) -> bool:
    """Whether two expressions have the same value: exactly, or at every point where both have a real one."""
    try:
        left, right = exact(gold), exact(answer)
    except NoValue:
        return False
    except TooLarge:
        left = right = None
    if left is not None and right is not None:
        return left == right or same_number(_as_written(gold, left), _as_written(answer, right))
    names = variables(gold) | variables(answer)
    if not names:
        return _same_constant(gold, answer)
    return _same_at_points(gold, answer, names) or _same_but_for_a_constant(gold, answer)


def _as_written(node: Node, value: Fraction) -> Number:
    """A bare decimal as it was written; anything computed is exact."""
    inner = node.items[0] if node.kind == "neg" else node
    if inner.kind == "num":
        written = inner.value
        return Number(value, written.digits, written.places)
    return Number(value)


def _same_constant(gold: Node, answer: Node) -> bool:
    if {gold.kind, answer.kind} & {"const", "neg"} and any(_is_infinite(node) for node in (gold, answer)):
        return _is_infinite(gold) == _is_infinite(answer) != 0
    values = []
    too_large = []
    for node in (gold, answer):
        try:
            values.append(evaluate(node, {}, LOG_BASE))
        except TooLarge:
            too_large.append(node)
        except NoValue:
            return False
    if too_large:
        return len(too_large) == 2 and _same_tower(gold, answer)
    left, right = values
    if close(left, right, _tolerance(gold, answer)):
        return True
    return _rounded(gold, right) or _rounded(answer, left)


def _is_infinite(node: Node) -> int:
    """+1 or -1 for an infinity, else 0."""
    if node.kind == "neg":
        return -_is_infinite(node.items[0])
    return int(node.kind == "const" and node.value == "inf")


def _same_tower(gold: Node, answer: Node) -> bool:
    """Two values too large to hold are compared as written: the same operation on equal operands."""
    if gold.kind != answer.kind or gold.value != answer.value:
        return False
    return len(gold.items) == len(answer.items) and all(map(same_expression, gold.items, answer.items))


def _rounded(decimal: Node, value: Any) -> bool:
    """Whether a bare decimal with enough digits is the value, rounded or cut."""
    inner = decimal.items[0] if decimal.kind == "neg" else decimal
    if (
        inner.kind != "num"
        or (inner.value.digits or 0) < MIN_DIGITS
        or mpmath.im(value) != 0
        or abs(mpmath.mag(value)) > 2000
    ):
        return False
    signed = inner.value.value if inner is decimal else -inner.value.value
    return stands_for(Number(signed, inner.value.digits, inner.value.places), _fraction(value))


def _fraction(value: Any) -> Fraction:
    sign, mantissa, exponent, _ = mpmath.mpf(value)._mpf_
    magnitude = Fraction(int(mantissa)) * Fraction(2) ** int(exponent)
    return -magnitude if sign else magnitude


def _tolerance(*nodes: Node) -> Any:
    """Rounded decimals inside a larger expression allow for their rounding."""
    digits = [
        part.value.digits
        for node in nodes
        for part in walk(node)
        if part.kind == "num" and part is not node and (part.value.digits or 0) >= MIN_DIGITS
    ]
    return mpmath.mpf(10) ** (1 - min(digits)) if digits else SAME


def _same_at_points(gold: Node, answer: Node, names: frozenset[str]) -> bool:
    """On the real line where neither names i, else, or where that has no points, on the complex plane."""
    if _I not in walk(gold) and _I not in walk(answer):
        try:
            return _agree_at_points(gold, answer, names, real=True)
        except Unreadable:
            pass
    return _agree_at_points(gold, answer, names, real=False)


def _agree_at_points(gold: Node, answer: Node, names: frozenset[str], *, real: bool) -> bool:
    tolerance = _tolerance(gold, answer)
    on_line = off_line = 0
    for point in points(names, whole=_whole_numbers(gold) | _whole_numbers(answer)):
        try:
            left, right = evaluate(gold, point, LOG_BASE, real=real), evaluate(answer, point, LOG_BASE, real=real)
        except (NoValue, TooLarge):
            continue
        imaginary = bool(mpmath.im(left) != 0) + bool(mpmath.im(right) != 0)
        if imaginary == 1:
            continue  # one of the two is not defined on the reals here
        same = close(left, right, tolerance)
        if imaginary == 2:
            off_line += 1 if same else -100
            continue
        if not same:
            return False
        on_line += 1
    if on_line == 0 and off_line == 0:
        raise Unreadable("no value at any point")
    return on_line >= 2 or (on_line == 0 and off_line >= 2)


def _whole_numbers(node: Node) -> frozenset[str]:
    """The variables that stand for integers, because a negative number is raised to them."""
    found: set[str] = set()
    for part in walk(node):
        if part.kind == "pow" and part.items[0].kind == "neg" and not variables(part.items[0]):
            found |= variables(part.items[1])
    return frozenset(found)


def _same_but_for_a_constant(gold: Node, answer: Node) -> bool:
    """Antiderivatives: both end in a free constant, and their difference depends on nothing else."""
    for name in variables(gold) & _CONSTANT_NAMES:
        other = name.swapcase()
        if name not in variables(answer) and _ends_in(answer, other):
            answer = Node(
                "add", tuple(Node("var", value=name) if part.value == other else part for part in answer.items)
            )
        if _ends_in(gold, name) and _ends_in(answer, name):
            others = (variables(gold) | variables(answer)) - {name}
            if others and _constant_difference(_drop(gold, name), _drop(answer, name), others):
                return True
    return False


def _ends_in(node: Node, name: str) -> bool:
    constant = Node("var", value=name)
    return node.kind == "add" and constant in node.items and sum(part == constant for part in walk(node)) == 1


def _drop(node: Node, name: str) -> Node:
    kept = tuple(item for item in node.items if item != Node("var", value=name))
    return kept[0] if len(kept) == 1 else Node("add", kept)


def _constant_difference(left: Node, right: Node, names: frozenset[str]) -> bool:
    differences = []
    for point in points(names, 5):
        try:
            differences.append(evaluate(left, point, LOG_BASE) - evaluate(right, point, LOG_BASE))
        except (NoValue, TooLarge):
            continue
    return len(differences) >= 3 and all(abs(other - differences[0]) < SAME for other in differences)
