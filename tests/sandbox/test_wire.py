"""Plain data across processes: exact built-in types on the other side, and nothing else."""

from __future__ import annotations

import json
from collections import Counter, deque
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import IntEnum
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox import wire

VALUES = [
    None,
    True,
    0,
    -(2**63) - 1,
    7**30000,
    1.5,
    float("inf"),
    "",
    "é\ud800",
    [1, [2]],
    (1, (2,), []),
    {"a": 1, 2: (3,), (4, 5): None},
    {1, 2},
    frozenset({(1,)}),
    deque([1]),
    b"\0\xff",
    1 + 2j,
    range(1, 9, 2),
    Decimal("1.10"),
    Fraction(1, 3),
    datetime(2024, 1, 2, 3, 4, 5),
    date(2024, 1, 2),
    time(1, 2),
    timedelta(1, 2, 3),
    {"tuple": [1]},
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_values_come_back_as_they_were(value: Any) -> None:
    back = wire.decode(wire.unpack(json.dumps(wire.encode(value)).encode()))
    assert back == value
    assert type(back) is type(value)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=20,
)


@settings(max_examples=150)
@given(PLAIN)
def test_any_plain_value_comes_back(value: Any) -> None:
    assert wire.decode(json.loads(json.dumps(wire.encode(value)))) == value


JSON = st.recursive(
    st.none() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from([*wire._DECODERS, "object", "x"]), inner, max_size=2)
    ),
    max_leaves=20,
)


@settings(max_examples=300)
@given(JSON)
def test_decoding_anything_gives_builtin_types_or_malformed(form: Any) -> None:
    try:
        value = wire.decode(form)
    except wire.Malformed:
        return
    assert type(value).__module__ in ("builtins", "collections", "datetime", "decimal", "fractions")


class Always(int):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__


class Color(IntEnum):
    RED = 1


@pytest.mark.parametrize("value", [Always(3), [Always(3)], {"a": Always(3)}, Color.RED, Counter("aab")])
def test_subclasses_become_the_type_below(value: Any) -> None:
    back = wire.decode(wire.encode(value))
    assert "Always" not in str([type(item) for item in (back if isinstance(back, list) else [back])])
    assert back != [4]
    assert back != {"a": 4}
    assert type(back) in (int, list, dict)


def test_numpy_arrives_as_lists_and_numbers() -> None:
    numpy = pytest.importorskip("numpy")
    assert wire.decode(wire.encode([numpy.arange(3), numpy.float64(0.5), numpy.bool_(True)])) == [[0, 1, 2], 0.5, True]


def test_what_is_not_plain_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    for value in (object(), loop, lambda: 0, int, (x for x in ())):
        with pytest.raises(wire.Unencodable):
            wire.encode(value)


def test_frames_are_cut_wherever_the_stream_is() -> None:
    messages = [{"a": 1}, [], "x" * 1000]
    stream = b"".join(map(wire.pack, messages))
    for size in (1, 3, 7, 5000):
        reader, found = wire.FrameReader(), []
        for start in range(0, len(stream), size):
            found += reader.feed(stream[start : start + size])
        assert found == messages


@pytest.mark.parametrize(
    "data", [b"\xff\xff\xff\xff", wire.HEADER.pack(4) + b"{{{{", wire.HEADER.pack(2) + b"\xff\xff"]
)
def test_bad_frames_are_malformed(data: bytes) -> None:
    with pytest.raises(wire.Malformed):
        wire.FrameReader(1000).feed(data)
