"""Files of one JSON object a line, as data comes in and goes out."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

_SURROGATE = re.compile("[\ud800-\udfff]")
"""In text that was read from JSON it is half of a pair, which no tokenizer takes and UTF-8 does not know."""


class DataError(ValueError):
    """A file that cannot be used; the message names the file, the line and the remedy."""

    exit_status = 2


def lines(path: Path, what: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a JSONL file (packed where it ends in .gz), each with its place (file:line); blank lines are
    skipped, and so is a byte order mark. ``what`` names the objects in errors. Raises DataError, for a file without any
    as well."""
    opened = gzip.open if path.suffix == ".gz" else open
    found = False
    try:
        with opened(path, "rt", encoding="utf-8-sig", newline="\n") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    found = True
                    yield f"{path}:{number}", _object(line, f"{path}:{number}", what)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file of {what}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error})") from None
    except (OSError, EOFError) as error:
        raise DataError(f"{path}: damaged, or not readable ({error})") from None
    if not found:
        raise DataError(f"{path}: there are no {what} in the file")


def _object(line: str, place: str, what: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: not JSON ({error}); {what} are one JSON object a line") from None
    if not isinstance(value, dict):
        raise DataError(f"{place}: a JSON object is wanted, not {type(value).__name__}")
    if "\\u" in line and (half := _SURROGATE.search(json.dumps(value, ensure_ascii=False))):
        raise DataError(f"{place}: half a character ({half[0]!r}): a text was cut in the middle of one; take it out")
    return value


def write(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    """A JSONL file, under its name once it is whole."""
    draft = path.with_suffix(".tmp")
    with draft.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    draft.replace(path)
