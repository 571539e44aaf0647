"""Runs programs of kernels under Triton's interpreter, which a process has to choose as it starts."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

PATCHING_ONCE = """
from triton.runtime import interpreter

def call(self, *args, patch=interpreter._patch_lang, patched=set(), **kwargs):
    if self.fn not in patched:
        patched.add(self.fn)
        patch(self.fn)
    return self.rewrite()(*args, **kwargs)

interpreter.InterpretedFunction.__call__ = call
"""
"""For a kernel's call of another function the interpreter patches all of `triton.language` again, which has no effect
after the first time and takes a third of its time."""


def run(program: str) -> subprocess.CompletedProcess[str]:
    """The test is skipped where there is no Triton."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("the kernels are written in triton, of which there is none here")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", PATCHING_ONCE + program],
        env=environment, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
