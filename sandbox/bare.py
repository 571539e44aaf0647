"""Starting one of our own programs in an interpreter that takes nothing from its surroundings."""

from __future__ import annotations

import sys
from pathlib import Path

_ROOT = str(Path(__file__).resolve().parent.parent)


def command(module: str, function: str, *arguments: object, first: str = "pass") -> list[str]:
    """The command that calls ``function(arguments)``, without Python's variables, site packages or user's folder.
    ``first`` is a statement that runs before anything is imported."""
    start = f"import sys; sys.path.insert(0, {_ROOT!r}); from {module} import {function} as main; main(sys.argv[1:])"
    return [sys.executable, "-I", "-S", "-X", "utf8", "-c", f"{first}; {start}", *map(str, arguments)]
