"""Byte-level BPE, as DeepSeek-V3's tokenizer is, over the `tokenizers` library. Every digit is a token of its own, so
that arithmetic sees place values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import tokenizers
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

from model.config import ConfigError

BEGIN, END = "<|begin|>", "<|end|>"


class Tokenizer:
    """Text to token ids and back. ``bos`` and ``eos`` are the ids of the first and the last token of a document."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        # A literal "<|end|>" in a problem's text must stay text and not end the document.
        self.backend.encode_special_tokens = True
        bos, eos = backend.token_to_id(BEGIN), backend.token_to_id(END)
        if bos is None or eos is None:
            raise ConfigError(f"the tokenizer lacks the special tokens {BEGIN} and {END}")
        self.bos, self.eos = bos, eos

    def __len__(self) -> int:
        return int(self.backend.get_vocab_size())

    def encode(self, text: str) -> list[int]:
        return list(self.backend.encode(text, add_special_tokens=False).ids)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [list(e.ids) for e in self.backend.encode_batch(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ``ids``, special tokens left out; bytes that are not UTF-8 become U+FFFD."""
        return str(self.backend.decode(list(ids), skip_special_tokens=True))

    def save(self, folder: Path) -> None:
        self.backend.save(str(folder / "tokenizer.json"))


def train(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BEGIN, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return Tokenizer(backend)


def load(folder: Path) -> Tokenizer:
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ConfigError(f"{folder}: not a checkpoint, there is no tokenizer.json in it")
    return Tokenizer(tokenizers.Tokenizer.from_file(str(path)))
