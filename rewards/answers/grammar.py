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

import re
from fractions import Fraction

from rewards.answers.exact import Number, decimal_number
from rewards.answers.tokens import Token, tokenize
from rewards.answers.tree import Node, Unreadable, number
from rewards.answers.words import CONSTANTS, FUNCTIONS, GREEK, INVERSE, PHRASES, SCALES, number_word, plain_words

MAX_DEPTH = 60
MAX_POWER = 400  # digits of a decimal exponent written as 1e400 that are still held exactly

_CLOSERS = {")", "]", "\\}", "}", "rangle", "r|", "rfloor", "rceil"}
_SETS = {"cup": "union", "cap": "intersect", "setminus": "minus"}
_APPLIED = frozenset("fghFGH")
_LETTER_SETS = frozenset("RZNQC")
_NO_FACTOR = frozenset({"+", "-", "*", "/", ":", "^", "_", "!", "'", "%", "->", "&", "#", "|", "l|"}) | _CLOSERS
_NAMED = frozenset({"angle", "triangle", "vec", "overline", "hat", "widetilde", "measuredangle"})
_CALLS = FUNCTIONS | set(INVERSE.values()) | {"max", "min", "gcd", "lcm"}


def parse(text: str, *, commas_group: bool = True) -> Node:
    """The tree of an answer. Raises Unreadable."""
    tokens = tokenize(text, commas_group=commas_group)
    while tokens and (tokens[-1].text in (".", ",", "\\\\", ":") or tokens[-1].kind == "sep"):
        tokens.pop()
    while tokens and (tokens[0].kind == "sep" or tokens[0].text in (":", ".", "->")):
        tokens.pop(0)
    if not tokens:
        raise Unreadable("nothing to read")
    parser = Parser(tokens)
    tree = parser.statements(())
    if parser.position < len(tokens):
        raise Unreadable(f"{tokens[parser.position].text!r} is out of place")
    return tree


class Parser:
    """A position in a list of tokens; each method reads one level of the grammar."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.position = 0
        self.depth = 0
        self.bars = 0

    # --- looking and moving

    def peek(self, ahead: int = 0) -> Token | None:
        index = self.position + ahead
        return self.tokens[index] if index < len(self.tokens) else None

    def at(self, *texts: str) -> bool:
        token = self.peek()
        return token is not None and token.kind != "text" and token.text in texts

    def take(self, *texts: str) -> bool:
        if self.at(*texts):
            self.position += 1
            return True
        return False

    def next(self) -> Token:
        token = self.peek()
        if token is None:
            raise Unreadable("the text ends too early")
        self.position += 1
        return token

    def expect(self, *texts: str) -> Token:
        if not self.at(*texts):
            raise Unreadable(f"{' or '.join(texts)} is missing")
        return self.next()

    def deeper(self) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable("nested too deeply")

    # --- statements

    def statements(self, closers: tuple[str, ...]) -> Node:
        """Statements up to a closing token: one of them itself, or a list of them."""
        self.deeper()
        items = []
        joined = set()
        while self.peek() is not None and not self.at(*closers):
            if (token := self.peek()) is not None and token.kind == "sep":
                joined.add("or" if token.text == "or" else "and" if token.text == "and" else ",")
                self.position += 1
            elif self.take("&", "->"):
                continue
            else:
                items.append(self.relation())
                token = self.peek()
                if token is not None and not self.at(*closers) and token.kind != "sep" and not self.at("&", "->"):
                    raise Unreadable(f"{token.text!r} is out of place")
        self.depth -= 1
        if not items:
            raise Unreadable("an empty list")
        if len(items) == 1:
            return items[0]
        return Node("list", tuple(items), "or" if "or" in joined else "and" if "and" in joined else ",")

    def relation(self) -> Node:
        if (token := self.peek()) is not None and token.kind == "rel" and token.text in ("=", "~"):
            self.position += 1  # "= 5" and "\approx 5" say 5
        items = [self.sets()]
        operators = []
        while (token := self.peek()) is not None and token.kind == "rel":
            self.position += 1
            operators.append(token.text)
            if self.at("pm") and token.text == "=":
                pass
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
        while self.at(*_SETS) or (self.at("-") and False):
            kind = _SETS[self.next().text]
            left = Node(kind, (left, self.ratio()))
        return left

    def ratio(self) -> Node:
        items = [self.sum()]
        while self.at(":") and (self.peek(1) is not None):
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
            if token.kind == "text":
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
        if token.text == "[" or token.text == "(":
            return not (token.text == "(" and (ahead := self.peek(1)) is not None and ahead.text in ("mod", "bmod"))
        return token.text not in ("pm", "mp", "pmod", "mod", "bmod", "circ", "ldots", "prime", *_SETS)

    def adjacent(self, left: Node) -> Node:
        """Two factors side by side: a mixed number where it looks like one, else a product."""
        token = self.peek()
        whole = left.items[0] if left.kind == "neg" else left
        integer = whole.kind == "num" and whole.value.digits is None and whole.value.value.denominator == 1
        if token is not None and token.kind == "num":
            top, slash, bottom = token, self.peek(1), self.peek(2)
            if not (integer and token.spaced and slash and slash.text == "/" and bottom and bottom.kind == "num"):
                raise Unreadable("two numbers side by side")
            self.position += 3
            return _mixed(left, Fraction(int(top.text), max(1, int(bottom.text)))) if _plain(top, bottom) else left
        right = self.power()
        part = _plain_fraction(right)
        if integer and part is not None and 0 < part < 1:
            return _mixed(left, part)
        return Node("mul", (left, right))

    def unit(self, left: Node) -> Node:
        """The words after a number: a scale such as "million", or a unit with its powers and divisions."""
        words = [self.next().text]
        scale = SCALES.get(words[0].lower().split()[0])
        if scale is not None:
            left = Node("mul", (left, number(scale)))
            words = words[0].split()[1:]
        while (token := self.peek()) is not None:
            if token.kind == "text":
                words.append(" " + token.text)
            elif self.at("^", "/", "*") or (token.kind == "num" and words and words[-1] == "^"):
                words.append("" if token.text == "*" else token.text)
            elif self.at("-") and words and words[-1] == "^":
                words.append("-")
            elif token.text in ("{", "}") and "^" in "".join(words[-4:]):
                pass
            elif token.kind == "var" and words and words[-1] == "/":
                words.append(token.text)
            elif token.kind == "num" and words[-1] == "-":
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
                base = Node("var", value=f"{base.value}'") if base.kind == "var" else base
            elif self.take("circ"):
                base = self.degrees(base)
            elif self.at("_") and base.kind == "num":
                self.position += 1
                base = Node("base", value=(_digits(base), _inner(self.group())))
            else:
                break
        self.depth -= 1
        return base

    def raised(self, base: Node) -> Node:
        self.expect("^")
        if self.take("circ"):
            return self.degrees(base)
        if self.at("{") and (token := self.peek(1)) is not None and token.text == "circ":
            self.position += 2
            letter = self.next() if not self.at("}") else None
            self.expect("}")
            return self.degrees(base, letter.text if letter else "")
        if self.at("'") or self.at("prime"):
            return base
        if (token := self.peek()) is not None and token.kind == "var" and token.text == "T" and base.kind == "matrix":
            self.position += 1
            return Node("call", (base,), "transpose")
        exponent = self.group(whole_number=True)
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

    # --- primaries

    def primary(self) -> Node:
        self.deeper()
        token = self.next()
        try:
            if token.kind == "num":
                return self.numeral(token)
            if token.kind == "var":
                return self.name(token.text)
            if token.kind == "text":
                return self.words(token.text)
            if token.kind == "cmd":
                return self.named(token.text)
            return self.bracket(token.text)
        finally:
            self.depth -= 1

    def numeral(self, token: Token) -> Node:
        if self.at("ldots") and "." in token.text:
            self.position += 1
            return _endless(token.text)
        if "." in token.text and self.at("(", "overline", "dot", "overset"):
            repeated = self.repeating(token.text)
            if repeated is not None:
                return repeated
        if self.at(".") and (ahead := self.peek(1)) is not None and ahead.text in ("overline", "dot"):
            self.position += 1
            repeated = self.repeating(token.text + ".")
            if repeated is not None:
                return repeated
        if self.at(".") and self._ends_after_point():
            self.position += 1
        return read_digits(token.text)

    def _ends_after_point(self) -> bool:
        ahead = self.peek(1)
        return ahead is None or ahead.kind in ("sep", "rel", "text") or ahead.text in _CLOSERS

    def repeating(self, digits: str) -> Node | None:
        """A repeating decimal: an overline, dots over digits, or the period in parentheses."""
        start = self.position
        if self.take("("):
            token = self.next()
            closed = token.kind == "num" and token.text.isdigit() and self.take(")")
            period = token.text if closed else ""
        elif self.take("overline"):
            opened = self.take("{")
            token = self.next()
            period = token.text if token.text.isdigit() and (not opened or self.take("}")) else ""
        else:
            period = self._dotted()
        if not period:
            self.position = start
            return None
        self.take("ldots")
        whole, _, fixed = digits.partition(".")
        fixed_value = Fraction(int(whole + fixed or "0"), 10 ** len(fixed))
        return number(fixed_value + Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(fixed)))

    def _dotted(self) -> str:
        period = ""
        dots = 0
        while dots < 2 and (token := self.peek()) is not None:
            if token.text == "dot":
                self.position += 1
                opened = self.take("{")
                period += self.next().text
                if opened:
                    self.expect("}")
                dots += 1
            elif token.kind == "num" and dots == 1 and (ahead := self.peek(1)) is not None and ahead.text == "dot":
                period += self.next().text
            else:
                break
        return period if period.isdigit() else ""

    def name(self, letter: str) -> Node:
        if self.at("_"):
            self.position += 1
            letter = f"{letter}_{_inner(self.group(whole_number=True))}"
        if letter == "e":
            return Node("const", value="e")
        if letter == "i":
            return Node("const", value="i")
        while self.take("'", "prime"):
            letter += "'"
        if letter[0] in _APPLIED and self.at("("):
            self.position += 1
            inside = self.statements((")",))
            self.expect(")")
            return Node("call", inside.items if inside.kind == "list" else (inside,), f"fn:{letter}")
        return Node("var", value=letter)

    def words(self, text: str) -> Node:
        plain = plain_words(text)
        phrase = PHRASES.get(plain, plain)
        spelled = number_word(plain)
        if spelled is not None:
            return number(spelled)
        if phrase == "{}":
            return Node("set")
        if phrase == "R":
            return Node("reals", value="R")
        if phrase == "infinity":
            return Node("const", value="inf")
        if len(text.strip()) == 1 and text.strip().isalpha():
            return self.name(text.strip())
        token = self.peek()
        if token is not None and token.kind == "num" and plain in _LABELS:
            return self.sum()
        return Node("text", value=phrase)

    def named(self, name: str) -> Node:  # noqa: PLR0911, PLR0912  one line for each command of the grammar
        if name in CONSTANTS:
            return Node("const", value=CONSTANTS[name])
        if name in GREEK:
            return self.name(name)
        if name in ("frac", "over"):
            return Node("div", (self.group(), self.group()))
        if name == "binom":
            return Node("call", (self.group(), self.group()), "binom")
        if name == "sqrt":
            return self.root()
        if name in _CALLS:
            return self.call(name)
        if name == "mathbb":
            letter = self.group()
            return self.letter_set(str(letter.value))
        if name == "reals":
            return self.letter_set("R")
        if name == "emptyset":
            return Node("set")
        if name in ("langle", "lfloor", "lceil"):
            return self.bracket(name)
        if name.startswith("currency:"):
            return Node("quantity", (self.power_with_scale(),), name[9:])
        if name in _NAMED:
            return self.decorated(name)
        if name in ("sum", "prod"):
            return self.series(name)
        if name in ("square", "checkmark", "star", "Box", "blacksquare", "to"):
            return Node("text", value=name)
        raise Unreadable(f"\\{name} is not read")

    def power_with_scale(self) -> Node:
        """The amount after a currency sign, with a scale word such as "million"."""
        negative = self.take("-")
        left = self.power()
        token = self.peek()
        if token is not None and token.kind == "text" and token.text.lower().split()[0] in SCALES:
            words = self.next().text.lower().split()
            left = Node("mul", (left, number(SCALES[words[0]])))
        return Node("neg", (left,)) if negative else left

    def letter_set(self, letter: str) -> Node:
        if letter not in _LETTER_SETS:
            raise Unreadable(f"the set {letter!r} is not known")
        suffix = ""
        while self.at("^", "_"):
            self.position += 1
            token = self.next()
            if token.text == "{":
                token = self.next()
                self.expect("}")
            suffix += token.text
        return Node("reals", value=letter + suffix)

    def root(self) -> Node:
        degree = number(2)
        if self.take("["):
            degree = self.sum()
            self.expect("]")
        if self.take("("):
            inside = self.sum()
            self.expect(")")
            return Node("call", (inside, degree), "root")
        return Node("call", (self.group(whole_number=True), degree), "root")

    def call(self, name: str) -> Node:
        base: Node | None = None
        exponent: Node | None = None
        for _ in range(2):
            if name == "log" and self.take("_"):
                base = self.group()
            elif self.take("^"):
                exponent = self.group(whole_number=True)
        if exponent is not None and exponent == Node("neg", (number(1),)) and name in INVERSE:
            name, exponent = INVERSE[name], None
        arguments = self.arguments()
        if base is not None:
            arguments = (*arguments, base)
        applied = Node("call", arguments, name)
        return applied if exponent is None else Node("pow", (applied, exponent))

    def arguments(self) -> tuple[Node, ...]:
        """In parentheses, in braces, or the product that follows: sin 2x, but not the second factor of sin x cos x."""
        for opening, closing in (("(", ")"), ("{", "}"), ("[", "]"), ("l|", "r|")):
            if self.take(opening):
                bars, self.bars = self.bars, 0
                inside = self.statements((closing,))
                self.bars = bars
                self.expect(closing)
                if opening == "l|":
                    return (Node("call", (inside,), "abs"),)
                if opening == "{" and self.at("(") and inside.kind == "var":
                    break
                return inside.items if inside.kind == "list" else (inside,)
        left = self.signed_argument()
        while (token := self.peek()) is not None and token.kind in ("num", "var", "cmd") and self.starts_factor(token):
            if token.text in _CALLS or token.kind == "num":
                break
            left = Node("mul", (left, self.power()))
        return (left,)

    def signed_argument(self) -> Node:
        return Node("neg", (self.power(),)) if self.take("-") else self.power()

    def decorated(self, name: str) -> Node:
        """A mark over or before letters: a segment, an angle, a vector; with a digit string, part of a number."""
        inside = self.group() if self.at("{") else self.letters()
        if name == "overline" and inside.kind == "const":
            return Node("call", (inside,), "conj")
        return Node("var", value=f"{name} {_inner(inside)}")

    def letters(self) -> Node:
        found = []
        while (token := self.peek()) is not None and token.kind == "var":
            found.append(Node("var", value=self.next().text))
        if not found:
            return self.primary()
        return found[0] if len(found) == 1 else Node("mul", tuple(found))

    def series(self, name: str) -> Node:
        self.expect("_")
        self.expect("{")
        start = self.relation()
        self.expect("}")
        self.expect("^")
        stop = self.group(whole_number=True)
        if start.kind != "rel" or start.value != ("=",):
            raise Unreadable("a series without a start")
        body = self.product()
        return Node("call", (start.items[0], start.items[1], stop, body), name)

    # --- brackets

    def bracket(self, opening: str) -> Node:
        handler = {
            "(": self.round,
            "[": self.square,
            "\\{": self.set,
            "{": self.brace,
            "|": self.absolute,
            "l|": self.absolute,
            "langle": self.angle_bracket,
            "lfloor": self.floor,
            "lceil": self.ceiling,
        }.get(opening)
        if handler is not None:
            bars, self.bars = self.bars, self.bars if opening == "|" else 0
            try:
                return handler()
            finally:
                self.bars = bars
        if opening.startswith("begin:"):
            return self.environment(opening[6:])
        if opening == "]":
            return self.open_interval()
        if opening == "ldots":
            return Node("dots")
        raise Unreadable(f"{opening!r} is out of place")

    def inside(self, *closers: str) -> tuple[tuple[Node, ...], str]:
        """What stands in brackets, and the bracket that closed it."""
        if self.at(*closers):
            return (), self.next().text
        content = self.statements(closers)
        closer = self.expect(*closers).text
        return (content.items if content.kind == "list" and content.value == "," else (content,)), closer

    def round(self) -> Node:
        items, closer = self.inside(")", "]")
        if closer == "]":
            return _interval(items, closed=(False, True))
        if not items:
            raise Unreadable("empty parentheses")
        return items[0] if len(items) == 1 else Node("tuple", items)

    def square(self) -> Node:
        items, closer = self.inside("]", ")", "[")
        if closer in (")", "["):
            return _interval(items, closed=(True, False))
        if len(items) == 2:
            return _interval(items, closed=(True, True))
        return items[0] if len(items) == 1 else Node("tuple", items)

    def open_interval(self) -> Node:
        """The French way of writing: ]a, b[ excludes both ends."""
        items, closer = self.inside("[", "]")
        return _interval(items, closed=(False, closer == "]"))

    def set(self) -> Node:
        items: list[Node] = []
        if self.take("\\}"):
            return Node("set")
        self.bars = 1
        content = self.statements(("\\}", "|", ":"))
        if self.take("|", ":"):
            self.bars = 0
            condition = self.statements(("\\}",))
            self.expect("\\}")
            return Node("builder", (content, condition))
        self.expect("\\}")
        items.extend(content.items if content.kind == "list" else (content,))
        return Node("set", tuple(items))

    def brace(self) -> Node:
        if self.take("}"):
            return Node("set")
        items, _ = self.inside("}")
        return items[0] if len(items) == 1 else Node("set", items)

    def absolute(self) -> Node:
        self.bars += 1
        inside = self.sum()
        self.expect("|", "r|")
        return Node("call", (inside,), "abs")

    def angle_bracket(self) -> Node:
        items, _ = self.inside("rangle")
        return items[0] if len(items) == 1 else Node("tuple", items)

    def floor(self) -> Node:
        inside = self.sum()
        self.expect("rfloor")
        return Node("call", (inside,), "floor")

    def ceiling(self) -> Node:
        inside = self.sum()
        self.expect("rceil")
        return Node("call", (inside,), "ceil")

    def environment(self, name: str) -> Node:
        rows: list[Node] = []
        row: list[Node] = []
        end = f"end:{name}"
        while not self.take(end):
            if self.take("&"):
                continue
            if (token := self.peek()) is not None and token.text == "\\\\" and token.kind == "sep":
                self.position += 1
                rows.append(Node("tuple", tuple(row)))
                row = []
            elif token is not None and token.kind == "sep" and name == "cases":
                self.position += 1
            elif token is not None and token.text == "hline":
                self.position += 1
            else:
                row.append(self.relation())
        if row:
            rows.append(Node("tuple", tuple(row)))
        if not rows:
            raise Unreadable("an empty matrix")
        if name == "cases":
            return Node("cases", tuple(rows))
        if len({len(part.items) for part in rows}) != 1:
            raise Unreadable("rows of different lengths")
        matrix = Node("matrix", tuple(rows))
        return Node("call", (matrix,), "det") if name == "vmatrix" else matrix


_LABELS = frozenset(
    "answer,answer is,is,option,choice,about,approximately,roughly,exactly,total,value is,number,equals,only,the answer is".split(
        ","
    )
)


def read_digits(text: str) -> Node:
    """A numeral: an integer, a decimal, or scientific notation; a huge power of ten stays a power."""
    mantissa, mark, exponent = re.sub("E", "e", text).partition("e")
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


def _endless(text: str) -> Node:
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
    return Node("call", (read_digits(text),), "endless")


def _mixed(whole: Node, part: Fraction) -> Node:
    if whole.kind == "neg":
        return Node("neg", (_mixed(whole.items[0], part),))
    return number(whole.value.value + part)


def _plain(*tokens: Token) -> bool:
    return all(token.text.isdigit() for token in tokens)


def _plain_fraction(node: Node) -> Fraction | None:
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


def _interval(items: tuple[Node, ...], closed: tuple[bool, bool]) -> Node:
    if len(items) != 2:
        raise Unreadable("an interval has two ends")
    return Node("interval", items, closed)


def _digits(node: Node) -> str:
    value = node.value.value
    return str(value.numerator) if value.denominator == 1 else str(float(value))


def _inner(node: Node) -> str:
    """A subscript or a mark's letters as text."""
    if node.kind == "num":
        return _digits(node)
    if node.kind in ("var", "const", "text"):
        return str(node.value)
    if node.kind in ("mul", "list", "add"):
        return "".join(map(_inner, node.items))
    if node.kind == "tuple":
        return ",".join(map(_inner, node.items))
    raise Unreadable("a subscript that is no name")
