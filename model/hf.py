"""Dense models of other makes (the Llama and Qwen families) through transformers: the same surface as our transformer,
so that the same trainers work on them. The one place that knows transformers.

Sequences are read into right-padded rows, as attention reads them (`model/segments.py`): with causal attention no real
token sees the padding or another sequence, so no mask is needed and any attention of transformers' will do.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model import tokenizer as tokenizers
from model.config import SCORING, ConfigError, Precision, no_checkpoint
from model.moe import Router
from model.policy import OptimizerSettings, Policy
from model.segments import Segments
from model.tokenizer import Tokenizer
from model.transformer import Output, Transformer

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
COPIED = ("tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "vocab.json", "merges.txt")
"""What is kept as it was beside new weights."""


@dataclass(frozen=True)
class Shape:
    """What trainers ask of a model's configuration."""

    vocab_size: int
    hidden_size: int
    max_position_embeddings: int
    eos_token_id: int

    def moe_layers(self) -> list[int]:
        return []


def shape(folder: Path) -> tuple[Shape, Tokenizer]:
    """The configuration and tokenizer of a folder, without its weights. Raises ConfigError for another family."""
    path = folder / "config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    if values.get("model_type") not in FAMILIES:
        known = ", ".join((*SCORING, *FAMILIES))
        raise ConfigError(f"{path}: model_type is {values.get('model_type')!r}; what can be trained is {known}")
    tokenizer = tokenizers.load(folder)
    sizes = {name: values[name] for name in ("vocab_size", "hidden_size", "max_position_embeddings")}
    return Shape(**sizes, eos_token_id=tokenizer.eos), tokenizer


class Dense(nn.Module):
    """A transformers model with the surface of `model.transformer.Transformer`: tokens and segments in, hidden states
    out. ``source`` is the folder whose tokenizer's files go into every checkpoint."""

    def __init__(self, inner: Any, c: Shape, source: Path) -> None:
        super().__init__()
        self.inner, self.c, self.source = inner, c, source
        self.bf16 = False

    def use(self, precision: Precision, *, recompute: bool = False) -> Dense:
        if precision == "fp8":
            raise ConfigError(
                "precision.train: fp8 is for our own architecture; transformers' models take fp32 or bf16"
            )
        self.bf16 = precision == "bf16"
        if recompute:
            self.inner.gradient_checkpointing_enable()
        return self

    def forward(self, tokens: Tensor, segments: Segments, routes: Tensor | None = None) -> Output:
        """tokens [N] int64. There are no experts that ``routes`` could name."""
        rows = tokens[segments.source].view(len(segments.lengths), segments.longest)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            hidden = self.inner.base_model(input_ids=rows, use_cache=False).last_hidden_state
        return Output(hidden.flatten(0, 1)[segments.home])

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [..., H] -> FP32 logits [..., V]."""
        return F.linear(hidden, self.head.weight.to(hidden.dtype)).float()

    @property
    def head(self) -> nn.Linear:
        return cast(nn.Linear, self.inner.get_output_embeddings())

    def routers(self) -> list[Router]:
        return []

    @property
    def device(self) -> torch.device:
        return cast(torch.device, self.inner.device)


def load(folder: Path) -> tuple[Dense, Tokenizer]:
    """The model, in FP32, and tokenizer of a folder. Raises ConfigError."""
    c, tokenizer = shape(folder)
    return Dense(_loaded(folder), c, folder), tokenizer


def save(model: Dense, tokenizer: Tokenizer, folder: Path) -> None:
    """Writes into an existing folder what transformers loads."""
    model.inner.save_pretrained(folder)
    tokenizer.save(folder)
    for name in COPIED:
        if (model.source / name).is_file():
            shutil.copyfile(model.source / name, folder / name)


class HFPolicy(Policy):
    """A policy over a transformers model, saved as a folder that transformers loads."""

    def __init__(
        self, source: Path, settings: OptimizerSettings, precision: Precision = "fp32", *, recompute: bool = False
    ) -> None:
        dense, tokenizer = load(source)
        # Policy uses of a model what Dense has; our Transformer is the type it is written against.
        super().__init__(cast(Transformer, dense), tokenizer, settings, precision, recompute=recompute)

    def save_weights(self, folder: Path) -> None:
        save(cast(Dense, self.model), self.tokenizer, folder)

    def load_weights(self, folder: Path) -> None:
        cast(Dense, self.model).inner.load_state_dict(_loaded(folder).state_dict())


def _loaded(folder: Path) -> Any:
    try:
        from transformers import AutoModelForCausalLM
    except ImportError as error:
        raise ConfigError(f"{folder}: models of this kind need the extra: pip install 'zeroth[hf]'") from error
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)


def is_ours(folder: Path) -> bool:
    """Whether a folder holds a model of our architecture, rather than one of transformers'. Raises ConfigError."""
    path = folder / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise no_checkpoint(folder) from None
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON: {error}") from None
    return isinstance(values, dict) and values.get("model_type") in SCORING
