from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from model import tokenizer
from tests.fakes import tiny_tokenizer

TOKENIZER = tiny_tokenizer()


@given(st.text())
def test_every_text_survives(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@given(st.lists(st.integers(0, 319)))
def test_every_list_of_ids_decodes(ids: list[int]) -> None:
    assert isinstance(TOKENIZER.decode(ids), str)


def test_each_digit_is_a_token() -> None:
    assert len(TOKENIZER.encode("31415")) == 5


def test_a_literal_end_token_in_a_text_is_text() -> None:
    ids = TOKENIZER.encode("a<|end|>b")
    assert TOKENIZER.eos not in ids
    assert TOKENIZER.decode(ids) == "a<|end|>b"


def test_saved_and_loaded_it_encodes_the_same(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path)
    loaded = tokenizer.load(tmp_path)
    assert loaded.encode("What is <|end|> 1+2?") == TOKENIZER.encode("What is <|end|> 1+2?")
    assert (loaded.bos, loaded.eos) == (TOKENIZER.bos, TOKENIZER.eos)
