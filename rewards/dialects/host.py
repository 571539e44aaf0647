"""The worker's side of a foreign reward function: loads it once, calls it, and answers plain values.

Runs in worker processes only. What the function prints goes to standard error.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rewards.dialects.signatures import SIGNATURES, Answer

_LOADED: dict[tuple[str, str], Any] = {}


def warm_up(dialect: str, source: str, attribute: str, config: Mapping[str, Any]) -> None:
    """Loads the function before workers are forked; a failure is kept for the calls to report."""
    del dialect, config
    try:
        _LOADED[source, attribute] = load(source, attribute)
    except BaseException as error:  # noqa: BLE001  a module may raise anything, SystemExit included
        _LOADED[source, attribute] = error


def load(source: str, attribute: str) -> Any:
    """The object named in a file or a module."""
    if source.endswith(".py"):
        name = f"zeroth_plugin_{Path(source).stem}"
        specification = importlib.util.spec_from_file_location(name, source)
        if specification is None or specification.loader is None:
            raise ImportError(f"{source} is no Python file")
        module = importlib.util.module_from_spec(specification)
        sys.modules[name] = module
        sys.path.insert(0, str(Path(source).parent))
        specification.loader.exec_module(module)
    else:
        module = importlib.import_module(source)
    found: Any = module
    for part in attribute.split("."):
        found = getattr(found, part)
    return found


def call(target: list[Any], batch: list[dict[str, Any]]) -> list[Answer]:
    """One call of the function in its dialect: an answer for each sample of the batch."""
    dialect, source, attribute, config = target
    function = _LOADED.get((source, attribute))
    if function is None:
        function = _LOADED[source, attribute] = load(source, attribute)
    if isinstance(function, BaseException):
        raise ImportError(  # noqa: TRY004  what is raised here is the failed import
            f"it could not be loaded: {type(function).__name__}: {function}"
        )
    answers = SIGNATURES[dialect](function, batch, config)
    if len(answers) != len(batch):
        raise TypeError(f"it answered {len(answers)} values for {len(batch)} samples")
    return answers
