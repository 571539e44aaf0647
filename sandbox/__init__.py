"""Isolated execution of untrusted programs."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sandbox.client import run
    from sandbox.pool import Pool
    from sandbox.verdict import STATUSES, InvalidTests, Limits, SandboxUnavailable, Status, TestResult, Verdict

__all__ = [
    "STATUSES",
    "InvalidTests",
    "Limits",
    "Pool",
    "SandboxUnavailable",
    "Status",
    "TestResult",
    "Verdict",
    "run",
]


def __getattr__(name: str) -> Any:
    """Loads a public name when it is first used: the worker, which is forked for every run, needs none of them and
    must stay small."""
    if name not in __all__:
        raise AttributeError(f"module 'sandbox' has no attribute {name!r}")
    home = {"run": "client", "Pool": "pool"}.get(name, "verdict")
    return getattr(importlib.import_module(f"sandbox.{home}"), name)
