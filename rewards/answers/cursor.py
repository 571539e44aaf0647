"""A position in a list of tokens: what every part of the grammar looks and moves with."""

from __future__ import annotations

from rewards.answers.tokens import Token
from rewards.answers.tree import Unreadable

MAX_DEPTH = 300  # of the grammar's levels, of which a bracket takes five


class Cursor:
    """The tokens, the next one's index, the depth of the recursion, how many ``|`` are open, and whether a colon ends
    what is read (the element of a set-builder), and whether ``[`` may close an interval."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.position = 0
        self.depth = 0
        self.bars = 0
        self.colon_ends = False
        self.half_open = False

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
