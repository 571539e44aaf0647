r"""From tokens to a tree: recursive descent, from loose to tight.

    statements  a, b   a and b   a or b        relation    a < b <= c   x \in S
    sets        A \cup B   A \setminus B       ratio       a : b
    sum         a + b - c \pm d                product     a b   a * b / c   then a unit
    unary       -a                             power       a^b   a!   a^\circ   a_b
    primary     numbers, names, functions, brackets, matrices, words

Reading is linear but for a bounded look-ahead, and a bound on depth keeps the recursion small. What is not in the
grammar raises Unreadable, never anything else.
"""

from __future__ import annotations

from fractions import Fraction

from rewards.answers.numerals import all_digits, digits, inner, mixed, plain_fraction, read_digits
from rewards.answers.primaries import CLOSERS, Primaries
from rewards.answers.tokens import Token, tokenize
from rewards.answers.tree import Node, Unreadable, number
from rewards.answers.words import SCALES

_SETS = {"cup": "union", "cap": "intersect", "setminus": "minus"}
_RAISED_O = Node("var", value="o")
_NO_FACTOR = frozenset({"+", "-", "*", "/", ":", "^", "_", "!", "'", "%", "->", "&", "#", "|", "l|"}) | CLOSERS


def parse(text: str, *, commas_group: bool = True) -> Node:
    """The tree of an answer. Raises Unreadable."""
    tokens = tokenize(text, commas_group=commas_group)
    while tokens and (tokens[-1].text in (".", ",", "\\\\", ":") or tokens[-1].kind == "sep"):
        tokens.pop()
    while tokens and (tokens[0].kind == "sep" or tokens[0].text in (":", "->")):
        tokens.pop(0)
    if not tokens:
        raise Unreadable("nothing to read")
    parser = Parser(tokens)
    tree = parser.statements(())
    if parser.position < len(tokens):
        raise Unreadable(f"{tokens[parser.position].text!r} is out of place")
    return tree


class Parser(Primaries):
    """The looser levels of the grammar, each in one method."""

    def statements(self, closers: tuple[str, ...]) -> Node:
        """Statements up to a closing token: one of them itself, or a list of them."""
        self.deeper()
        items: list[Node] = []
        joined = set()
        starts = [0]
        while self.peek() is not None and not self.at(*closers):
            if (token := self.peek()) is not None and token.kind == "sep":
                joined.add("or" if token.text == "or" else "and" if token.text == "and" else ",")
                starts += [len(items)] if token.text == "or" else []
                self.position += 1
            elif self.take("&", "->"):
                continue
            else:
                items.append(self.relation())
                token = self.peek()
                if token is not None and token.kind == "num" and items[-1].kind == "quantity":
                    joined.add("and")  # 2 hours 30 minutes
                elif token is not None and not self.at(*closers) and token.kind != "sep" and not self.at("&", "->"):
                    raise Unreadable(f"{token.text!r} is out of place")
        self.depth -= 1
        if len(items) > 1 and _declares_integer(items[-1]):
            items.pop()  # k \\in \\mathbb{Z}
        if not items:
            raise Unreadable("an empty list")
        if len(items) == 1:
            return items[0]
        if len(starts) > 1 and len(joined) > 1:
            items = _alternatives(items, starts)
        return Node("list", tuple(items), "or" if "or" in joined else "and" if "and" in joined else ",")

    def relation(self) -> Node:
        """A relation, or one of TeX's infix forms: a \\over b, n \\choose k."""
        left = self.compared()
        if self.take("over"):
            return Node("div", (left, self.compared()))
        if self.take("choose"):
            return Node("call", (left, self.compared()), "binom")
        return left

    def compared(self) -> Node:
        if (token := self.peek()) is not None and token.kind == "rel" and token.text in ("=", "~"):
            self.position += 1  # "= 5" and "\approx 5" say 5
        items = [self.sets()]
        operators = []
        while (token := self.peek()) is not None and token.kind == "rel":
            self.position += 1
            operators.append(token.text)
            items.append(self.sets())
        modulus = self.modulus()
        if not operators:
            return items[0] if modulus is None else Node("mod", (items[0], modulus))
        if modulus is not None:
            return Node("rel", (items[0], Node("mod", (items[-1], modulus))), ("==",))
        return Node("rel", tuple(items), tuple(operators))

    def modulus(self) -> Node | None:
        if self.take("pmod"):
            return self.group()
        opened = self.at("(") and (token := self.peek(1)) is not None and token.text in ("mod", "bmod")
        if opened:
            self.position += 1
        if self.take("mod", "bmod") or ((token := self.peek()) is not None and token.text == "mod" and self.next()):
            value = self.sum()
            if opened:
                self.expect(")")
            return value
        return None

    def sets(self) -> Node:
        left = self.ratio()
        while self.at(*_SETS):
            kind = _SETS[self.next().text]
            left = Node(kind, (left, self.ratio()))
        return left

    def ratio(self) -> Node:
        items = [self.sum()]
        while self.at(":") and not self.colon_ends and self.peek(1) is not None:
            self.position += 1
            items.append(self.sum())
        return items[0] if len(items) == 1 else Node("ratio", tuple(items))

    # --- arithmetic

    def sum(self) -> Node:
        self.deeper()
        terms = [self.signed()]
        while self.at("+", "-", "pm", "mp"):
            terms.append(self.signed())
        self.depth -= 1
        if len(terms) == 2 and terms[0].kind == "reals" and terms[1].kind == "neg" and terms[1].items[0].kind == "set":
            return Node("minus", (terms[0], terms[1].items[0]))
        return terms[0] if len(terms) == 1 else Node("add", tuple(terms))

    def signed(self) -> Node:
        self.deeper()
        try:
            if self.take("+"):
                return self.signed()
            if self.take("-"):
                return Node("neg", (self.signed(),))
            if self.at("pm", "mp"):
                sign = Node("sign", value=1 if self.next().text == "pm" else -1)
                return Node("mul", (sign, self.signed()))
            return self.product()
        finally:
            self.depth -= 1

    def product(self) -> Node:
        left = self.power()
        while True:
            token = self.peek()
            if token is None:
                return left
            if left.kind == "quantity" and token.kind == "num":
                return left
            if token.kind == "text" and left.kind == "quantity" and left.value == "percent":
                left = Node("quantity", left.items, f"percent {self.next().text.lower()}")
            elif token.kind == "text":
                left = self.unit(left)
            elif self.take("*"):
                left = Node("mul", (left, self.factor()))
            elif self.take("/"):
                left = Node("div", (left, self.factor()))
            elif self.take("%"):
                left = Node("quantity", (left,), "percent")
            elif token.text.startswith("currency:"):
                self.position += 1
                left = Node("quantity", (left,), token.text[9:])
            elif self.starts_factor(token):
                left = self.adjacent(left)
            else:
                return left

    def factor(self) -> Node:
        """What may follow a multiplication sign, its own sign included."""
        if self.take("-"):
            return Node("neg", (self.factor(),))
        self.take("+")
        return self.power()

    def starts_factor(self, token: Token) -> bool:
        if token.kind in ("sep", "rel"):
            return False
        if token.text in ("|",):
            return self.bars == 0
        if token.text == "l|":
            return True
        if token.text in _NO_FACTOR or token.text.startswith("end:"):
            return False
        if token.text in ("[", "("):
            return not (token.text == "[" and self.half_open) and not (
                token.text == "(" and (ahead := self.peek(1)) is not None and ahead.text in ("mod", "bmod")
            )
        return token.text not in ("pm", "mp", "pmod", "mod", "bmod", "circ", "ldots", "prime", "over", "choose", *_SETS)

    def adjacent(self, left: Node) -> Node:
        """Two factors side by side: a mixed number where it looks like one, else a product."""
        token = self.peek()
        whole = left.items[0] if left.kind == "neg" else left
        integer = whole.kind == "num" and whole.value.digits is None and whole.value.value.denominator == 1
        if token is not None and token.kind == "num" and whole.kind == "num":
            top, slash, bottom = token, self.peek(1), self.peek(2)
            if not (integer and token.spaced and slash and slash.text == "/" and bottom and bottom.kind == "num"):
                raise Unreadable("two numbers side by side")
            self.position += 3
            return mixed(left, Fraction(int(top.text), max(1, int(bottom.text)))) if all_digits(top, bottom) else left
        if token is not None and token.kind == "num" and left.kind != "const" and not self._number_leads_on():
            raise Unreadable("a number after a factor")
        right = self.power()
        part = plain_fraction(right)
        if integer and part is not None and 0 < part < 1:
            return mixed(left, part)
        return Node("mul", (left, right))

    def _number_leads_on(self) -> bool:
        """Whether the number at hand begins a factor of its own (k 2^n, k 2\\pi), and does not just trail behind."""
        after = self.peek(1)
        return after is not None and (
            after.text in ("^", "!", "_") or (after.kind != "num" and self.starts_factor(after))
        )

    def unit(self, left: Node) -> Node:
        """The words after a number: a scale such as "million", or a unit with its powers and divisions."""
        words = [self.next().text]
        scale = SCALES.get(words[0].lower().split()[0])
        if scale is not None:
            left = Node("mul", (left, number(scale)))
            words = words[0].split()[1:]
        if scale is not None and not words and ((token := self.peek()) is None or token.kind != "text"):
            return left
        while (token := self.peek()) is not None:
            if token.kind == "text":
                words.append(" " + token.text)
            elif self.at("^", "/", "*") or (token.kind == "num" and words and words[-1] == "^"):
                words.append("" if token.text == "*" else token.text)
            elif self.at("-") and words and words[-1] == "^":
                words.append("-")
            elif token.text in ("{", "}") and "^" in "".join(words[-4:]):
                pass
            elif (token.kind == "var" and words and words[-1] == "/") or (token.kind == "num" and words[-1] == "-"):
                words.append(token.text)
            elif token.text in ("*",):
                words.append(" ")
            else:
                break
            self.position += 1
        unit = "".join(words).strip()
        return Node("quantity", (left,), unit) if unit else left

    # --- powers and what follows a primary

    def power(self) -> Node:
        self.deeper()
        base = self.primary()
        while True:
            if self.at("^"):
                base = self.raised(base)
            elif self.take("!"):
                base = Node("call", (base,), "factorial!!" if self.take("!") else "factorial")
            elif self.take("'", "prime"):
                base = (
                    Node("var", value=f"{base.value}'")
                    if base.kind == "var"
                    else Node("quantity", (base,), "arcminute")
                )
            elif self.take("circ"):
                base = self.degrees(base)
            elif self.at("_") and base.kind == "num":
                self.position += 1
                base = Node("base", value=(digits(base), inner(self.group())))
            else:
                break
        self.depth -= 1
        return base

    def raised(self, base: Node) -> Node:  # noqa: PLR0911  one return for each thing that stands above the line
        self.expect("^")
        if self.take("circ"):
            return self.degrees(base)
        if self.at("{") and (token := self.peek(1)) is not None and token.text == "circ":
            self.position += 2
            letter = self.next() if not self.at("}") else None
            self.expect("}")
            return self.degrees(base, letter.text if letter else "")
        if base.kind == "num" and self.take("o"):
            return self.degrees(base)
        if self.at("'") or self.at("prime"):
            return base
        if (token := self.peek()) is not None and token.kind == "var" and token.text == "T" and base.kind == "matrix":
            self.position += 1
            return Node("call", (base,), "transpose")
        exponent = self.group(whole_number=True)
        if exponent == _RAISED_O and base.kind == "num":
            return self.degrees(base)
        return Node("pow", (base, exponent))

    def degrees(self, base: Node, scale: str = "") -> Node:
        token = self.peek()
        letter = scale or (token.text if token is not None and token.kind in ("var", "text") else "")
        if letter in ("C", "F", "K"):
            if not scale:
                self.position += 1
            return Node("quantity", (base,), {"C": "celsius", "F": "fahrenheit", "K": "kelvin"}[letter])
        return Node("deg", (base,))

    def group(self, *, whole_number: bool = False) -> Node:
        """A LaTeX argument: a braced group, or a single token; of a number its first digit unless ``whole_number``."""
        if self.take("{"):
            self.bars, bars = 0, self.bars
            inside = self.statements(("}",))
            self.bars = bars
            self.expect("}")
            return inside
        token = self.next()
        if token.kind == "num":
            if not whole_number and len(token.text) > 1 and token.text.isdigit():
                self.position -= 1
                self.tokens[self.position] = Token("num", token.text[1:], False)
                return read_digits(token.text[0])
            return read_digits(token.text)
        self.position -= 1
        if token.text in ("-", "+") and whole_number:
            self.position += 1
            inner = self.group(whole_number=True)
            return Node("neg", (inner,)) if token.text == "-" else inner
        return self.primary()


def _declares_integer(node: Node) -> bool:
    """A last item that only says of a variable that it is whole."""
    whole = (
        node.kind == "rel" and node.value == ("in",) and node.items[0].kind == "var" and node.items[1].kind == "reals"
    )
    return whole and str(node.items[1].value)[0] in "ZN"


def _alternatives(items: list[Node], starts: list[int]) -> list[Node]:
    """``x=2, y=3 or x=3, y=2``: one item for each alternative, where each is several equations."""
    groups = [items[start:stop] for start, stop in zip(starts, [*starts[1:], len(items)], strict=True)]
    several = all(
        len(group) > 1 and all(item.kind == "rel" and item.value == ("=",) for item in group) for group in groups
    )
    return [Node("list", tuple(group), "and") for group in groups] if several else items
