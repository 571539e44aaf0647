"""Numerals and small pieces of answers, from their text to tree nodes."""

from __future__ import annotations

from fractions import Fraction

from rewards.answers.exact import MIN_DIGITS, Number, decimal_number
from rewards.answers.tokens import Token
from rewards.answers.tree import Node, Unreadable, number

MAX_POWER = 400  # of a power of ten written as 1e400 that is still held exactly


def read_digits(text: str) -> Node:
    """A numeral: an integer, a decimal, or scientific notation; a huge power of ten stays a power."""
    mantissa, mark, exponent = text.replace("E", "e").partition("e")
    whole, point, decimals = mantissa.partition(".")
    value = decimal_number("", whole, decimals) if point else Number(Fraction(int(whole)))
    if not mark:
        return Node("num", value=value)
    if abs(int(exponent)) > MAX_POWER:
        ten = Node("pow", (number(10), number(int(exponent))))
        return Node("mul", (Node("num", value=value), ten))
    return Node("num", value=scaled(value, int(exponent)))


def scaled(value: Number, power: int) -> Number:
    """The number times a power of ten, with its significant digits kept."""
    places = None if value.places is None else max(0, value.places - power)
    return Number(value.value * Fraction(10) ** power, value.digits if places else None, places or None)


def endless(text: str) -> Node:
    """A decimal that goes on: with a visible period of its last digits a fraction, else a mark of its own."""
    whole, _, decimals = text.partition(".")
    for length in range(1, len(decimals) // 2 + 1):
        period = decimals[-length:]
        copies = 1
        while decimals[: len(decimals) - copies * length].endswith(period):
            copies += 1
        if copies >= 3 or (copies == 2 and length > 1):
            fixed = decimals[: len(decimals) - copies * length]
            start = Fraction(int((whole or "0") + fixed or "0"), 10 ** len(fixed))
            return number(start + Fraction(int(period), (10**length - 1) * 10 ** len(fixed)))
    shown = read_digits(text)
    return shown if (shown.value.digits or 0) >= MIN_DIGITS else Node("call", (shown,), "endless")


def mixed(whole: Node, part: Fraction) -> Node:
    if whole.kind == "neg":
        return Node("neg", (mixed(whole.items[0], part),))
    return number(whole.value.value + part)


def all_digits(*tokens: Token) -> bool:
    return all(token.text.isdigit() for token in tokens)


def plain_fraction(node: Node) -> Fraction | None:
    if node.kind != "div":
        return None
    top, bottom = node.items
    if (
        top.kind == bottom.kind == "num"
        and top.value.digits is None
        and bottom.value.digits is None
        and bottom.value.value
    ):
        return Fraction(top.value.value / bottom.value.value)
    return None


def interval(items: tuple[Node, ...], closed: tuple[bool, bool]) -> Node:
    if len(items) != 2:
        raise Unreadable("an interval has two ends")
    return Node("interval", items, closed)


def digits(node: Node) -> str:
    value = node.value.value
    return str(value.numerator) if value.denominator == 1 else str(float(value))


def inner(node: Node) -> str:
    """A subscript or a mark's letters as text."""
    if node.kind == "num":
        return digits(node)
    if node.kind in ("var", "const", "text"):
        return str(node.value)
    if node.kind in ("mul", "list", "add"):
        return "".join(map(inner, node.items))
    if node.kind == "tuple":
        return ",".join(map(inner, node.items))
    raise Unreadable("a subscript that is no name")
