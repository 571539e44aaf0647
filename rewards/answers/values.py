"""What an expression is worth: exactly where it is rational, else to DIGITS digits at chosen points.

Two expressions are taken for equal when they agree at several points to more digits than chance would allow (the
Schwartz-Zippel argument); no step rewrites symbols, so the cost is bounded by the size of the tree. Before each
operation that could explode (powers, factorials, functions of huge arguments) its size is estimated, and a value too
large to hold raises TooLarge.

Conventions: odd roots of negative numbers are real; ``log`` without a base is natural or decimal, whichever reading
the caller asks for; an expression that divides by zero has no value.
"""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import mpmath  # type: ignore[import-untyped]
from mpmath import mp

from rewards.answers.tree import Node, Symbolic, Unreadable, variables

DIGITS = 60
MAX_BITS = 2_000_000  # of an exact integer
MAX_EXPONENT = 10**15  # of a power whose value is held as a float
MAX_ARGUMENT_BITS = 4000  # of the argument of a periodic or rounding function
MAX_TERMS = 2000  # of a sum or product
SAME = mpmath.mpf(10) ** -35  # relative difference under which two values are the same

PLACE = ""  # no variable's name: an environment's own mark, on which unknown functions depend

mp.dps = DIGITS
Environment = Mapping[str, Any]


class NoValue(ValueError):
    """The expression has no value here: a division by zero, an infinity, a function that is not known."""


class TooLarge(ValueError):
    """The value is too large to hold; nothing of ordinary size equals it."""


# --- exact


def exact(node: Node) -> Fraction | None:
    """The value of a rational expression without variables, or None where it is not one. Raises NoValue, TooLarge."""
    value: Fraction | None
    match node.kind:
        case "num":
            value = node.value.value
        case "neg" | "add" | "mul" | "div" | "pow":
            parts = []
            for item in node.items:
                part = exact(item)
                if part is None:
                    return None
                parts.append(part)
            value = _exact_operation(node.kind, parts)
        case "call" if node.value == "factorial":
            inside = exact(node.items[0])
            if inside is None or inside.denominator != 1 or not 0 <= inside <= 5000:
                return None
            value = Fraction(math.factorial(int(inside)))
        case "call" if node.value == "binom":
            top, bottom = exact(node.items[0]), exact(node.items[1])
            if top is None or bottom is None or top.denominator != 1 or bottom.denominator != 1:
                return None
            value = Fraction(math.comb(int(top), int(bottom))) if 0 <= bottom <= top <= 2000 else None
        case _:
            return None
    return value


def _exact_operation(kind: str, parts: list[Fraction]) -> Fraction | None:  # noqa: PLR0911  one return an operation
    if kind == "neg":
        return -parts[0]
    if kind == "add":
        return sum(parts, Fraction(0))
    if sum(map(_bits, parts)) > MAX_BITS and kind != "pow":
        raise TooLarge("an exact number")
    if kind == "mul":
        return math.prod(parts, start=Fraction(1))
    if kind == "div":
        if parts[1] == 0:
            raise NoValue("a division by zero")
        return parts[0] / parts[1]
    base, exponent = parts
    if exponent.denominator != 1:
        return None
    if base == 0 and exponent < 0:
        raise NoValue("a division by zero")
    if base in (0, 1, -1):
        return base ** (int(exponent) % 2 + 2 if exponent else 0)
    if _bits(base) * abs(exponent) > MAX_BITS:
        return None
    return base ** int(exponent)


def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


# --- approximate


def evaluate(node: Node, environment: Environment, log_base: Any = None, *, real: bool = False) -> Any:
    """The value as an mpf or mpc; with ``real``, a step that leaves the real line has no value. Raises NoValue,
    TooLarge, Unreadable."""
    try:
        value = _Evaluator(environment, log_base, real).value(node)
    except (ZeroDivisionError, mpmath.libmp.ComplexResult) as error:
        raise NoValue("a division by zero") from error
    except (OverflowError, MemoryError) as error:
        raise TooLarge("a value") from error
    except (ValueError, TypeError, NotImplementedError) as error:
        if isinstance(error, (NoValue, TooLarge, Unreadable)):
            raise
        raise NoValue(str(error)) from error
    if isinstance(value, mpmath.mpc) and abs(value.imag) <= abs(value.real) * mpmath.mpf(10) ** -45:
        value = value.real
    if not mpmath.isfinite(value):
        raise NoValue("infinite or undefined")
    return value


class _Evaluator:
    def __init__(self, environment: Environment, log_base: Any, real: bool) -> None:
        self.environment = environment
        self.real = real
        self.log_base = log_base
        self.terms = 0

    def value(self, node: Node) -> Any:
        handler = getattr(self, f"_{node.kind}", None)
        if handler is None:
            raise Unreadable(f"{node.kind} is no number")
        value = handler(node)
        if self.real and mpmath.im(value) != 0:
            raise NoValue("not real")
        return value

    def _num(self, node: Node) -> Any:
        rational = node.value.value
        return mpmath.mpf(rational.numerator) / rational.denominator

    def _const(self, node: Node) -> Any:
        if node.value == "inf":
            raise NoValue("infinity")
        return {"pi": +mp.pi, "e": +mp.e, "i": mpmath.mpc(0, 1)}[node.value]

    def _var(self, node: Node) -> Any:
        if node.value not in self.environment:
            raise NoValue(f"{node.value} is free")
        return self.environment[node.value]

    def _sign(self, node: Node) -> Any:
        if "+-" not in self.environment:
            raise NoValue("a sign that is not chosen")
        return self.environment["+-"] * node.value

    def _neg(self, node: Node) -> Any:
        return -self.value(node.items[0])

    def _add(self, node: Node) -> Any:
        return functools.reduce(lambda a, b: a + b, map(self.value, node.items))

    def _mul(self, node: Node) -> Any:
        return functools.reduce(lambda a, b: a * b, map(self.value, node.items))

    def _div(self, node: Node) -> Any:
        top, bottom = map(self.value, node.items)
        if bottom == 0:
            raise NoValue("a division by zero")
        return top / bottom

    def _ratio(self, node: Node) -> Any:
        return functools.reduce(lambda a, b: a / b, map(self.value, node.items))

    def _deg(self, node: Node) -> Any:
        return self.value(node.items[0]) * mp.pi / 180

    def _pow(self, node: Node) -> Any:
        base_node, exponent_node = node.items
        if exact(base_node) == 1:
            return mpmath.mpf(1)  # whatever the exponent
        exponent = exact(exponent_node)
        base = self.value(base_node)
        if exponent is None:
            return power(base, self.value(exponent_node))
        if exponent.denominator % 2 == 1 and exponent.denominator > 1 and mpmath.im(base) == 0 and base < 0:
            return odd_root(base, exponent.denominator) ** exponent.numerator
        if exponent.denominator == 1:
            return power(base, int(exponent))
        return power(base, mpmath.mpf(exponent.numerator) / exponent.denominator)

    def _call(self, node: Node) -> Any:
        name = str(node.value)
        if name == "det" and node.items[0].kind == "matrix":
            return self._determinant(node.items[0])
        if name in ("sum", "prod"):
            return self._series(node, name)
        if name.startswith("fn:"):
            arguments = [self.value(item) for item in node.items]
            return unknown_function(name, [*arguments, self.environment.get(PLACE, mpmath.mpf(1))])
        if name == "endless":
            raise NoValue("a decimal that goes on")
        function = FUNCTIONS.get(name)
        if function is None:
            raise NoValue(f"{name} has no value")
        arguments = [self.value(item) for item in node.items]
        if name == "log" and len(arguments) == 1 and self.log_base is not None:
            arguments.append(self.log_base)
        return function(*arguments)

    def _determinant(self, matrix: Node) -> Any:
        rows = [[self.value(entry) for entry in row.items] for row in matrix.items]
        if len(rows) != len(rows[0]) or len(rows) > 8:
            raise NoValue("a determinant of no square matrix")
        return mpmath.det(mpmath.matrix(rows))

    def _series(self, node: Node, name: str) -> Any:
        variable, start, stop, body = node.items
        first, last = exact(start), exact(stop)
        if (first is None or last is None) and variables(start) | variables(stop):
            raise Symbolic("a series with a bound that is not a number")
        if first is None or last is None or first.denominator != 1 or last.denominator != 1 or last - first > MAX_TERMS:
            raise NoValue("a series without plain bounds")
        total = mpmath.mpf(0 if name == "sum" else 1)
        outer = self.environment
        for index in range(int(first), int(last) + 1):
            self.terms += 1
            if self.terms > MAX_TERMS:
                raise TooLarge("a series of series")
            self.environment = {**outer, str(variable.value): mpmath.mpf(index)}
            total = total + self.value(body) if name == "sum" else total * self.value(body)
        self.environment = outer
        return total


def power(base: Any, exponent: Any) -> Any:
    """base ** exponent, refused where the result's exponent would be past holding."""
    if base == 0:
        if mpmath.re(exponent) < 0:
            raise NoValue("a division by zero")
        return mpmath.mpf(0 if exponent != 0 else 1)
    size = abs(exponent) * max(1, abs(mpmath.mag(base)))
    if size > MAX_EXPONENT:
        if abs(base) == 1 and isinstance(exponent, int):
            return base ** (exponent % 4)
        raise TooLarge("a power")
    return mpmath.power(base, exponent)


def odd_root(value: Any, degree: int) -> Any:
    """The real root of a negative number."""
    return -mpmath.root(-value, degree) if degree < 10**6 else -mpmath.power(-value, mpmath.mpf(1) / degree)


def unknown_function(name: str, arguments: list[Any]) -> Any:
    """A value that depends on the function's name and arguments: equal calls agree at a place, others differ."""
    digest = zlib.crc32(name.encode())
    total = mpmath.mpf(digest % 1009) / 101
    for place, argument in enumerate(arguments, 1):
        total += mpmath.cos(_moderate(argument) * (place + mpmath.mpf(digest % 97) / 31)) * place
    return total


def _moderate(value: Any) -> Any:
    if mpmath.mag(value) > MAX_ARGUMENT_BITS:
        raise TooLarge("the argument of a function")
    return value


def _periodic(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def apply(value: Any) -> Any:
        result = function(_moderate(value))
        if mpmath.isfinite(result) and abs(result) > mpmath.mpf(10) ** 45:
            raise NoValue("a pole")
        return result

    return apply


def _whole(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def apply(value: Any) -> Any:
        nearest = mpmath.nint(mpmath.re(_moderate(value)))
        return nearest if abs(value - nearest) < SAME else function(value)

    return apply


def _exponential(value: Any) -> Any:
    if abs(value) > MAX_EXPONENT:
        raise TooLarge("an exponential")
    return mpmath.exp(value)


def _root(value: Any, degree: Any) -> Any:
    if degree == 2:
        return mpmath.sqrt(value)
    if degree == 0:
        raise NoValue("a root of degree 0")
    whole = int(degree) if abs(degree) < 10**6 and degree == int(degree) else 0
    if whole % 2 and mpmath.im(value) == 0 and value < 0:
        return odd_root(value, whole) if whole > 0 else 1 / odd_root(value, -whole)
    return power(value, 1 / degree)


def _factorial(value: Any) -> Any:
    if abs(value) > MAX_EXPONENT:
        raise TooLarge("a factorial")
    return mpmath.factorial(value)


def _double_factorial(value: Any) -> Any:
    if abs(value) > 10**6:
        raise TooLarge("a factorial")
    return mpmath.fac2(value)


def _logarithm(value: Any, base: Any = None) -> Any:
    if value == 0 or base in (0, 1):
        raise NoValue("a logarithm of 0")
    return mpmath.log(value) if base is None else mpmath.log(value) / mpmath.log(base)


def _binomial(top: Any, bottom: Any) -> Any:
    if max(abs(top), abs(bottom)) > 10**9:
        raise TooLarge("a binomial coefficient")
    return mpmath.binomial(top, bottom)


def _integers(values: tuple[Any, ...]) -> list[int]:
    for value in values:
        if mpmath.im(value) != 0 or value != mpmath.nint(_moderate(value)):
            raise NoValue("not an integer")
    return [int(value) for value in values]


def _mod(value: Any, modulus: Any) -> Any:
    return _moderate(value) - modulus * mpmath.floor(_moderate(value) / modulus)


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    **{
        name: _periodic(getattr(mpmath, name))
        for name in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "coth", "sech", "csch")
    },
    "arcsin": mpmath.asin,
    "arccos": mpmath.acos,
    "arctan": mpmath.atan,
    "arccot": mpmath.acot,
    "arcsec": mpmath.asec,
    "arccsc": mpmath.acsc,
    "arsinh": mpmath.asinh,
    "arcosh": mpmath.acosh,
    "artanh": mpmath.atanh,
    "cis": lambda value: mpmath.expj(_moderate(value)),
    "exp": _exponential,
    "ln": _logarithm,
    "log": _logarithm,
    "root": _root,
    "sqrt": mpmath.sqrt,
    "abs": abs,
    "cbrt": lambda value: _root(value, mpmath.mpf(3)),
    "floor": _whole(mpmath.floor),
    "ceil": _whole(mpmath.ceil),
    "factorial": _factorial,
    "factorial!!": _double_factorial,
    "permutations": lambda top, bottom: _binomial(top, bottom) * _factorial(bottom),
    "Gamma": lambda value: _factorial(value - 1),
    "binom": _binomial,
    "conj": mpmath.conj,
    "Re": mpmath.re,
    "Im": mpmath.im,
    "arg": mpmath.arg,
    "sgn": mpmath.sign,
    "max": lambda *values: max(values),
    "min": lambda *values: min(values),
    "mod": _mod,
    "gcd": lambda *values: mpmath.mpf(math.gcd(*_integers(values))),
    "lcm": lambda *values: mpmath.mpf(math.lcm(*_integers(values))),
}


# --- points to compare at

_POINTS = ("1.37", "0.61", "2.83", "-1.19", "-0.43", "4.71", "-3.29", "17.3")


def points(
    names: frozenset[str], count: int = len(_POINTS), whole: frozenset[str] = frozenset()
) -> list[dict[str, Any]]:
    """Environments that give each name its own value, an integer to those in ``whole``; the first are positive."""
    found = []
    for index in range(count):
        base = mpmath.mpf(_POINTS[index])
        environment: dict[str, Any] = {PLACE: base}
        for name in names:
            spread = mpmath.mpf(zlib.crc32(f"{name} {index}".encode()) % 10007) / 30011 + 1
            environment[name] = (
                mpmath.mpf(index + 2 + zlib.crc32(name.encode()) % 5) if name in whole else base * spread
            )
        found.append(environment)
    return found


def close(left: Any, right: Any, tolerance: Any = SAME) -> bool:
    """Whether two values are the same but for rounding, relative to the larger."""
    if left == right:
        return True
    larger = max(abs(left), abs(right))
    return bool(abs(left - right) <= larger * tolerance or larger < mpmath.mpf(10) ** -45)
