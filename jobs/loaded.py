"""A checkpoint, ready to be sampled from: what `zeroth eval`, `zeroth serve model` and lm-evaluation-harness share."""

from __future__ import annotations

import asyncio
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.config import precision_of

if TYPE_CHECKING:
    from model.chat import Layout
    from model.native import NativeEngine
    from model.tokenizer import Tokenizer


def loaded_engine(checkpoint: Path, precision: str, rows: int) -> NativeEngine:
    """A native engine with the checkpoint's weights, which samples ``rows`` completions together. Raises RecipeError
    or CheckpointError."""
    published = precision_of(precision)
    import torch

    from jobs import parts
    from model import checkpoint as checkpoints
    from model import publish

    model, _ = checkpoints.load(checkpoint)
    engine = parts.make_engine(checkpoint, rows, torch.get_num_threads())
    asyncio.run(engine.publish(publish.publish(model, 0, published)))
    return engine


def layout_of(checkpoint: Path, tokenizer: Tokenizer, template: str | None, otherwise: str = "") -> Layout:
    """How prompts are laid out for this checkpoint: by ``template``, else as in the run that wrote it, else by its own
    chat template, else by ``otherwise`` (empty: a plain chat template)."""
    from model.chat import Layout

    chosen = template if template is not None else recorded_template(checkpoint)
    if chosen is None:
        chosen = otherwise if tokenizer.chat_template is None else ""
    return Layout(tokenizer, chosen)


def recorded_template(checkpoint: Path) -> str | None:
    """data.template of the run that wrote this checkpoint (run/checkpoints/step-N); None where there is none."""
    recipe = checkpoint.resolve().parent.parent / "recipe.toml"
    if not recipe.is_file():
        return None
    template = tomllib.loads(recipe.read_text()).get("data", {}).get("template")
    return None if template is None else str(template)
