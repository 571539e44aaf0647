"""Runs programs of kernels under Triton's interpreter, which a process has to choose as it starts."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest


def run(program: str) -> subprocess.CompletedProcess[str]:
    """The test is skipped where there is no Triton."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("the kernels are written in triton, of which there is none here")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False, timeout=600
    )
