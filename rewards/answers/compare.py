"""Whether two answers say the same: one small rule for each kind of answer.

``same`` takes the gold answer first; the order matters only where an answer may say more than the gold (``x = 5`` for
5, ``5 cm`` for 5). What no rule calls equal is not equal. A pair that the grammar cannot read, but sympy might, raises
Unreadable for ``judge`` to hand on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import product
from typing import Any

import mpmath

from rewards.answers.domains import NotADomain, domain, same_domain
from rewards.answers.exact import MIN_DIGITS, Number, same_number, stands_for
from rewards.answers.tree import Node, Unreadable, number, variables, walk
from rewards.answers.units import Unit, read_unit
from rewards.answers.values import SAME, SAME_DECIMAL, NoValue, TooLarge, close, evaluate, exact, points

MAX_LIST = 60
MAX_SIGNS = 4
LOG_BASE = mpmath.mpf(10)
_SET_KINDS = frozenset({"interval", "union", "intersect", "minus", "builder", "reals"})
_CLAIMS = frozenset(
    "is are not or but wrong if no than least most more less over under maybe isn't incorrect without".split()
)
_CONSTANT_NAMES = frozenset("CcKk")
_PI = Node("const", value="pi")


def same(gold: Node, answer: Node) -> bool:
    """Whether the answer says what the gold answer says. Raises Unreadable where no rule can tell."""
    if gold == answer:
        return True
    gold, answer = lift_unit(gold), lift_unit(answer)
    stripped = _without_names(gold, answer)
    if stripped is not None:
        return same(*stripped)
    if _describes_set(gold) or _describes_set(answer):
        verdict = _same_set(gold, answer)
        if verdict is not None:
            return verdict
    if any(node.kind == "list" or _signs(node) for node in (gold, answer)):
        return _same_list(gold, answer)
    return _same_kind(gold, answer)


def _same_kind(gold: Node, answer: Node) -> bool:
    kinds = {gold.kind, answer.kind}
    for members, rule in _RULES:
        if kinds & members:
            return rule(gold, answer)
    return same_expression(gold, answer)


# --- names: x = 5 for 5


def _without_names(gold: Node, answer: Node) -> tuple[Node, Node] | None:
    """The pair without the names that one side gives its answer, or None where nothing is to be stripped."""
    gold_named, answer_named = _assignment(gold), _assignment(answer)
    if gold_named and answer_named:
        (gold_name, gold_value), (answer_name, answer_value) = gold_named, answer_named
        free = {gold_name.kind, answer_name.kind} & {"text", "call"}
        return (gold_value, answer_value) if gold_name == answer_name or free else None
    if gold_named and answer.kind != "rel" and not _lists_names(answer):
        return gold_named[1], answer
    if answer_named and gold.kind != "rel" and not _lists_names(gold):
        return gold, answer_named[1]
    if gold.kind == "rel" and gold.value == ("in",) and answer.kind != "rel":
        return gold.items[1], answer
    if answer.kind == "rel" and answer.value == ("in",) and gold.kind != "rel":
        return gold, answer.items[1]
    return _lists_without_names(gold, answer)


def _assignment(node: Node) -> tuple[Node, Node] | None:
    """The name and the value of ``x = 5``, ``f(x) = 2x``, ``m + n = 5``, ``(x, y) = (1, 2)``; of a chain the last value."""
    if node.kind != "rel" or any(operator not in ("=", "~") for operator in node.value):
        return None
    name, *values = node.items
    if len(values) == 1 and values[0].kind == "var" and name.kind != "var" and not _is_name(name):
        name, values = values[0], [name]  # 5 = x
    if not _is_name(name):
        return None
    if name.kind == "var" and any(part == name for part in walk(values[-1])):
        return None
    for earlier, later in zip(values, values[1:], strict=False):
        if not same(earlier, later):
            return None
    return name, values[-1]


def _is_name(node: Node) -> bool:
    if node.kind in ("var", "text"):
        return True
    if node.kind == "call":
        return str(node.value).startswith("fn:") or (node.value == "abs" and _is_name(node.items[0]))
    return node.kind in ("add", "mul", "div", "tuple", "neg", "ratio") and all(map(_is_name, node.items))


def _lists_names(node: Node) -> bool:
    return node.kind == "list" and all(item.kind == "rel" for item in node.items)


def _lists_without_names(gold: Node, answer: Node) -> tuple[Node, Node] | None:
    """Where one side lists assignments and the other bare values: the values of both."""
    if _lists_names(gold) == _lists_names(answer):
        return None
    bare = []
    for node in (gold, answer):
        named = [_assignment(item) for item in node.items] if _lists_names(node) else []
        if not named:
            bare.append(node)
            continue
        if any(pair is None for pair in named):
            return None
        names = [pair[0] for pair in named if pair]
        values = tuple(pair[1] for pair in named if pair)
        one_name = len(set(names)) == 1
        bare.append(Node("list", values, ",") if one_name else Node("tuple", values))
    left, right = bare
    if left.kind == "tuple" and right.kind == "list":
        right = Node("tuple", right.items)
    elif right.kind == "tuple" and left.kind == "list":
        left = Node("tuple", left.items)
    return left, right


# --- lists, sets and tuples


def _same_list(gold: Node, answer: Node) -> bool:
    total = _sum_of_quantities(gold, answer)
    if total is not None:
        return same(*total)
    if "tuple" in (gold.kind, answer.kind) and not (_signs(gold) or _signs(answer)):
        return _same_row(gold.items, answer.items)
    as_set = "set" in (gold.kind, answer.kind)
    golds, answers = _members(gold), _members(answer)
    if any(len(readings) > MAX_LIST for readings in (*golds, *answers)):
        raise Unreadable("a long list")
    return any(
        _same_members(_distinct(left) if as_set else left, _distinct(right) if as_set else right)
        for left, right in product(golds, answers)
    )


def _members(node: Node) -> list[list[Node]]:
    """The elements of a list or set, or the one element that something else is, with every plus-minus spread out.

    Several signs in one element may go together or each alone: one list for each reading.
    """
    elements = node.items if node.kind in ("list", "set") else (node,)
    together: list[Node] = []
    apart: list[Node] = []
    for element in elements:
        together.extend(_spread(element, independent=False))
        apart.extend(_spread(element, independent=True))
    return [together] if len(together) == len(apart) else [together, _distinct(apart)]


def _spread(node: Node, *, independent: bool) -> list[Node]:
    signs = _signs(node)
    if not signs:
        return [node]
    if not independent or signs == 1:
        return [_with_signs(node, iter([value] * signs)) for value in (1, -1)]
    if signs > MAX_SIGNS:
        raise Unreadable("too many signs")
    return [_with_signs(node, iter(values)) for values in product((1, -1), repeat=signs)]


def _signs(node: Node) -> int:
    return sum(part.kind == "sign" for part in walk(node)) if node.kind not in ("list", "set", "rel") else 0


def _with_signs(node: Node, values: Any) -> Node:
    if node.kind == "sign":
        return number(node.value * next(values))
    if not node.items:
        return node
    return Node(node.kind, tuple(_with_signs(item, values) for item in node.items), node.value)


def _same_members(golds: Sequence[Node], answers: Sequence[Node]) -> bool:
    """Whether the elements pair up, in any order."""
    if len(golds) != len(answers):
        return False
    left = list(answers)
    for gold in golds:
        match = next((index for index, candidate in enumerate(left) if _agree(gold, candidate)), None)
        if match is None:
            return False
        del left[match]
    return True


def _agree(gold: Node, answer: Node) -> bool:
    try:
        return same(gold, answer)
    except Unreadable:
        return False


def _distinct(nodes: Iterable[Node]) -> list[Node]:
    kept: list[Node] = []
    for node in nodes:
        if not any(_agree(other, node) for other in kept):
            kept.append(node)
    return kept


def _same_row(golds: Sequence[Node], answers: Sequence[Node]) -> bool:
    return len(golds) == len(answers) and all(map(same, golds, answers))


def _same_tuple(gold: Node, answer: Node) -> bool:
    left, right = _as_row(gold), _as_row(answer)
    return left is not None and right is not None and _same_row(left, right)


def _as_row(node: Node) -> tuple[Node, ...] | None:
    """The entries of a tuple, of a row or column vector, or of a matrix as a tuple of its rows."""
    if node.kind == "tuple":
        return node.items
    if node.kind != "matrix":
        return None
    if len(node.items) == 1:
        return node.items[0].items
    if all(len(row.items) == 1 for row in node.items):
        return tuple(row.items[0] for row in node.items)
    return node.items


def _same_matrix(gold: Node, answer: Node) -> bool:
    if gold.kind != answer.kind:
        return {gold.kind, answer.kind} == {"matrix", "tuple"} and _same_tuple(gold, answer)
    return len(gold.items) == len(answer.items) and all(
        _same_row(left.items, right.items) for left, right in zip(gold.items, answer.items, strict=True)
    )


def _same_cases(gold: Node, answer: Node) -> bool:
    return gold.kind == answer.kind and _same_members(gold.items, answer.items)


def _same_plain_set(gold: Node, answer: Node) -> bool:
    """Sets with sets and lists; a set of one element with that element."""
    if "tuple" in (gold.kind, answer.kind) or "matrix" in (gold.kind, answer.kind):
        return False
    return _same_members(_distinct(_flat(gold)), _distinct(_flat(answer)))


def _flat(node: Node) -> list[Node]:
    return list(node.items) if node.kind in ("set", "list") else [node]


# --- sets of real numbers


def _describes_set(node: Node) -> bool:
    if node.kind in _SET_KINDS:
        return True
    if node.kind == "rel":
        return any(operator not in ("=", "~", "==") for operator in node.value)
    return node.kind == "list" and any(map(_describes_set, node.items))


def _same_set(gold: Node, answer: Node) -> bool | None:
    """The verdict where both sides describe sets of reals; None where they have to be compared as written."""
    left_names, right_names = _bound_names(gold), _bound_names(answer)
    if left_names and right_names and left_names != right_names:
        return False
    try:
        left, right = domain(gold), domain(answer)
    except NotADomain:
        return None
    return same_domain(left, right)


def _bound_names(node: Node) -> frozenset[str]:
    return frozenset() if node.kind in ("builder", "interval", "union", "tuple") else variables(node)


def _same_written_set(gold: Node, answer: Node) -> bool:
    """Sets that are not plain sets of reals: the same operation on the same operands, unions in any order."""
    if gold.kind != answer.kind:
        return False
    if gold.kind == "interval":
        return gold.value == answer.value and _same_row(gold.items, answer.items)
    if gold.kind == "reals":
        return bool(gold.value == answer.value)
    if gold.kind in ("union", "intersect"):
        return _same_members(_operands(gold, gold.kind), _operands(answer, gold.kind))
    return _same_row(gold.items, answer.items)


def _operands(node: Node, kind: str) -> list[Node]:
    if node.kind != kind:
        return [node]
    return [operand for item in node.items for operand in _operands(item, kind)]


# --- equations and inequalities


def _same_relation(gold: Node, answer: Node) -> bool:
    if gold.kind != answer.kind:
        return False
    gold, answer = _ascending(gold), _ascending(answer)
    if gold.value != answer.value:
        return False
    if len(gold.value) > 1 or gold.value[0] in ("in", "notin", "=="):
        return _same_row(gold.items, answer.items)
    operator = gold.value[0]
    if operator in ("=", "!=", "~"):
        return _proportional(_difference(gold), _difference(answer), positive=False)
    return _proportional(_difference(gold), _difference(answer), positive=True)


def _ascending(node: Node) -> Node:
    """a > b as b < a."""
    if all(operator in (">", ">=") for operator in node.value):
        turned = tuple({">": "<", ">=": "<="}[operator] for operator in reversed(node.value))
        return Node("rel", tuple(reversed(node.items)), turned)
    return node


def _difference(node: Node) -> Node:
    return Node("add", (node.items[0], Node("neg", (node.items[1],))))


def _proportional(left: Node, right: Node, *, positive: bool) -> bool:
    """Whether one is a constant, non-zero (``positive``: positive) multiple of the other at every point."""
    names = variables(left) | variables(right)
    if variables(left) != variables(right):
        return False
    ratio = None
    agreed = 0
    for point in points(names):
        try:
            top, bottom = evaluate(left, point, LOG_BASE), evaluate(right, point, LOG_BASE)
        except (NoValue, TooLarge):
            continue
        if top == 0 or bottom == 0:
            if abs(top - bottom) > SAME:
                return False
            continue
        if ratio is None:
            ratio = top / bottom
        elif not close(top, ratio * bottom):
            return False
        agreed += 1
    if ratio is None or agreed < 2:
        raise Unreadable("no value at any point")
    return not positive or bool(mpmath.im(ratio) == 0 and ratio > 0)


# --- numbers with something to them: units, moduli, bases, ratios


def lift_unit(node: Node) -> Node:
    """A unit at the end of a sum or under a sign as the unit of the whole; degrees as a unit."""
    if node.kind == "deg":
        return Node("quantity", node.items, "degree")
    if node.kind == "neg":
        inner = lift_unit(node.items[0])
        if inner.kind == "quantity":
            return Node("quantity", (Node("neg", inner.items),), inner.value)
    if node.kind == "add" and node.items[-1].kind in ("quantity", "mul", "deg", "neg"):
        last = lift_unit(node.items[-1])
        if last.kind == "quantity":
            unit = last.value
            parts = [lift_unit(item) for item in node.items]
            if all(part.kind != "quantity" or part.value == unit for part in parts):
                bare = tuple(part.items[0] if part.kind == "quantity" else part for part in parts)
                return Node("quantity", (Node("add", bare),), unit)
    if node.kind == "mul" and node.items[0].kind == "sign":
        inner = lift_unit(node.items[1])
        if inner.kind == "quantity":
            return Node("quantity", (Node("mul", (node.items[0], inner.items[0])),), inner.value)
    return node


def _same_quantity(gold: Node, answer: Node) -> bool:
    if gold.kind == answer.kind:
        left, right = read_unit(gold.value), read_unit(answer.value)
        if _is_no_unit(left) or _is_no_unit(right):
            return same(gold.items[0], answer.items[0])
        return _same_measure(gold.items[0], left, answer.items[0], right)
    quantity, bare = (gold, answer) if gold.kind == "quantity" else (answer, gold)
    unit = read_unit(quantity.value)
    if unit.label and _CLAIMS & set(unit.dimensions[0][0].split()):
        return False
    letter = _trailing_letter(bare)
    if letter is not None and letter[1] == str(quantity.value).strip():
        return same_expression(quantity.items[0], letter[0])
    if bare.kind in ("text", "tuple", "set", "matrix", "mod", "base", "rel"):
        return False
    if same(quantity.items[0], bare):
        return True
    if unit.dimensions == (("percent", 1),):
        return same_expression(Node("div", (quantity.items[0], number(100))), bare)
    if unit.dimensions == (("angle", 1),) and _PI in walk(bare):
        return same_expression(_radians(quantity.items[0], unit), bare)
    return False


def _same_measure(gold: Node, left: Unit, answer: Node, right: Unit) -> bool:
    if {left.dimensions, right.dimensions} == {(("angle", 1),), (("radian", 1),)}:
        gold = _radians(gold, left) if left.dimensions[0][0] == "angle" else gold
        answer = _radians(answer, right) if right.dimensions[0][0] == "angle" else answer
        return same_expression(gold, answer)
    if left.dimensions != right.dimensions:
        return False
    if left.factor == right.factor:
        return same(gold, answer)
    return same_expression(_times(gold, left.factor), _times(answer, right.factor))


def _is_no_unit(unit: Unit) -> bool:
    return all(name == "unit" for name, _ in unit.dimensions)


def _radians(node: Node, unit: Unit) -> Node:
    return Node("deg", (_times(node, unit.factor),))


def _times(node: Node, factor: Fraction) -> Node:
    return node if factor == 1 else Node("mul", (node, number(factor)))


def _trailing_letter(node: Node) -> tuple[Node, str] | None:
    """``5m`` read as 5 times m, for a gold answer in metres."""
    if node.kind == "mul" and node.items[1].kind == "var" and not variables(node.items[0]):
        return node.items[0], str(node.items[1].value)
    return None


def _sum_of_quantities(gold: Node, answer: Node) -> tuple[Node, Node] | None:
    """``5 feet and 3 inches`` against a single quantity: the sums in the base unit."""
    if {gold.kind, answer.kind} != {"list", "quantity"}:
        return None
    totals = []
    for node in (gold, answer):
        parts = node.items if node.kind == "list" else (node,)
        if any(part.kind != "quantity" for part in parts):
            return None
        units = [read_unit(part.value) for part in parts]
        if len({unit.dimensions for unit in units}) != 1:
            return None
        terms = tuple(_times(part.items[0], unit.factor) for part, unit in zip(parts, units, strict=True))
        totals.append(Node("quantity", (Node("add", terms) if len(terms) > 1 else terms[0],), _base_name(units[0])))
    return totals[0], totals[1]


def _base_name(unit: Unit) -> str:
    return "/".join(f"{name}-{power}" for name, power in unit.dimensions)


def _same_mod(gold: Node, answer: Node) -> bool:
    if gold.kind == answer.kind:
        values = [exact(node.items[0]) for node in (gold, answer)]
        moduli = [exact(node.items[1]) for node in (gold, answer)]
        if None in values or None in moduli:
            return _same_row(gold.items, answer.items)
        (a, b), (m, n) = values, moduli
        assert a is not None and b is not None and m is not None and n is not None
        return m == n and m != 0 and (a - b) % m == 0
    residue, bare = (gold, answer) if gold.kind == "mod" else (answer, gold)
    return same(residue.items[0], bare)


def _same_base(gold: Node, answer: Node) -> bool:
    """A numeral in a named base equals the same numeral in that base only; base ten may go unnamed."""
    if gold.kind == answer.kind:
        return str(gold.value[0]).lstrip("0") == str(answer.value[0]).lstrip("0") and gold.value[1] == answer.value[1]
    numeral, bare = (gold, answer) if gold.kind == "base" else (answer, gold)
    return numeral.value[1] in ("10", "ten") and exact(bare) == Fraction(numeral.value[0])


def _same_ratio(gold: Node, answer: Node) -> bool:
    if gold.kind == answer.kind:
        if len(gold.items) != len(answer.items):
            return False
        (gold_first, *golds), (answer_first, *answers) = gold.items, answer.items
        return all(
            same_expression(Node("mul", (left, answer_first)), Node("mul", (right, gold_first)))
            for left, right in zip(golds, answers, strict=True)
        )
    ratio = gold if gold.kind == "ratio" else answer
    return len(ratio.items) == 2 and same_expression(gold, answer)


def _same_text(gold: Node, answer: Node) -> bool:
    if gold.kind == answer.kind == "text":
        return bool(gold.value == answer.value)
    text, other = (gold, answer) if gold.kind == "text" else (answer, gold)
    return "".join(str(text.value).split()) == "".join(
        str(part.value).lower() for part in walk(other) if part.kind == "var"
    ) and all(part.kind in ("var", "mul") for part in walk(other))


def _never(gold: Node, answer: Node) -> bool:
    return False


_RULES = (
    (frozenset({"quantity"}), _same_quantity),
    (frozenset({"text"}), _same_text),
    (frozenset({"dots"}), _never),
    (frozenset({"matrix"}), _same_matrix),
    (frozenset({"cases"}), _same_cases),
    (frozenset({"set"}), _same_plain_set),
    (frozenset({"tuple"}), _same_tuple),
    (_SET_KINDS, _same_written_set),
    (frozenset({"rel"}), _same_relation),
    (frozenset({"mod"}), _same_mod),
    (frozenset({"base"}), _same_base),
    (frozenset({"ratio"}), _same_ratio),
)


# --- expressions


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
    return _same_row(gold.items, answer.items)


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
    for node in nodes:
        for part in walk(node):
            if (
                part.kind == "num"
                and part is not node
                and (part.value.digits or 0) >= MIN_DIGITS
                and (part.value.places or 0) >= 4
            ):
                return SAME_DECIMAL
    return SAME


def _same_at_points(gold: Node, answer: Node, names: frozenset[str]) -> bool:
    tolerance = _tolerance(gold, answer)
    real = unreal = 0
    for point in points(names):
        try:
            left, right = evaluate(gold, point, LOG_BASE), evaluate(answer, point, LOG_BASE)
        except (NoValue, TooLarge):
            continue
        imaginary = bool(mpmath.im(left) != 0) + bool(mpmath.im(right) != 0)
        if imaginary == 1:
            continue  # one of the two is not defined on the reals here
        if imaginary == 2:
            unreal += close(left, right, tolerance)
            if not close(left, right, tolerance) and not real:
                unreal -= 100
            continue
        if not close(left, right, tolerance):
            return False
        real += 1
    if real + unreal <= 0 and real == 0 and unreal == 0:
        raise Unreadable("no value at any point")
    return real >= 2 or (real == 0 and unreal >= 2)


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
