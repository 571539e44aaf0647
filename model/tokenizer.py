"""Byte-level BPE, as DeepSeek-V3's tokenizer is, over the `tokenizers` library. Every digit is a token of its own, so
that arithmetic sees place values."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

from model.config import ConfigError

BEGIN, END = "<|begin|>", "<|end|>"
CHAT_TEMPLATE = "chat_template.jinja"
CONFIG = "tokenizer_config.json"


class Tokenizer:
    """Text to token ids and back. ``bos`` and ``eos`` are the ids of the first and the last token of a document (the
    same, where a model has no first one). ``chat_template`` is Jinja, as Hugging Face's checkpoints have it."""

    def __init__(self, backend: Backend, begin: str = BEGIN, end: str = END, chat_template: str | None = None) -> None:
        self.backend = backend
        # A literal "<|end|>" in a problem's text must stay text and not end the document.
        self.backend.encode_special_tokens = True
        bos, eos = backend.token_to_id(begin), backend.token_to_id(end)
        if bos is None or eos is None:
            raise ConfigError(f"the tokenizer lacks the special tokens {begin} and {end}")
        self.bos, self.eos, self.chat_template = bos, eos, chat_template

    def __len__(self) -> int:
        return int(self.backend.get_vocab_size())

    def encode(self, text: str) -> list[int]:
        return list(self.backend.encode(text, add_special_tokens=False).ids)

    def encode_special(self, text: str) -> list[int]:
        """The ids of a rendered template, in which a special token's name stands for the token."""
        self.backend.encode_special_tokens = False
        try:
            return self.encode(text)
        finally:
            self.backend.encode_special_tokens = True

    def name(self, token: int) -> str:
        return str(self.backend.id_to_token(token))

    def special_names(self) -> list[str]:
        """The names of the special tokens, longer ones first."""
        added = self.backend.get_added_tokens_decoder().values()
        return sorted((token.content for token in added if token.special), key=lambda name: (-len(name), name))

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [list(e.ids) for e in self.backend.encode_batch(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ``ids``, special tokens left out; bytes that are not UTF-8 become U+FFFD."""
        return str(self.backend.decode(list(ids), skip_special_tokens=True))

    def save(self, folder: Path) -> None:
        """Writes what transformers' AutoTokenizer loads."""
        self.backend.save(str(folder / "tokenizer.json"))
        values = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": self.name(self.bos) if self.bos != self.eos else None,
            "eos_token": self.name(self.eos),
            "pad_token": self.name(self.eos),
            "clean_up_tokenization_spaces": False,
        }
        (folder / CONFIG).write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        if self.chat_template is not None:
            (folder / CHAT_TEMPLATE).write_text(self.chat_template, encoding="utf-8")


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
    """A checkpoint's tokenizer: ours, or one that Hugging Face's tokenizer_config.json describes."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ConfigError(f"{folder}: not a checkpoint, there is no tokenizer.json in it")
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001 - the library raises bare Exceptions
        raise ConfigError(f"{path}: not a tokenizer ({error})") from None
    described = _described(folder / CONFIG)
    end = _content(described.get("eos_token")) or END
    begin = _content(described.get("bos_token")) or (end if described else BEGIN)
    return Tokenizer(backend, begin, end, _chat_template(folder, described))


def _described(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path}: not a tokenizer's configuration ({error})") from None


def _content(token: Any) -> str | None:
    """A token as tokenizer_config.json names it: by text, or by an object with its text and properties."""
    return token.get("content") if isinstance(token, dict) else token


def _chat_template(folder: Path, described: dict[str, Any]) -> str | None:
    path = folder / CHAT_TEMPLATE
    if path.is_file():
        return path.read_text(encoding="utf-8")
    given = described.get("chat_template")
    if isinstance(given, list):  # several by name: the one for plain conversations
        given = next((each["template"] for each in given if each.get("name") == "default"), None)
    return given
