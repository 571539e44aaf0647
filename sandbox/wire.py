"""Plain data between processes: values as tagged JSON, frames of a length and a body.

A value crosses as data and never as code. What the decoder builds has exactly the built-in types listed here, so no
method that a candidate wrote, ``__eq__`` among them, exists on the other side. JSON has no tuple, set or byte string,
so those are objects with one key: the tag.
"""

from __future__ import annotations

import importlib
import json
import marshal
import struct
import sys
from collections import deque
from collections.abc import Callable
from typing import Any

MAX_DEPTH = 200
HEADER = struct.Struct("!I")
_SMALL = 1 << 63

Encoder = Callable[[Any], Any]


class Unencodable(TypeError):
    """A value that is not plain data, is nested too deeply, or contains itself."""


class Malformed(ValueError):
    """Bytes that are not a frame of this protocol."""


def encode(value: Any, reference: Encoder | None = None, depth: int = 0) -> Any:
    """The JSON form of ``value``. Instances of a subclass count as the built-in type below it.

    ``reference`` turns what is not plain data into a JSON value, or raises Unencodable.
    """
    if value is None or value is True or value is False:
        return value
    if depth > MAX_DEPTH:
        raise Unencodable(f"nested more than {MAX_DEPTH} deep, or contains itself")
    for kind, encoder in _ENCODERS:
        if isinstance(value, kind):
            return encoder(value, lambda item: encode(item, reference, depth + 1))
    form = _library_value(value)
    if form is not None:
        return form
    array = _numpy_value(value)
    if array is not None:
        return encode(array[0], reference, depth + 1)
    if reference is None:
        raise Unencodable(f"{type(value).__name__} is not plain data")
    return reference(value)


def _numpy_value(value: Any) -> tuple[Any] | None:
    """A NumPy array or scalar as lists and numbers, without importing NumPy."""
    kind = type(value)
    if kind.__module__ == "numpy" and hasattr(kind, "tolist"):
        return (kind.tolist(value),)
    return None


def _integer(value: int, _: Encoder) -> Any:
    number = int.__index__(value)
    return number if -_SMALL < number < _SMALL else {"int": format(number, "x")}


def _items(tag: str) -> Callable[[Any, Encoder], Any]:
    return lambda value, inner: {tag: [inner(item) for item in value]}


_ENCODERS: tuple[tuple[Any, Callable[[Any, Encoder], Any]], ...] = (
    (str, lambda value, _: str.__str__(value)),
    (int, _integer),
    (float, lambda value, _: float.__float__(value)),
    (list, lambda value, inner: [inner(item) for item in list.__iter__(value)]),
    (tuple, _items("tuple")),
    (dict, lambda value, inner: {"dict": [[inner(key), inner(item)] for key, item in dict.items(value)]}),
    (set, _items("set")),
    (frozenset, _items("frozenset")),
    (deque, _items("deque")),
    ((bytes, bytearray), lambda value, _: {"bytes": bytes(value).hex()}),
    (complex, lambda value, _: {"complex": [value.real, value.imag]}),
    (range, lambda value, _: {"range": [value.start, value.stop, value.step]}),
)

_LIBRARY_ENCODERS: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
    ("decimal", "Decimal", str),
    ("fractions", "Fraction", lambda value: [format(value.numerator, "x"), format(value.denominator, "x")]),
    ("datetime", "datetime", lambda value: value.isoformat()),
    ("datetime", "date", lambda value: value.isoformat()),
    ("datetime", "time", lambda value: value.isoformat()),
    ("datetime", "timedelta", lambda value: [value.days, value.seconds, value.microseconds]),
)
"""Types of modules that are not loaded for their sake: the zygote is forked for every run and must stay small. A value
of such a type exists only where its module is loaded."""


def _library_value(value: Any) -> Any:
    for module, name, encoder in _LIBRARY_ENCODERS:
        if module in sys.modules and isinstance(value, getattr(sys.modules[module], name, ())):
            return {name.lower(): encoder(value)}
    return None


def _library(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


_DECODERS: dict[str, Callable[[Any], Any]] = {
    "int": lambda body: int(body, 16),
    "tuple": tuple,
    "dict": lambda body: {key: value for key, value in body},  # noqa: C416 - unequal pairs must raise
    "set": set,
    "frozenset": frozenset,
    "deque": deque,
    "bytes": bytes.fromhex,
    "complex": lambda body: complex(*body),
    "range": lambda body: range(*body),
    "decimal": lambda body: _library("decimal", "Decimal")(str(body)),
    "fraction": lambda body: _library("fractions", "Fraction")(int(body[0], 16), int(body[1], 16)),
    "datetime": lambda body: _library("datetime", "datetime").fromisoformat(body),
    "date": lambda body: _library("datetime", "date").fromisoformat(body),
    "time": lambda body: _library("datetime", "time").fromisoformat(body),
    "timedelta": lambda body: _library("datetime", "timedelta")(*body),
}
_SHALLOW = {"int", "bytes", "decimal", "datetime", "date", "time"}


def decode(form: Any, reference: Encoder | None = None) -> Any:
    """The value that ``form`` stands for. ``reference`` builds what the tag "object" stands for; without it, and for
    anything else that encode() cannot have made, raises Malformed."""
    try:
        return _decode(form, reference)
    except Malformed:
        raise
    except (TypeError, ValueError, ArithmeticError, RecursionError, AttributeError, IndexError) as error:
        raise Malformed(f"not a value: {error}") from None


def _decode(form: Any, reference: Encoder | None) -> Any:
    if isinstance(form, list):
        return [_decode(item, reference) for item in form]
    if not isinstance(form, dict):
        return form
    if len(form) != 1:
        raise Malformed("a tagged value has one key")
    [(tag, body)] = form.items()
    if tag == "object" and reference is not None:
        return reference(body)
    if tag not in _DECODERS:
        raise Malformed(f"unknown tag {tag[:40]!r}")
    return _DECODERS[tag](body if tag in _SHALLOW else _decode(body, reference))


def pack(message: Any) -> bytes:
    """A message as a frame."""
    body = _write(message).encode()
    return HEADER.pack(len(body)) + body


_write = json.JSONEncoder(separators=(",", ":")).encode


def pack_job(job: Any) -> bytes:
    """A run's job as a frame. ``marshal`` is the quickest to read and safe in this direction alone: from us to a
    process that trusts us. What a run says is never read with it."""
    body = marshal.dumps(job)
    return HEADER.pack(len(body)) + body


def unpack_job(body: bytes) -> Any:
    """The job in a frame's body; for a run, before it has read anything of the candidate's."""
    return marshal.loads(body)  # noqa: S302 - see pack_job


def unpack(body: bytes) -> Any:
    """The message in a frame's body. Raises Malformed."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"not JSON: {error}") from None


class TooLarge(Malformed):
    """A frame over the size limit."""


class FrameReader:
    """Cuts a byte stream into messages; feed() it what arrives."""

    def __init__(self, limit_bytes: int = 1 << 30) -> None:
        self._buffer = bytearray()
        self._limit_bytes = limit_bytes

    def feed(self, data: bytes) -> list[Any]:
        """The messages that ``data`` completes. Raises Malformed."""
        self._buffer += data
        messages = []
        while len(self._buffer) >= HEADER.size:
            (length,) = HEADER.unpack_from(self._buffer)
            if length > self._limit_bytes:
                raise TooLarge(f"a frame of {length} bytes, where {self._limit_bytes} are allowed")
            end = HEADER.size + length
            if len(self._buffer) < end:
                break
            messages.append(unpack(bytes(self._buffer[HEADER.size : end])))
            del self._buffer[:end]
        return messages
