r"""From LaTeX or plain text to tokens.

Everything that only changes how an answer looks goes here: ``\left``, spacing, fonts, ``\dfrac``, Unicode spellings.
What remains is one short list of kinds: ``num``, ``var``, ``cmd`` (a command or function), ``text`` (words), ``sep``
(a comma, "and", "or", a line break), ``rel`` and ``sym``. A token knows whether white space stood before it, because
``2 1/2`` is not ``21/2``. Linear in the text.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, replace

from rewards.answers.boxes import closing_brace
from rewards.answers.spellings import (
    COMMANDS,
    DROPPED,
    ENVIRONMENT,
    FONTS,
    MATRICES,
    RELATIONS,
    SPACES,
    SUB_RUN,
    SUBSCRIPTS,
    SUPER_RUN,
    SUPERSCRIPTS,
    TEXTS,
    UNICODE,
)
from rewards.answers.tree import Unreadable
from rewards.answers.units import is_unit
from rewards.answers.words import ALIASES, CONSTANTS, FUNCTIONS, GREEK, SCALES

MAX_TEXT = 4000
MAX_TOKENS = 1500


@dataclass(frozen=True, slots=True)
class Token:
    """One token; ``spaced`` says that white space stood before it."""

    kind: str
    text: str
    spaced: bool = False


_UNIT_LETTERS = frozenset("mshglLNJWVKCF")

_TOKEN = re.compile(
    r"(?P<space>[\s~]+)|(?P<number>(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d{1,9}(?![\w.]))?)|\\(?P<command>[a-zA-Z]+|.)|"
    r"(?P<letters>[^\W\d_]+)|(?P<dots>\.{2,})|(?P<relation>:=|<=|>=|=<|=>|==|!=|<>|[=<>])|(?P<symbol>\*\*|.)",
    re.DOTALL,
)
_GROUPED = re.compile(
    r"(?<![\d.,])\d{1,3}(?:(?:\{,\}|\\!,\\!|,\\!|\\,|,\s?\\!|\\ |')\d{3})+(?!\d)"
    r"|(?<![\d.,/)}\]^_])\d{1,3}(?: \d{3})+(?![\d/]| \d)"
)
_COMMAS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_DEGREE_ROOT = re.compile("([²³⁴⁵⁶⁷⁸⁹])√")
_OVERLINED = re.compile("(?:[0-9][\u0304\u0305])+")
_FUNCTION_WORDS = frozenset(
    {"cis", "lcm", "gcd", "sin", "cos", "tan", "log", "ln", "arcsin", "arccos", "arctan", "exp"}
)
_CLOCK = re.compile(r"\b([ap])\.\s?m\b\.?", re.I)
_RATE = re.compile(r"(?<=[\d}])\s*((?:km|m|cm|mi|ft|g|kg|L)/(?:s|h|hr|min|sec|mL|L|m)(?:\^\{?\d\}?)?)(?![a-zA-Z])")
_TIMES_TEN = re.compile(r"(?<=\d)\s*[xX]\s*(?=10\s*\^)")
_ARRANGEMENTS = re.compile(r"(?:\{\})?[_^]\{?(\w{1,3})\}?\s*([PC])_\{?(\w{1,3})\}?")
_LABELLED_UNIT = re.compile(r"(?<=[\d}])\s*\\text\{\s*\(([a-z ]{1,30})\)\s*\}")
_LINE_SKIP = re.compile(r"\s*\[\s*-?[\d.]{1,6}\s*(?:pt|em|ex|mm|cm)\s*\]")
_VOWEL = re.compile("[aeiou]")
_ORDINAL = re.compile(r"(\d)(?:st|nd|rd|th)\b")
_CURRENCY_FIRST = re.compile(r"\b(?:US(?=\s*\\\$))?(USD|EUR|GBP|JPY|INR)\s*(\d[\d.,]*)")
_ANGLES = re.compile(r"\A([^<>]*=)?\s*<([^<>=]*,[^<>=]*)>\s*\Z")
_NOT_DIGITS = re.compile(r"\D+")
_PAIRED_DOLLARS = re.compile(r"(?<!\\)\$")


def tokenize(text: str, *, commas_group: bool = True) -> list[Token]:
    """The tokens of an answer; ``commas_group`` reads ``1,234`` as one number. Raises Unreadable."""
    if len(text) > MAX_TEXT:
        raise Unreadable(f"{len(text)} characters")
    text = _CLOCK.sub(r"\1m", to_latex(text))
    text = _ARRANGEMENTS.sub(r"\2(\1,\3)", _LABELLED_UNIT.sub(r"\\text{ \1}", text))
    text = _ORDINAL.sub(r"\1", _TIMES_TEN.sub(r"\\times ", _RATE.sub(r"\\text{ \1}", text)))
    text = _CURRENCY_FIRST.sub(r"\2\\text{ \1}", _ANGLES.sub(r"\1\\langle \2\\rangle", text))
    text = _GROUPED.sub(lambda match: _NOT_DIGITS.sub("", match.group()), text)
    if commas_group:
        text = _COMMAS.sub(lambda match: match.group().replace(",", ""), text)
    tokens = _scan(text, words=False, depth=0)
    if len(tokens) > MAX_TOKENS:
        raise Unreadable(f"{len(tokens)} tokens")
    return tokens


def to_latex(text: str) -> str:
    """The text with Unicode spellings replaced by LaTeX, and dollar signs by what they mean."""
    if not text.isascii():
        text = _DEGREE_ROOT.sub(lambda match: f"\\sqrt[{SUPERSCRIPTS[match[1]]}]", text)
        text = _OVERLINED.sub(lambda match: "\\overline{" + match[0][::2] + "}", text)
        text = SUPER_RUN.sub(lambda run: "^{" + "".join(SUPERSCRIPTS[mark] for mark in run.group()) + "}", text)
        text = SUB_RUN.sub(lambda run: "_{" + "".join(SUBSCRIPTS[mark] for mark in run.group()) + "}", text)
        text = "".join(map(_to_latex, text))
    dollars = len(_PAIRED_DOLLARS.findall(text))
    if dollars % 2 == 0:
        return _PAIRED_DOLLARS.sub(" ", text)
    return _PAIRED_DOLLARS.sub(lambda _: r"\$", text) if dollars == 1 else text


def _to_latex(character: str) -> str:
    if character.isascii():
        return character
    known = UNICODE.get(character)
    if known is not None:
        return known
    if unicodedata.category(character) == "Nd":
        return str(unicodedata.decimal(character))
    if unicodedata.category(character) == "No":
        folded = unicodedata.normalize("NFKC", character)
        top, slash, bottom = folded.partition("⁄")
        return f"\\frac{{{top}}}{{{bottom}}}" if slash and top and bottom else folded
    return unicodedata.normalize("NFKC", character)


class _Scanner:
    """One pass over a text; ``words`` is true inside ``\\text{}``, where letters are words."""

    def __init__(self, text: str, words: bool, depth: int) -> None:
        self.text = text
        self.words = words
        self.depth = depth
        self.tokens: list[Token] = []
        self.spaced = False
        self.rest = ""

    def run(self) -> list[Token]:
        position = 0
        while position < len(self.text):
            match = _TOKEN.match(self.text, position)
            if match is None:
                break
            position = match.end()
            self.rest = self.text[position : position + 8]
            kind = match.lastgroup or ""
            if kind == "command":
                position = self.command(match["command"], position)
            else:
                getattr(self, kind)(match[kind])
            if len(self.tokens) > MAX_TOKENS:
                raise Unreadable("too many tokens")
        return self.tokens

    def add(self, kind: str, text: str) -> None:
        last = self.tokens[-1] if self.tokens else None
        if kind == "text" and last is not None and last.kind == "text":
            self.tokens[-1] = replace(last, text=f"{last.text} {text}" if self.spaced else last.text + text)
        else:
            self.tokens.append(Token(kind, text, self.spaced))
        self.spaced = False

    def space(self, _: str) -> None:
        self.spaced = True

    def number(self, digits: str) -> None:
        self.add("num", digits)

    def dots(self, _: str) -> None:
        self.add("sym", "ldots")

    def relation(self, sign: str) -> None:
        self.add("rel", {":=": "=", "=<": "<=", "=>": ">=", "<>": "!=", "==": "="}.get(sign, sign))

    def symbol(self, mark: str) -> None:
        if mark in ",;":
            self.add("sep", ",")
        elif mark == "." and self.words and self._after_words():
            self.spaced = True
        elif mark == "\\":
            self.spaced = True  # the rest of a control space at the end
        elif mark == "**":
            self.add("sym", "^")
        else:
            self.add("sym", mark)

    def letters(self, run: str) -> None:
        if run.lower() in ("and", "or"):
            self.add("sep", run.lower())
        elif run == "to" and self._after_number() and not self.words:
            self.add("sym", ":")
        elif len(run) == 1 and not (self._after_words() and (self.words or self.spaced)):
            self.add("text" if self.words and run in _UNIT_LETTERS else "var", run)
        elif self.words and run in _FUNCTION_WORDS:
            self.add("cmd", run)
        elif self.words:
            self.add("text", run)
        else:
            self._bare_word(run)

    def _after_words(self) -> bool:
        return bool(self.tokens) and self.tokens[-1].kind == "text"

    def _bare_word(self, run: str) -> None:
        lower = run.lower()
        if run in ("min", "sec", "deg") and self._after_number() and not self.rest.strip(" .$}"):
            self.add("text", run)
        elif run in FUNCTIONS or run in ALIASES or (lower in FUNCTIONS and len(run) > 2):
            self.add("cmd", ALIASES.get(lower, run if run in FUNCTIONS else lower))
        elif run in GREEK or (lower in CONSTANTS and lower != "inf"):
            self.add("cmd", run if run in GREEK else lower)
        elif (
            self._after_words()
            or lower in SCALES
            or (self._after_number() and (is_unit(run) or self._counts(run)))
            or self._is_word(run)
        ):
            self.add("text", run)
        else:
            head = next(
                (name for name in ("sqrt", "sin", "cos", "tan", "log", "ln", "exp") if run.startswith(name)), ""
            )
            if head:
                self.add("cmd", head)
            for letter in run[len(head) :]:
                self.add("var", letter)

    def _after_number(self) -> bool:
        return bool(self.tokens) and (self.tokens[-1].kind == "num" or self.tokens[-1].text in (")", "}", "pi"))

    def _counts(self, run: str) -> bool:
        """A short word after a number and a blank: 12 men."""
        return (
            self.spaced
            and len(run) == 3
            and run.islower()
            and bool(_VOWEL.search(run))
            and self.tokens[-1].kind == "num"
        )

    def _is_word(self, run: str) -> bool:
        if any(
            run.startswith(name) and len(run) <= len(name) + 2 for name in ("sin", "cos", "tan", "log", "sqrt", "exp")
        ):
            return False
        return len(run) >= 4 or run.lower() in {
            "yes",
            "no",
            "odd",
            "all",
            "one",
            "two",
            "six",
            "ten",
            "the",
            "is",
            "of",
            "dne",
        }

    def command(self, name: str, position: int) -> int:  # noqa: PLR0911  one return for each way a command moves on
        if name in SPACES:
            self.spaced = True
            return position
        if name in ("begin", "end"):
            return self._environment(name, position)
        if name in TEXTS:
            return self._text(position)
        if name in ("left", "right") and self.text[position : position + 1] in ("|", ".", "<", ">"):
            self._delimiter(name, self.text[position])
            return position + 1
        if name in DROPPED or name in FONTS:
            return position
        if name in ("lvert", "rvert"):
            self.add("sym", "l|" if name[0] == "l" else "r|")
        elif name == "operatorname":
            return self._operator(position)
        elif name in ("phantom", "hspace", "vspace", "color", "label", "tag", "textcolor"):
            return self._argument(position)[1]
        elif name in ("\\", "cr"):
            self.add("sep", "\\\\")
            skip = _LINE_SKIP.match(self.text, position)
            return skip.end() if skip else position
        else:
            self._plain(name)
        return position

    def _plain(self, name: str) -> None:
        name = COMMANDS.get(name, ALIASES.get(name, name))
        if name in RELATIONS:
            self.add("rel", RELATIONS[name])
        elif name in ("and", "or"):
            self.add("sep", name)
        elif name in ("i", "e"):
            self.add("var", name)
        elif name in ("*", "/", "(", ")", "[", "]", "|", "%", "#", "&", "\\{", "\\}", "ldots"):
            self.add("sym", name)
        else:
            self.add("cmd", name)

    def _delimiter(self, side: str, mark: str) -> None:
        if mark == "|":
            self.add("sym", "l|" if side == "left" else "r|")
        elif mark in "<>":
            self.add("cmd", "langle" if side == "left" else "rangle")

    def _argument(self, position: int) -> tuple[str, int]:
        while self.text[position : position + 1].isspace():
            position += 1
        if self.text[position : position + 1] != "{":
            return self.text[position : position + 1], position + 1
        end = closing_brace(self.text, position)
        if end < 0:
            raise Unreadable("a brace is never closed")
        return self.text[position + 1 : end], end + 1

    def _operator(self, position: int) -> int:
        content, position = self._argument(position + (self.text[position : position + 1] == "*"))
        self._plain(content.replace(r"\,", "").strip())
        return position

    def _text(self, position: int) -> int:
        content, end = self._argument(position)
        self.spaced = self.spaced or content[:1].isspace()
        for token in _scan(content, words=True, depth=self.depth + 1):
            self.spaced = self.spaced or token.spaced
            self.add(token.kind, token.text)
        self.spaced = content[-1:].isspace()
        return end

    def _environment(self, name: str, position: int) -> int:
        match = ENVIRONMENT.match(self.text, position)
        if match is None:
            raise Unreadable(f"\\{name} without a name")
        if match[1] in MATRICES:
            self.add("sym", f"{name}:{match[1]}")
            return match.end()
        if match[1] in ("cases", "dcases", "rcases"):
            self.add("sym", f"{name}:cases")
        return match.end()


def _scan(text: str, words: bool, depth: int) -> list[Token]:
    if depth > 20:
        raise Unreadable("text nested too deeply")
    return _Scanner(text, words, depth).run()
