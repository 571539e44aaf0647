"""The tightest level of the grammar: numbers, names, functions, brackets, matrices and words.

``Primaries`` leaves the looser levels, which brackets contain again, to ``grammar.Parser``.
"""

from __future__ import annotations

from fractions import Fraction

from rewards.answers.cursor import Cursor
from rewards.answers.numerals import endless, inner, interval, read_digits
from rewards.answers.tokens import Token
from rewards.answers.tree import Node, Unreadable, number
from rewards.answers.words import (
    CONSTANTS,
    FUNCTIONS,
    GREEK,
    INVERSE,
    PHRASES,
    SCALES,
    number_word,
    plain_words,
    without_opening,
)

CLOSERS = frozenset({")", "]", "\\}", "}", "rangle", "r|", "rfloor", "rceil"})
CALLS = FUNCTIONS | set(INVERSE.values()) | {"max", "min", "gcd", "lcm"}
_INVERSE = ["^", "{", "-", "1", "}", "("]
_APPLIED = frozenset("fghFGH")
_LETTER_SETS = frozenset("RZNQC")
_NAMED = frozenset({"angle", "triangle", "vec", "overline", "hat", "widetilde", "measuredangle"})
_LABELS = frozenset(
    {
        *("answer", "answer is", "is", "option", "choice", "about", "approximately", "roughly", "exactly", "total"),
        *("value is", "number", "equals", "only"),
    }
)


class Primaries(Cursor):
    """Reads one primary; the looser levels are the subclass's."""

    def statements(self, closers: tuple[str, ...]) -> Node:
        raise NotImplementedError

    def relation(self) -> Node:
        raise NotImplementedError

    def sum(self) -> Node:
        raise NotImplementedError

    def product(self) -> Node:
        raise NotImplementedError

    def power(self) -> Node:
        raise NotImplementedError

    def group(self, *, whole_number: bool = False) -> Node:
        raise NotImplementedError

    def starts_factor(self, token: Token) -> bool:
        raise NotImplementedError

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
            return endless(token.text)
        if "." in token.text and self.at("(", "overline", "dot", "overset"):
            repeated = self.repeating(token.text)
            if repeated is not None:
                return repeated
        if self.at(".") and (ahead := self.peek(1)) is not None and ahead.text in ("overline", "dot", "("):
            self.position += 1
            repeated = self.repeating(token.text + ".")
            if repeated is not None:
                return repeated
            self.position -= 1
        if self.at(".") and self._ends_after_point():
            self.position += 1
        return read_digits(token.text)

    def _ends_after_point(self) -> bool:
        ahead = self.peek(1)
        return ahead is None or ahead.kind in ("sep", "rel", "text") or ahead.text in CLOSERS

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
            letter = f"{letter}_{inner(self.group(whole_number=True))}"
        if letter == "e":
            return Node("const", value="e")
        if letter == "i":
            return Node("const", value="i")
        while self.take("'", "prime"):
            letter += "'"
        if letter in _APPLIED and [token.text for token in self.tokens[self.position : self.position + 6]] == _INVERSE:
            self.position += 5
            letter += "^-1"
        if letter in ("C", "P") and self.at("("):
            return self.choose(letter)
        if letter[0] in _APPLIED and self.at("("):
            self.position += 1
            inside = self.statements((")",))
            self.expect(")")
            return Node("call", inside.items if inside.kind == "list" else (inside,), f"fn:{letter}")
        return Node("var", value=letter)

    def choose(self, letter: str) -> Node:
        """C(n, k) and P(n, k), where there are two arguments that are not events; else a product."""
        start = self.position
        self.position += 1
        inside = self.statements((")",))
        self.expect(")")
        if inside.kind == "list" and len(inside.items) == 2:
            return Node("call", inside.items, "binom" if letter == "C" else "permutations")
        self.position = start
        return Node("var", value=letter)

    def words(self, text: str) -> Node:  # noqa: PLR0911  one return for each meaning of words
        plain = without_opening(plain_words(text))
        phrase = PHRASES.get(plain, plain)
        spelled = number_word(plain)
        if spelled is not None:
            return number(spelled)
        if phrase == "{}":
            return Node("set")
        if phrase in ("R", "Z"):
            return Node("reals", value=phrase)
        if phrase in ("infinity", "negative infinity"):
            infinity = Node("const", value="inf")
            return infinity if phrase == "infinity" else Node("neg", (infinity,))
        if len(text.strip()) == 1 and text.strip().isalpha():
            return self.name(text.strip())
        token = self.peek()
        if token is not None and token.kind == "num" and plain in _LABELS:
            return self.sum()
        if plain in ("negative", "minus") and token is not None:
            return Node("neg", (self.power(),))
        counted = _counted(plain)
        if counted is not None:
            return counted
        while (token := self.peek()) is not None and token.kind in ("num", "text"):
            phrase += f" {plain_words(self.next().text)}"
        return Node("text", value=phrase)

    def named(self, name: str) -> Node:  # noqa: PLR0911, PLR0912  one line for each command of the grammar
        if name in CONSTANTS:
            return Node("const", value=CONSTANTS[name])
        if name in ("Gamma", "zeta") and self.at("("):
            return Node("call", self.arguments(), name)
        if name in GREEK:
            return self.name(name)
        if name in ("integers", "naturals"):
            return self.letter_set(name[0].replace("i", "Z").upper())
        if name == "frac":
            return Node("div", (self.group(), self.group()))
        if name == "binom":
            return Node("call", (self.group(), self.group()), "binom")
        if name == "sqrt":
            return self.root()
        if name in CALLS:
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
            suffix += token.text if token.text != "{" else ""
            while token.text == "{" and not self.take("}"):
                suffix += self.next().text
        return Node("reals", value=letter + {">0": "+", "<0": "-", ">=0": "0+"}.get(suffix, suffix))

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
        for opening, closing in (("(", ")"), ("{", "}"), ("[", "]"), ("\\{", "\\}"), ("l|", "r|")):
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
            if token.text in CALLS or token.kind == "num":
                break
            left = Node("mul", (left, self.power()))
        return (left,)

    def signed_argument(self) -> Node:
        return Node("neg", (self.power(),)) if self.take("-") else self.power()

    def decorated(self, name: str) -> Node:
        """A mark over or before letters: a segment, an angle, a vector; with a digit string, part of a number."""
        inside = self.group() if self.at("{") else self.letters()
        if name == "overline" and inside.kind in ("const", "add"):
            return Node("call", (inside,), "conj")
        if name == "hat" and (inside.kind == "const" or inside.value in ("j", "k")):
            return inside  # unit vectors, as in bold face
        if name == "overline" and inside.kind == "mul" and all(item.kind == "var" for item in inside.items):
            return inside  # a segment AB
        return Node("var", value=f"{name} {inner(inside)}")

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
            half_open, self.half_open = self.half_open, opening == "["
            try:
                return handler()
            finally:
                self.bars, self.half_open = bars, half_open
        if opening.startswith("begin:"):
            return self.environment(opening[6:])
        if opening == "]":
            return self.open_interval()
        if opening == "." and self.at("overline", "dot"):
            repeated = self.repeating("0.")
            if repeated is not None:
                return repeated
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
            return interval(items, closed=(False, True))
        if not items:
            raise Unreadable("empty parentheses")
        return items[0] if len(items) == 1 else Node("tuple", items)

    def square(self) -> Node:
        closers = ("]", ")") if self.at("[") else ("]", ")", "[")  # [[1,2],[3,4]] is nested, [1,2[ is half open
        items, closer = self.inside(*closers)
        if closer in (")", "["):
            return interval(items, closed=(True, False))
        if len(items) == 2:
            return interval(items, closed=(True, True))
        return items[0] if len(items) == 1 else Node("tuple", items)

    def open_interval(self) -> Node:
        """The French way of writing: ]a, b[ excludes both ends."""
        half_open, self.half_open = self.half_open, True
        items, closer = self.inside("[", "]")
        self.half_open = half_open
        return interval(items, closed=(False, closer == "]"))

    def set(self) -> Node:
        items: list[Node] = []
        if self.take("\\}"):
            return Node("set")
        self.bars, self.colon_ends = 1, True
        content = self.statements(("\\}", "|", ":"))
        self.colon_ends = False
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
            elif (token is not None and token.kind == "sep" and name == "cases") or (
                token is not None and token.text == "hline"
            ):
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


def _counted(words: str) -> Node | None:
    """A spelled number and what it counts: "ten percent"."""
    number_part, _, unit = words.rpartition(" ")
    spelled = number_word(number_part) if number_part else None
    return None if spelled is None else Node("quantity", (number(spelled),), unit)
