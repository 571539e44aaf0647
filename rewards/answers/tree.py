"""What an answer says, as a tree.

One small node type. Its kinds, with what ``items`` and ``value`` hold:

    num       value: exact.Number                  const     value: "pi", "e", "i", "inf"
    var       value: the name, subscript included  sign      value: +1 or -1, as the upper sign of a plus-minus
    add, mul  items                                neg, div, pow   items
    call      value: function name, items          deg       items: (number of degrees,)
    list      items, unordered; value: "and", "or" tuple     items, ordered
    set       items                                interval  items: (low, high); value: (closed low, closed high)
    union, intersect, minus  items: sets           matrix    items: rows, each a tuple
    rel       items; value: the operators between  ratio     items
    quantity  items: (number,); value: the unit    mod       items: (number, modulus)
    base      items: (); value: (digits, base)     text      value: the words
    dots      an ellipsis                          builder   items: (element, condition)
    reals     the real line, or value "Z", "N", "Q", "C"
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from rewards.answers.exact import Number


@dataclass(frozen=True, slots=True)
class Node:
    """One node of the tree; equal nodes are equal answers, but not the other way round."""

    kind: str
    items: tuple[Node, ...] = ()
    value: Any = None


class Unreadable(ValueError):
    """The text is not in the grammar, or is larger than an answer can be."""


class Symbolic(Unreadable):
    """Nothing that evaluation can settle, but sympy may: a series up to a variable."""


def number(value: int | Fraction) -> Node:
    """An exact number."""
    return Node("num", value=Number(Fraction(value)))


def walk(node: Node) -> Iterator[Node]:
    """Every node of the tree, parents first."""
    stack = [node]
    while stack:
        top = stack.pop()
        yield top
        stack.extend(reversed(top.items))


def with_signs(node: Node, values: Iterator[int]) -> Node:
    """The tree with each plus-minus sign, in order, chosen by the next of the values."""
    if node.kind == "sign":
        return number(node.value * next(values))
    if not node.items:
        return node
    return Node(node.kind, tuple(with_signs(item, values) for item in node.items), node.value)


def has_signs(node: Node) -> bool:
    """Whether a plus-minus stands anywhere in the tree."""
    return any(part.kind == "sign" for part in walk(node))


def variables(node: Node) -> frozenset[str]:
    """The names of the variables in the tree."""
    return frozenset(str(part.value) for part in walk(node) if part.kind == "var")
