"""OpenAI's shapes of an answer, whole and as a stream."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jobs.serving.text import UNFINISHED
from model.tokenizer import Tokenizer


@dataclass(frozen=True)
class Scored:
    """A token with its log-probability (None for the first of a prompt) and the likeliest tokens in its place."""

    token: int
    logprob: float | None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Piece:
    """What choice ``index`` has more of: text, its tokens where they were asked for, and how it ended, at its end."""

    index: int
    text: str
    tokens: tuple[Scored, ...] | None = None
    finish_reason: str | None = None


def joined(pieces: Sequence[Piece]) -> Piece:
    """All pieces of one choice as one."""
    scored = [piece.tokens for piece in pieces if piece.tokens is not None]
    tokens = tuple(itertools.chain.from_iterable(scored)) if scored else None
    return Piece(pieces[0].index, "".join(piece.text for piece in pieces), tokens, pieces[-1].finish_reason)


@dataclass(frozen=True)
class Usage:
    prompt: int
    completion: int

    def shape(self) -> dict[str, int]:
        total = self.prompt + self.completion
        return {"prompt_tokens": self.prompt, "completion_tokens": self.completion, "total_tokens": total}


class Shape:
    """How the answers to one request look; ``kind`` is OpenAI's name of the object."""

    kind: str
    chunk_kind: str

    def __init__(self, identity: str, model: str, tokenizer: Tokenizer) -> None:
        self.identity, self.model, self.tokenizer = identity, model, tokenizer
        self.created = int(time.time())

    def whole(self, choices: Sequence[Piece], usage: Usage) -> dict[str, Any]:
        shaped = [self.choice(choice) for choice in choices]
        return {**self._head(self.kind), "choices": shaped, "usage": usage.shape()}

    def chunk(self, piece: Piece) -> dict[str, Any]:
        return {**self._head(self.chunk_kind), "choices": [self.delta(piece)]}

    def last_chunk(self, usage: Usage) -> dict[str, Any]:
        return {**self._head(self.chunk_kind), "choices": [], "usage": usage.shape()}

    def choice(self, piece: Piece) -> dict[str, Any]:
        raise NotImplementedError

    def delta(self, piece: Piece) -> dict[str, Any]:
        raise NotImplementedError

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.identity, "object": kind, "created": self.created, "model": self.model}

    def text_of(self, token: int) -> str:
        """A token's own text; that of a special one, and of one that is part of a character, is its name."""
        text = self.tokenizer.decode([token])
        return text if text and UNFINISHED not in text else self.tokenizer.name(token)


class CompletionShape(Shape):
    kind = chunk_kind = "text_completion"

    def choice(self, piece: Piece) -> dict[str, Any]:
        shaped = None if piece.tokens is None else self._logprobs(piece.tokens)
        return {"index": piece.index, "text": piece.text, "logprobs": shaped, "finish_reason": piece.finish_reason}

    delta = choice

    def _logprobs(self, tokens: Sequence[Scored]) -> dict[str, Any]:
        texts = [self.text_of(scored.token) for scored in tokens]
        return {
            "tokens": texts,
            "token_logprobs": [scored.logprob for scored in tokens],
            "top_logprobs": [
                None if scored.logprob is None else {self.text_of(token): logp for token, logp in scored.top}
                for scored in tokens
            ],
            "text_offset": [0, *itertools.accumulate(map(len, texts))][: len(texts)],
        }


class ChatShape(Shape):
    kind, chunk_kind = "chat.completion", "chat.completion.chunk"

    def choice(self, piece: Piece) -> dict[str, Any]:
        return self._choice(piece, "message")

    def delta(self, piece: Piece) -> dict[str, Any]:
        return self._choice(piece, "delta")

    def _choice(self, piece: Piece, key: str) -> dict[str, Any]:
        return {
            "index": piece.index,
            key: {"role": "assistant", "content": piece.text},
            "logprobs": None if piece.tokens is None else {"content": [*map(self._token, piece.tokens)]},
            "finish_reason": piece.finish_reason,
        }

    def _token(self, scored: Scored) -> dict[str, Any]:
        top = [self._logprob(token, logp) for token, logp in scored.top]
        return {**self._logprob(scored.token, scored.logprob), "top_logprobs": top}

    def _logprob(self, token: int, logprob: float | None) -> dict[str, Any]:
        text = self.text_of(token)
        whole = text == self.tokenizer.decode([token])
        return {"token": text, "logprob": logprob, "bytes": list(text.encode()) if whole else None}


def error(message: str, kind: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
