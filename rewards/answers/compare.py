"""Whether two answers say the same: one small rule for each kind of answer.

``same`` takes the gold answer first; the order matters only where an answer may say more than the gold (``x = 5`` for
5, ``5 cm`` for 5). What no rule calls equal is not equal. A pair that the grammar cannot read, but sympy might, raises
Unreadable for ``judge`` to hand on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise, product

import mpmath  # type: ignore[import-untyped]

from rewards.answers.domains import NotADomain, domain, same_domain
from rewards.answers.expressions import LOG_BASE, same_expression
from rewards.answers.measures import lift_unit, same_base, same_mod, same_quantity, same_ratio, sum_of_quantities
from rewards.answers.tree import Node, Unreadable, has_signs, number, variables, walk, with_signs
from rewards.answers.values import SAME, NoValue, TooLarge, close, evaluate, exact, points

MAX_LIST = 60
MAX_SIGNS = 4
_SET_KINDS = frozenset({"interval", "union", "intersect", "minus", "builder", "reals"})


def same(gold: Node, answer: Node) -> bool:
    """Whether the answer says what the gold answer says. Raises Unreadable where no rule can tell."""
    if gold == answer:
        return True
    gold, answer = _multiplied_out(lift_unit(gold)), _multiplied_out(lift_unit(answer))
    stripped = _without_names(gold, answer)
    if stripped is not None:
        return same(*stripped)
    if (_describes_set(gold) or _describes_set(answer)) and "matrix" not in (gold.kind, answer.kind):
        verdict = _same_set(gold, answer)
        if verdict is not None:
            return verdict
    if any(node.kind == "list" or (node.kind != "rel" and has_signs(node)) for node in (gold, answer)):
        return _same_list(gold, answer)
    return _same_kind(gold, answer)


def _same_kind(gold: Node, answer: Node) -> bool:
    kinds = {gold.kind, answer.kind}
    for members, rule in _RULES:
        if kinds & members:
            return rule(gold, answer)
    return same_expression(gold, answer)


# --- names: x = 5 for 5


def _without_names(gold: Node, answer: Node) -> tuple[Node, Node] | None:  # noqa: PLR0911  a table of cases
    """The pair without the names that one side gives its answer, or None where nothing is to be stripped."""
    gold_named, answer_named = _assignment(gold), _assignment(answer)
    if gold_named and answer_named:
        (gold_name, gold_value), (answer_name, answer_value) = gold_named, answer_named
        same_name = gold_name == answer_name or _one_meaning(gold_name, answer_name)
        return (gold_value, answer_value) if same_name else None
    if gold_named and answer.kind != "rel" and not _lists_names(answer):
        return gold_named[1], answer
    if answer_named and gold.kind != "rel" and not _lists_names(gold):
        return gold, answer_named[1]
    if gold.kind == "rel" and gold.value in (("in",), ("==",)) and answer.kind != "rel":
        return gold.items[1], answer
    if answer.kind == "rel" and answer.value in (("in",), ("==",)) and gold.kind != "rel":
        return gold, answer.items[1]
    if gold.kind != "rel" and _is_computation(answer):
        return gold, answer.items[-1]
    return _lists_without_names(gold, answer)


def _at_a_point(left: Node, right: Node) -> bool:
    """Whether one of two different names is a function at a point, f(2)."""
    return any(node.kind == "call" and not variables(node) for node in (left, right))


def _letters(node: Node) -> str:
    """The letters of a name: S_n and S(n) have the same."""
    return "".join(
        str(part.value).replace("_", "").removeprefix("fn:") for part in walk(node) if part.kind in ("var", "call")
    )


def _stem(node: Node) -> str:
    """A variable without its subscript."""
    return str(node.value).partition("_")[0] if node.kind == "var" else ""


def _one_meaning(left: Node, right: Node) -> bool:
    """Whether two names may stand for one thing: words for anything, f(x) for another function's or for y."""
    kinds = {left.kind, right.kind}
    plain = kinds <= {"var", "mul", "call"} and not _at_a_point(left, right)
    if (plain and _letters(left) == _letters(right)) or {_stem(left), _stem(right)} in (
        {str(left.value)},
        {str(right.value)},
    ):
        return True
    return (
        "text" in kinds
        or (kinds == {"call"} and not _at_a_point(left, right))
        or ("call" in kinds and Node("var", value="y") in (left, right))
    )


def _assignment(node: Node) -> tuple[Node, Node] | None:
    """The name and the value of ``x = 5``, ``f(x) = 2x``, ``m + n = 5``, ``(x, y) = (1, 2)``; a chain's last value."""
    if node.kind != "rel" or any(operator not in ("=", "~") for operator in node.value):
        return None
    name, *values = node.items
    if len(values) == 1 and values[0].kind == "var" and name.kind != "var" and not _is_name(name):
        name, values = values[0], [name]  # 5 = x
    if not _is_name(name) or name.kind == "neg":
        return None
    if values[-1].kind == "tuple" and name.kind not in ("tuple", "var", "call", "text"):
        return None
    if name.kind == "var" and any(part == name for part in walk(values[-1])):
        return None
    for earlier, later in pairwise(values):
        if not same(earlier, later):
            return None
    return name, values[-1]


def _is_computation(node: Node) -> bool:
    """2 + 3 = 5: equal numbers, of which the last is the answer."""
    if node.kind != "rel" or any(operator != "=" for operator in node.value) or variables(node):
        return False
    return all(same(earlier, later) for earlier, later in pairwise(node.items))


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
        one_name = len({_stem(name) or name for name in names}) == 1
        bare.append(Node("list", values, ",") if one_name else Node("tuple", values))
    left, right = bare
    if left.kind == "tuple" and right.kind == "list":
        right = Node("tuple", right.items)
    elif right.kind == "tuple" and left.kind == "list":
        left = Node("tuple", left.items)
    return left, right


# --- lists, sets and tuples


def _same_list(gold: Node, answer: Node) -> bool:
    if _describes_set(gold) and _describes_set(answer) and {gold.value, answer.value} == {"and", "or"}:
        return False
    total = sum_of_quantities(gold, answer)
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
        return [with_signs(node, iter([value] * signs)) for value in (1, -1)]
    if signs > MAX_SIGNS:
        raise Unreadable("too many signs")
    return [with_signs(node, iter(values)) for values in product((1, -1), repeat=signs)]


def _signs(node: Node) -> int:
    return sum(part.kind == "sign" for part in walk(node)) if node.kind not in ("list", "set", "rel") else 0


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
    gold, answer = _as_point(gold), _as_point(answer)
    if gold.kind != "tuple" or answer.kind != "tuple":
        return False
    return _same_row(gold.items, answer.items)


def _as_point(node: Node) -> Node:
    """A(1, 2) and "center (1, 2)" as (1, 2), where a point is looked for."""
    if node.kind == "mul" and node.items[0].kind in ("var", "text") and node.items[-1].kind == "tuple":
        return node.items[-1]
    if node.kind == "call" and node.value in ("binom", "permutations"):
        return Node("tuple", node.items)
    return node


def _same_rows(gold: Node, answer: Node) -> bool:
    """A matrix against a vector, or against a list of lists."""
    left, right = _as_row(gold), _as_row(answer)
    if left is None or right is None or len(left) != len(right):
        return False
    for a, b in zip(left, right, strict=True):
        nested = {a.kind, b.kind} <= {"tuple", "interval"}
        if not (_same_row(a.items, b.items) if nested else same(a, b)):
            return False
    return True


def _as_row(node: Node) -> tuple[Node, ...] | None:
    """The entries of a tuple, of a row or column vector, or of a matrix as a tuple of its rows."""
    if node.kind == "tuple" or (node.kind == "interval" and node.value == (True, True)):
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
        return {gold.kind, answer.kind} <= {"matrix", "tuple", "interval"} and _same_rows(gold, answer)
    return len(gold.items) == len(answer.items) and all(
        _same_row(left.items, right.items) for left, right in zip(gold.items, answer.items, strict=True)
    )


def _multiplied_out(node: Node) -> Node:
    """A number times a matrix as a matrix, equations under one brace as a list, [3, -2] as a vector."""
    if node.kind == "interval" and node.value == (True, True) and _out_of_order(node):
        return Node("tuple", node.items)
    if node.kind == "cases" and all(len(row.items) == 1 and row.items[0].kind == "rel" for row in node.items):
        return Node("list", tuple(row.items[0] for row in node.items), "and")
    if node.kind == "neg" and node.items[0].kind == "matrix":
        return _scaled(number(-1), node.items[0])
    if node.kind == "mul" and len(node.items) == 2 and node.items[1].kind == "matrix":
        return _scaled(*node.items)
    return node


def _out_of_order(node: Node) -> bool:
    try:
        low, high = map(exact, node.items)
    except (NoValue, TooLarge):
        return False
    return low is not None and high is not None and low > high


def _scaled(factor: Node, matrix: Node) -> Node:
    rows = (tuple(Node("mul", (factor, entry)) for entry in row.items) for row in matrix.items)
    return Node("matrix", tuple(Node("tuple", row) for row in rows))


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


# --- text


def _same_text(gold: Node, answer: Node) -> bool:
    if gold.kind == answer.kind == "text":
        return bool(gold.value == answer.value)
    text, other = (gold, answer) if gold.kind == "text" else (answer, gold)
    return "".join(str(text.value).split()) == "".join(
        str(part.value).lower() for part in walk(other) if part.kind in ("var", "const")
    ) and all(part.kind in ("var", "mul", "const") for part in walk(other))


def _never(gold: Node, answer: Node) -> bool:
    return False


_RULES: tuple[tuple[frozenset[str], Callable[[Node, Node], bool]], ...] = (
    (frozenset({"quantity"}), lambda gold, answer: same_quantity(gold, answer, same)),
    (frozenset({"text"}), _same_text),
    (frozenset({"dots"}), _never),
    (frozenset({"matrix"}), _same_matrix),
    (frozenset({"cases"}), _same_cases),
    (frozenset({"set"}), _same_plain_set),
    (frozenset({"tuple"}), _same_tuple),
    (_SET_KINDS, _same_written_set),
    (frozenset({"rel"}), _same_relation),
    (frozenset({"mod"}), lambda gold, answer: same_mod(gold, answer, same)),
    (frozenset({"base"}), same_base),
    (frozenset({"ratio"}), same_ratio),
)
