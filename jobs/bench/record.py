"""What every benchmark result carries: the machine, the versions, the commit and the command."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from jobs import console
from jobs.files import write_whole

PACKAGES = (
    "zeroth",
    "torch",
    "ray",
    "transformers",
    "trl",
    "accelerate",
    "math-verify",
    "lm-eval",
    "sympy",
    "triton",
    "vllm",
)


class Log:
    """What a measurement knows so far, ``results``, which is kept in ``out`` whenever it grows: a run that is ended
    early loses nothing that it had."""

    def __init__(self, results: dict[str, Any], out: Path | None = None) -> None:
        self.results, self.out, self.started = results, out, time.monotonic()

    def say(self, text: str) -> None:
        """With the seconds since the start."""
        console.say(f"{time.monotonic() - self.started:5.0f} s  {text}")

    def keep(self) -> None:
        if self.out is not None:
            write(self.results, self.out)


def stamped(results: dict[str, Any]) -> dict[str, Any]:
    """The results with where, with what and how they were measured."""
    return {
        "command": " ".join(["zeroth", *sys.argv[1:]]),
        "commit": _commit(),
        "machine": {
            "cpu": _cpu(),
            "cores": len(os.sched_getaffinity(0)),
            "load_before": round(os.getloadavg()[0], 2),
            "kernel": platform.release(),
            "python": platform.python_version(),
        },
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        **results,
    }


def emit(results: dict[str, Any], out: Path | None) -> None:
    """Prints JSON to standard output, and writes it where asked."""
    sys.stdout.write(json.dumps(results, indent=2) + "\n")
    if out is not None:
        write(results, out)


def write(results: dict[str, Any], out: Path) -> None:
    """The JSON in a file, which at every moment holds one whole."""
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, json.dumps(results, indent=2) + "\n")


def _commit() -> str:
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=root, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def _cpu() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
