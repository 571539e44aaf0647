"""Sets of real numbers: intervals, unions and what inequalities in one variable describe, as sorted pieces.

A piece is (low, low closed, high, high closed) with mpmath ends, infinities included; a domain is a tuple of disjoint
pieces in order. Two descriptions of one set become the same domain.
"""

from __future__ import annotations

from typing import Any

import mpmath  # type: ignore[import-untyped]

from rewards.answers.tree import Node, Unreadable, has_signs, variables, with_signs
from rewards.answers.values import NoValue, TooLarge, close, evaluate

Piece = tuple[Any, bool, Any, bool]
Domain = tuple[Piece, ...]
_INF = mpmath.inf
REAL: Domain = ((-_INF, False, _INF, False),)
_FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!="}


class NotADomain(ValueError):
    """The tree does not describe a set of real numbers."""


def domain(node: Node) -> Domain:
    """The set of real numbers that an answer describes. Raises NotADomain."""
    try:
        return _domain(node)
    except (NoValue, TooLarge, Unreadable, TypeError) as error:
        raise NotADomain(str(error)) from error


def same_domain(left: Domain, right: Domain) -> bool:
    """Whether two domains have the same pieces."""
    return len(left) == len(right) and all(
        (a[1], a[3]) == (b[1], b[3]) and _same_end(a[0], b[0]) and _same_end(a[2], b[2])
        for a, b in zip(left, right, strict=True)
    )


def _domain(node: Node) -> Domain:  # noqa: PLR0911, PLR0912  one case for each kind of set
    match node.kind:
        case "interval":
            low, high = (_end(item) for item in node.items)
            if low > high or (low == high and node.value != (True, True)):
                raise NotADomain("ends out of order")
            return _normal([(low, node.value[0], high, node.value[1])])
        case "tuple" if len(node.items) == 2:
            low, high = (_end(item) for item in node.items)
            if low >= high:
                raise NotADomain("a pair of numbers")
            return _normal([(low, False, high, False)])
        case "set":
            chosen = [with_signs(item, iter([sign] * 9)) for item in node.items for sign in (1, -1)]
            return _normal([(point, True, point, True) for point in map(_end, chosen)])
        case "reals" if str(node.value).startswith("R"):
            return _named_reals(str(node.value)[1:])
        case "union":
            left, right = map(_domain, node.items)
            return _normal([*left, *right])
        case "intersect":
            left, right = map(_domain, node.items)
            return _meet(left, right)
        case "minus":
            left, right = map(_domain, node.items)
            return _meet(left, _complement(right))
        case "builder":
            element, condition = node.items
            if element.kind == "rel" and element.items[1] == Node("reals", value="Z"):
                return _integers(_domain(condition))
            base = _domain(element.items[1]) if element.kind == "rel" and element.value == ("in",) else REAL
            return _meet(base, _domain(condition))
        case "rel" if node.value == ("!=",) and has_signs(node):
            return _meet(*(_related(with_signs(node, iter([sign] * 9))) for sign in (1, -1)))
        case "rel":
            return _related(node)
        case "list":
            parts = [_domain(item) for item in node.items if item.kind in ("rel", "interval", "union")]
            names = {name for item in node.items if item.kind == "rel" for name in variables(item)}
            if len(parts) != len(node.items) or len(names) > 1:
                raise NotADomain("a list of other things")
            if node.value == "or" or all(item.kind != "rel" for item in node.items):
                return _normal([piece for part in parts for piece in part])
            meet = parts[0]
            for part in parts[1:]:
                meet = _meet(meet, part)
            if not meet and node.value == ",":  # x < 0, x > 2
                return _normal([piece for part in parts for piece in part])
            return meet
        case _:
            raise NotADomain(node.kind)


def _integers(pieces: Domain) -> Domain:
    """The integers of a bounded domain, each a piece."""
    found: list[Piece] = []
    for low, low_closed, high, high_closed in pieces:
        if high - low > 1000:
            raise NotADomain("many integers")
        first, last = int(mpmath.ceil(low)), int(mpmath.floor(high))
        for whole in range(first, last + 1):
            if (whole != low or low_closed) and (whole != high or high_closed):
                found.append((mpmath.mpf(whole), True, mpmath.mpf(whole), True))
    return _normal(found)


def _named_reals(suffix: str) -> Domain:
    zero = mpmath.mpf(0)
    if suffix == "":
        return REAL
    if suffix == "0+":
        return ((zero, True, _INF, False),)
    if suffix == "+":
        return ((zero, False, _INF, False),)
    if suffix == "-":
        return ((-_INF, False, zero, False),)
    raise NotADomain(f"R{suffix}")


def _related(node: Node) -> Domain:
    """x < 5, 1 <= x < 5, 5 > x, x != 3, x in S."""
    if node.value == ("in",) and node.items[0].kind == "var":
        return _domain(node.items[1])
    if len(node.value) == 1 and node.value[0] != "=" and not any(item.kind == "var" for item in node.items):
        return _solved(node)
    places = [index for index, item in enumerate(node.items) if item.kind == "var"]
    if len(places) != 1 or any(operator not in _FLIPPED for operator in node.value):
        raise NotADomain("not solved for one variable")
    name = node.items[places[0]].value
    if any(variables(item) for index, item in enumerate(node.items) if index != places[0]):
        raise NotADomain(f"an inequality with more than {name}")
    if all(operator == "=" for operator in node.value):
        raise NotADomain("an equation")
    result = REAL
    for index, operator in enumerate(node.value):
        if places[0] == index:
            result = _meet(result, _half(operator, node.items[index + 1]))
        elif places[0] == index + 1:
            result = _meet(result, _half(_FLIPPED[operator], node.items[index]))
        else:
            raise NotADomain("a chain that says something else too")
    return result


def _solved(node: Node) -> Domain:
    """2x > 10 and |x - 1| < 3: one linear inequality in one variable, perhaps under an absolute value."""
    left, right = node.items
    operator = node.value[0]
    if not variables(left):
        left, right, operator = right, left, _FLIPPED.get(operator, "")
    names = variables(left)
    if len(names) != 1 or variables(right) or operator not in _FLIPPED:
        raise NotADomain("not in one variable")
    name = next(iter(names))
    bound = _end(right)
    if left.kind == "call" and left.value == "abs":
        inside = left.items[0]
        low, high = _linear(inside, name, operator, bound), _linear(inside, name, _FLIPPED[operator], -bound)
        outside = operator in (">", ">=")
        return _normal([*low, *high]) if outside else _meet(low, high)
    return _linear(left, name, operator, bound)


def _linear(left: Node, name: str, operator: str, bound: Any) -> Domain:
    start, one, two = (evaluate(left, {name: mpmath.mpf(value)}) for value in (0, 1, 2))
    slope = one - start
    if (
        slope == 0
        or not close(two - one, slope)
        or not close(evaluate(left, {name: mpmath.mpf("7.3")}), start + slope * mpmath.mpf("7.3"))
    ):
        raise NotADomain("not linear")
    end = (bound - start) / slope
    turned = operator if slope > 0 else _FLIPPED[operator]
    if turned in ("<", "<="):
        return _normal([(-_INF, False, end, turned == "<=")])
    if turned in (">", ">="):
        return _normal([(end, turned == ">=", _INF, False)])
    return _complement(((end, True, end, True),))


def _half(operator: str, bound: Node) -> Domain:
    if bound.kind == "add" and any(part.kind == "sign" for item in bound.items for part in (item, *item.items)):
        raise NotADomain("plus-minus")
    end = _end(bound)
    match operator:
        case "<" | "<=":
            return _normal([(-_INF, False, end, operator == "<=")])
        case ">" | ">=":
            return _normal([(end, operator == ">=", _INF, False)])
        case "!=":
            return _complement(((end, True, end, True),))
        case _:
            return ((end, True, end, True),)


def _end(node: Node) -> Any:
    if node.kind == "const" and node.value == "inf":
        return _INF
    if node.kind == "neg" and node.items[0].kind == "const" and node.items[0].value == "inf":
        return -_INF
    if variables(node):
        raise NotADomain("an end with variables")
    value = evaluate(node, {})
    if mpmath.im(value) != 0:
        raise NotADomain("an end that is not real")
    return mpmath.mpf(value)


def _normal(pieces: list[Piece]) -> Domain:
    """Sorted, empty pieces dropped, touching pieces joined."""
    kept: list[Piece] = []
    for low, low_closed, high, high_closed in sorted(pieces, key=lambda piece: (piece[0], not piece[1])):
        left_closed, right_closed = low_closed and low != -_INF, high_closed and high != _INF
        if low > high or (low == high and not (left_closed and right_closed)):
            continue
        if kept and (kept[-1][2] > low or (_same_end(kept[-1][2], low) and (kept[-1][3] or left_closed))):
            last = kept[-1]
            if high > last[2] or (_same_end(high, last[2]) and right_closed):
                kept[-1] = (last[0], last[1], high, right_closed or (last[3] and _same_end(high, last[2])))
        else:
            kept.append((low, left_closed, high, right_closed))
    return tuple(kept)


def _meet(left: Domain, right: Domain) -> Domain:
    pieces = []
    for a in left:
        for b in right:
            low, low_closed = max((a[0], not a[1]), (b[0], not b[1]))
            high, high_closed = min((a[2], a[3]), (b[2], b[3]))
            pieces.append((low, not low_closed, high, high_closed))
    return _normal(pieces)


def _complement(pieces: Domain) -> Domain:
    result: list[Piece] = []
    low, low_closed = -_INF, False
    for piece in pieces:
        result.append((low, low_closed, piece[0], not piece[1]))
        low, low_closed = piece[2], not piece[3]
    result.append((low, low_closed, _INF, False))
    return _normal(result)


def _same_end(left: Any, right: Any) -> bool:
    return bool(left == right) or (abs(left) != _INF and abs(right) != _INF and close(left, right))
