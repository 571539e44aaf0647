"""Limits small enough that a test which runs into one is short."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any

from sandbox import Limits

SMALL = Limits(
    wall_seconds=2.0,
    cpu_seconds=1.0,
    memory_mb=192,
    processes=32,
    open_files=128,
    file_mb=16,
    disk_mb=32,
    disk_files=1024,
    output_kb=1024,
    report_kb=256,
)


def asynchronous(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test that is a coroutine, run in an event loop of its own."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run
