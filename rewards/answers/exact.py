"""The exact path: numbers written plainly, compared as rationals without a parser.

Most answers in training are integers, fractions and decimals. They are judged here, in the caller's process, by
patterns of bounded size and integer arithmetic on at most MAX_DIGITS digits, in microseconds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

MAX_DIGITS = 400
MIN_DIGITS = 6  # a decimal stands for a number that it does not equal only with this many significant digits

_DECOR = re.compile(r"\\(?:displaystyle|textstyle)|(?<!\d)\\[,;:! ]|\\[,;:! ](?!\d)|\$|\\[()\[\]]")
_INTEGER = re.compile(r"([+-]?)(\d{1,400})\.?\Z", re.ASCII)
_GROUPED = re.compile(r"[+-]?\d{1,3}(?:(?:,|\{,\}|\\,|\\!|,\\!)\d{3})+(?:\.\d+)?\Z", re.ASCII)
_GROUPING = re.compile(r"\\[,!]|[{},\\!]")
_DECIMAL = re.compile(r"([+-]?)(\d*)\.(\d+)\Z", re.ASCII)
_FRACTION = re.compile(
    r"([+-]?)(?:\\[dtc]?frac\{([+-]?\d+)\}\{([+-]?\d+)\}|\\[dtc]?frac(\d)(\d)|(\d+)/(\d+))\Z", re.ASCII
)


@dataclass(frozen=True, slots=True)
class Number:
    """A rational, and how it was written: ``digits`` counts a decimal's significant digits and ``places`` those after
    its point; both are None for an integer and a fraction, which never approximate."""

    value: Fraction
    digits: int | None = None
    places: int | None = None


def read_number(text: str) -> Number | None:
    """The number that the text plainly is, or None where it has to be parsed."""
    if len(text) > MAX_DIGITS + 40:
        return None
    plain = _DECOR.sub("", text).strip().rstrip(".")
    if _GROUPED.match(plain):
        plain = _GROUPING.sub("", plain)
    if match := _INTEGER.match(plain):
        return Number(Fraction(int(match[1] + match[2])))
    if match := _DECIMAL.match(plain):
        sign, whole, decimals = match.groups()
        return decimal_number(sign, whole, decimals)
    if match := _FRACTION.match(plain):
        sign, *parts = match.groups()
        top, bottom = (int(part) for part in parts if part is not None)
        if bottom == 0:
            return None
        return Number(Fraction(top, bottom) * (-1 if sign == "-" else 1))
    return None


def decimal_number(sign: str, whole: str, decimals: str) -> Number:
    """The number written as sign, digits before the point and digits after it."""
    value = Fraction(int((whole + decimals) or "0"), 10 ** len(decimals))
    digits = len((whole + decimals).lstrip("0"))
    return Number(-value if sign == "-" else value, digits, len(decimals))


def same_number(gold: Number, answer: Number) -> bool:
    """Whether two written numbers say the same.

    They are equal, or one is a decimal with MIN_DIGITS or more significant digits and is the other, rounded or cut
    at its last place. Integers and fractions stand for themselves only, and of two decimals only the shorter one can
    stand for the longer.
    """
    if gold.value == answer.value:
        return True
    return approximates(gold, answer) or approximates(answer, gold)


def approximates(decimal: Number, exact: Number) -> bool:
    """Whether the decimal is the other number, rounded or cut at the decimal's last place."""
    if decimal.digits is None or decimal.places is None or decimal.digits < MIN_DIGITS:
        return False
    if exact.places is not None and exact.places <= decimal.places:
        return False
    return stands_for(decimal, exact.value)


def stands_for(decimal: Number, exact: Fraction) -> bool:
    """Whether the decimal, of any number of digits, is ``exact`` rounded or cut at its last place."""
    unit = Fraction(1, 10 ** (decimal.places or 0))
    error = exact - decimal.value
    rounded = abs(error) * 2 <= unit
    cut = abs(error) < unit and (error > 0) == (exact > 0)
    return rounded or cut
