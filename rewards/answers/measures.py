"""Numbers with something to them: units, degrees, percentages, moduli, bases, ratios.

A bare number agrees with a quantity of that many of anything; two quantities agree in one measure or not at all.
``same`` compares what is inside, and is handed in by ``compare``.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

from rewards.answers.expressions import same_expression
from rewards.answers.tree import Node, number, variables, walk
from rewards.answers.units import Unit, read_unit
from rewards.answers.values import exact

Same = Callable[[Node, Node], bool]
_CLAIMS = frozenset(
    "is are not or but wrong if no than least most more less over under maybe isn't incorrect without".split()  # noqa: SIM905
)
_PI = Node("const", value="pi")


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
    if node.kind == "ratio" and node.items[-1].kind == "quantity":
        last = node.items[-1]
        return Node("quantity", (Node("ratio", (*node.items[:-1], last.items[0])),), last.value)
    if node.kind == "mul" and node.items[0].kind == "sign":
        inner = lift_unit(node.items[1])
        if inner.kind == "quantity":
            return Node("quantity", (Node("mul", (node.items[0], inner.items[0])),), inner.value)
    return node


def same_quantity(gold: Node, answer: Node, same: Same) -> bool:  # noqa: PLR0911  a table of cases
    if gold.kind == answer.kind:
        if _is_clock(gold):
            return _full_hour(gold) == _full_hour(answer) and gold.value.lower() == answer.value.lower()
        if (
            "percent" in (gold.value, answer.value)
            and gold.value.startswith("percent")
            and answer.value.startswith("percent")
        ):
            return same(gold.items[0], answer.items[0])
        left, right = read_unit(gold.value), read_unit(answer.value)
        if (_is_no_unit(left) and _is_spatial(right)) or (_is_no_unit(right) and _is_spatial(left)):
            return same(gold.items[0], answer.items[0])
        return same_measure(gold.items[0], left, answer.items[0], right, same)
    quantity, bare = (gold, answer) if gold.kind == "quantity" else (answer, gold)
    if _is_clock(quantity) and _full_hour(quantity) != _full_hour(Node("quantity", (bare,))):
        return False
    unit = read_unit(quantity.value)
    if unit.label and _CLAIMS & set(unit.dimensions[0][0].split()):
        return False
    letter = _trailing_letter(bare)
    if letter is not None and letter[1].lower() == str(quantity.value).strip().lower():
        return same_expression(quantity.items[0], letter[0])
    if bare.kind in ("text", "tuple", "set", "matrix", "mod", "base", "rel"):
        return False
    if same(quantity.items[0], bare):
        return True
    if unit.dimensions == (("percent", 1),):
        return same_expression(Node("div", (quantity.items[0], number(100))), bare)
    if unit.dimensions == (("angle", 1),) and any(map(_speaks_of_radians, walk(bare))):
        return same_expression(_radians(quantity.items[0], unit), bare)
    return False


def _is_clock(quantity: Node) -> bool:
    """A time of day, which is no ratio: 1:03 PM is no third."""
    return str(quantity.value).lower() in ("am", "pm")


def _full_hour(quantity: Node) -> tuple[Node, ...]:
    """A time's hours and minutes, without the minutes of a full hour."""
    time = quantity.items[0]
    items = time.items if time.kind == "ratio" else (time,)
    return items[:1] if len(items) == 2 and exact(items[1]) == 0 else items


def _speaks_of_radians(node: Node) -> bool:
    return node == _PI or (node.kind == "call" and str(node.value).startswith("arc"))


def same_measure(gold: Node, left: Unit, answer: Node, right: Unit, same: Same) -> bool:
    if {left.dimensions, right.dimensions} == {(("angle", 1),), (("radian", 1),)}:
        gold = _radians(gold, left) if left.dimensions[0][0] == "angle" else gold
        answer = _radians(answer, right) if right.dimensions[0][0] == "angle" else answer
        return same_expression(gold, answer)
    if left.dimensions != right.dimensions:
        return False
    if left.factor == right.factor:
        return same(gold, answer)
    return same_expression(_times(gold, left.factor), _times(answer, right.factor))


def _is_spatial(unit: Unit) -> bool:
    return unit.label or all(name in ("unit", "length") for name, _ in unit.dimensions)


def _is_no_unit(unit: Unit) -> bool:
    """Plain "units", which leaves open of what."""
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


def sum_of_quantities(gold: Node, answer: Node) -> tuple[Node, Node] | None:
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


def same_mod(gold: Node, answer: Node, same: Same) -> bool:
    if gold.kind == answer.kind:
        values = [exact(node.items[0]) for node in (gold, answer)]
        moduli = [exact(node.items[1]) for node in (gold, answer)]
        if None in values or None in moduli:
            return same(gold.items[0], answer.items[0]) and same(gold.items[1], answer.items[1])
        (a, b), (m, n) = values, moduli
        return m == n and bool(m) and (a - b) % m == 0  # type: ignore[operator]
    residue, bare = (gold, answer) if gold.kind == "mod" else (answer, gold)
    value, modulus, plain = exact(residue.items[0]), exact(residue.items[1]), exact(bare)
    if value is not None and modulus and plain is not None:
        return plain in (value, value % modulus)
    return same(residue.items[0], bare)


def same_base(gold: Node, answer: Node) -> bool:
    """A numeral in a named base equals the same numeral in that base only; base ten may go unnamed."""
    if gold.kind == answer.kind:
        return str(gold.value[0]).lstrip("0") == str(answer.value[0]).lstrip("0") and gold.value[1] == answer.value[1]
    numeral, bare = (gold, answer) if gold.kind == "base" else (answer, gold)
    return numeral.value[1] in ("10", "ten") and exact(bare) == Fraction(numeral.value[0])


def same_ratio(gold: Node, answer: Node) -> bool:
    if gold.kind == answer.kind:
        if len(gold.items) != len(answer.items):
            return False
        if any(exact(item) == 0 for item in (*gold.items, *answer.items)):
            return gold.items == answer.items  # a time on the hour, say
        (gold_first, *golds), (answer_first, *answers) = gold.items, answer.items
        return all(
            same_expression(Node("mul", (left, answer_first)), Node("mul", (right, gold_first)))
            for left, right in zip(golds, answers, strict=True)
        )
    ratio = gold if gold.kind == "ratio" else answer
    return len(ratio.items) == 2 and same_expression(gold, answer)
