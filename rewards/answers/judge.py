"""The worker's side of the math reward: two texts in, a verdict out.

    text -> lead-ins off -> grammar -> tree -> compare
                              | what the grammar does not read, but sympy may (integrals, limits, derivatives):
                              '-> symbolic, which is Math-Verify and sympy

Text is compared as text last, so that two answers that nobody can read are equal only where they are the same.
"""

from __future__ import annotations

import re
from functools import lru_cache

from rewards.answers import compare
from rewards.answers.boxes import squeeze
from rewards.answers.grammar import parse
from rewards.answers.tokens import tokenize
from rewards.answers.tree import Node, Symbolic, Unreadable, number
from rewards.answers.words import number_word, without_lead_in

_GROUPS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_LIST_LIKE = re.compile(r"(?<![\d.,])\d{1,3}(?:,[1-9]\d{2}){2,}(?![\d,])|[(\[{].*\d,\d", re.DOTALL)
_CALCULUS = re.compile(
    r"\\(?:int|iint|oint|lim)(?![a-z])|\\d?frac\s*\{\s*d\s*\}\s*\{\s*d|\\(?:sum|prod)_.{1,40}\\infty"
)
_EMPHASIS = re.compile(r"\A\s*(?:\*\*|__)(.*)(?:\*\*|__)\s*\.?\Z", re.DOTALL)
_EXCEPT = re.compile(
    r"\A\s*(?:\\text\{)?\s*all real numbers?,? (?:except|but|other than)\s*(?:for\s*)?\}?\s*(.{1,40})\Z", re.I
)
_MAPPING = re.compile(r"\A\s*[a-zA-Z]\s*:\s*[a-zA-Z]\s*(?:\\mapsto|↦|\\to)\s*")
_LETTERS = re.compile(r"[a-zA-Z][a-zA-Z\s-]{2,199}")
_CHOICE = re.compile(r"\W*(?:(?:option|choice|answer)\b\W*)?([A-Ja-j])(?:\W*|\s*[).:\]}]+\s*\S.*)", re.DOTALL | re.I)
_GOLD_CHOICE = re.compile(r"\W*([A-J])\W*")
_MARKUP = re.compile(r"\\(?:text|textbf|mathrm|mathbf|textit|bf|rm|mbox|quad|left|right)\b|[${}~]|\\[,;:! ]")


def judge(gold: str, answer: str) -> bool:  # noqa: PLR0911  one return for each way to a verdict
    """Whether the answer says the same as the gold answer. Raises for what cannot be told."""
    chosen = _same_choice(gold, answer)
    if chosen is not None:
        return chosen
    try:
        return any(compare.same(left, right) for left in readings(gold) for right in readings(answer))
    except Symbolic:
        return _work_out(gold, answer)
    except Unreadable:
        pass
    except RecursionError:
        return False  # no answer is nested so deeply
    if _same_tokens(gold, answer):
        return True
    if _CALCULUS.search(gold) or _CALCULUS.search(answer):
        return _work_out(gold, answer)
    return False


def _work_out(gold: str, answer: str) -> bool:
    from rewards.answers import symbolic

    return symbolic.judge(gold, answer)


@lru_cache(maxsize=512)
def readings(text: str) -> tuple[Node, ...]:
    """The trees that a text may mean: two where ``(100,200)`` may hold thousands. Raises Unreadable."""
    text = without_lead_in(_EMPHASIS.sub(r"\1", text).strip().strip('`"“”'))
    text = _EXCEPT.sub(r"\\mathbb{R}\\setminus\\{\1\\}", _MAPPING.sub("", text))
    spelled = number_word(text) if _LETTERS.fullmatch(text) else None
    if spelled is not None:
        return (number(spelled),)
    if _CALCULUS.search(text):
        raise Unreadable("calculus")
    if _GROUPS.search(text) and _LIST_LIKE.search(text):
        return parse(text, commas_group=False), parse(text)
    return (parse(text),)


def _same_choice(gold: str, answer: str) -> bool | None:
    """Multiple choice: the gold answer is one letter, and the answer is that letter, with or without its text."""
    wanted = _GOLD_CHOICE.fullmatch(_MARKUP.sub(" ", gold))
    if wanted is None:
        return None
    given = _CHOICE.fullmatch(_MARKUP.sub(" ", without_lead_in(answer)))
    if given is None:
        return None
    return given[1].upper() == wanted[1]


def _same_tokens(gold: str, answer: str) -> bool:
    try:
        left, right = tokenize(without_lead_in(gold)), tokenize(without_lead_in(answer))
    except Unreadable:
        return squeeze(gold) == squeeze(answer)
    return [token.text for token in left] == [token.text for token in right]


def warm_up() -> None:
    """Imports what a fallback needs and fills the parser's tables, once, before workers are forked."""
    from rewards.answers import symbolic

    symbolic.warm_up()
    judge(r"\frac{\sqrt{3}}{2}x+1", r"1+x\sqrt{3}/2")
