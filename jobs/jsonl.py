"""Files of one JSON object a line, as data comes in and goes out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jobs.config import RecipeError


def lines(path: Path, what: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The objects of a JSONL file, each with its place (file:line). ``what`` names them in errors. Raises
    RecipeError."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such file of {what}") from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not UTF-8 text ({error})") from None
    found = False
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise RecipeError(f"{path}:{number}: not JSON ({error}); {what} are one JSON object a line") from None
        if not isinstance(value, dict):
            raise RecipeError(f"{path}:{number}: a JSON object is wanted, not {type(value).__name__}")
        found = True
        yield f"{path}:{number}", value
    if not found:
        raise RecipeError(f"{path}: there are no {what} in the file")


def write(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    """A JSONL file, under its name once it is whole."""
    draft = path.with_suffix(".tmp")
    with draft.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    draft.replace(path)
