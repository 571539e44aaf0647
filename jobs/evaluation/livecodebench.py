"""A row of LiveCodeBench's format as tests of ours.

``public_test_cases`` and ``private_test_cases`` are JSON lists of {"input", "output", "testtype"}; private ones may be
packed (base64 of zlib of a pickled JSON text). ``testtype`` is "stdin", or "functional" with one JSON argument a line.
"""

from __future__ import annotations

import base64
import io
import json
import pickle
import zlib
from collections.abc import Mapping
from typing import Any


class _TextOnly(pickle.Unpickler):
    """Reads pickled plain values; a pickle that names any class or function is refused before anything runs."""

    def find_class(self, module: str, name: str) -> Any:
        raise ValueError(f"a packed test case names {module}.{name}; only packed text is read")


def tests(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The row's tests, public and private. Raises ValueError for what is no test case."""
    cases = [*_cases(row.get("public_test_cases", "[]")), *_cases(row.get("private_test_cases", "[]"))]
    name = _metadata(row).get("func_name")
    return [_test(case, name) for case in cases]


def _metadata(row: Mapping[str, Any]) -> Mapping[str, Any]:
    found = row.get("metadata") or {}
    read: Mapping[str, Any] = json.loads(found) if isinstance(found, str) else found
    return read


def _cases(packed: Any) -> list[Mapping[str, Any]]:
    if isinstance(packed, str):
        try:
            packed = json.loads(packed)
        except ValueError:
            text = _TextOnly(io.BytesIO(zlib.decompress(base64.b64decode(packed)))).load()
            packed = json.loads(text)
    if not isinstance(packed, list):
        raise ValueError("test cases are a list")  # noqa: TRY004
    return packed


def _test(case: Mapping[str, Any], function: str | None) -> dict[str, Any]:
    if case.get("testtype", "stdin") == "stdin":
        return {"stdin": case["input"], "stdout": case["output"]}
    if not function:
        raise ValueError("a functional test case without metadata.func_name")
    arguments = [json.loads(line) for line in str(case["input"]).split("\n") if line.strip()]
    return {"function": function, "args": arguments, "expected": json.loads(case["output"])}
