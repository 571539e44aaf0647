"""`zeroth export`: a checkpoint as a folder that transformers and vLLM load."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jobs import console
from jobs.config import RecipeError, precision_of


def command(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint folder of any precision.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to write; it must not exist, or be empty.")],
    precision: Annotated[str, typer.Option(help="bf16, fp8 (blocks of 128x128) or fp32.")] = "bf16",
    shard_mb: Annotated[int, typer.Option(min=1, help="The size of one file of weights, in 10^6 bytes.")] = 5000,
) -> None:
    """Write a checkpoint as a DeepseekV3ForCausalLM folder and print where it lies."""
    width = precision_of(precision)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RecipeError(f"{folder} exists already: name a folder that does not")
    from model import checkpoint as checkpoints

    with console.console.status("writing"), checkpoints.written_whole(folder.resolve()) as draft:
        checkpoints.export(checkpoint, draft, width, shard_mb * 10**6, chat_template(checkpoint))
    typer.echo(folder)


def chat_template(checkpoint: Path) -> str | None:
    """What lays out a conversation as the run that wrote this checkpoint did; None where nothing is known of one."""
    from jobs.loaded import recorded_template
    from model.chat import DEFAULT_CHAT, as_chat

    template = recorded_template(checkpoint)
    if template is None:
        return None
    return as_chat(template) if template else DEFAULT_CHAT
