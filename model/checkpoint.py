"""Checkpoints in the layout of published DeepSeek-V3 models: config.json, tokenizer.json and safetensors whose names
transformers and vLLM know. A folder is written under a temporary name and renamed, so a half-written one is never
seen."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from model import config as configs
from model import tokenizer as tokenizers
from model.config import ModelConfig
from model.tokenizer import Tokenizer
from model.transformer import Transformer

WEIGHTS = "model.safetensors"


class CheckpointError(ValueError):
    """A checkpoint that is absent, damaged or of another shape. Nothing was changed."""

    exit_status = 2


@contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """A folder to write into, which becomes ``folder`` when the block ends well and disappears when it does not."""
    draft = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        yield draft
        for path in draft.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        shutil.rmtree(folder, ignore_errors=True)
        draft.rename(folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def save(model: Transformer, tokenizer: Tokenizer, folder: Path) -> None:
    """Writes FP32 weights, config and tokenizer into an existing folder."""
    tensors = {k: v.detach().cpu().contiguous() for k, v in to_published(model.state_dict(), model.c)}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({**configs.to_hf(model.c), "dtype": "float32"}, indent=2) + "\n")
    tokenizer.save(folder)


def shape(folder: Path) -> tuple[ModelConfig, Tokenizer]:
    """The configuration and tokenizer of a checkpoint, without its weights."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such checkpoint folder")
    config, tokenizer = configs.load(folder), tokenizers.load(folder)
    if len(tokenizer) > config.vocab_size:
        raise CheckpointError(f"{folder}: the tokenizer has {len(tokenizer)} tokens, the model {config.vocab_size}")
    return config, tokenizer


def load(folder: Path) -> tuple[Transformer, Tokenizer]:
    """The model (FP32) and tokenizer of a checkpoint. Raises CheckpointError that names every tensor that is missing,
    extra or mis-shaped."""
    config, tokenizer = shape(folder)
    with torch.device("meta"):
        model = Transformer(config)
    wanted = dict(to_published(model.state_dict(), config))
    found: dict[str, Tensor] = {}
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise CheckpointError(f"{folder}: there is no {WEIGHTS} in it") from None
    except SafetensorError as error:
        raise CheckpointError(f"{folder / WEIGHTS}: damaged or truncated ({error})") from None
    problems = [f"missing {name}" for name in wanted.keys() - found.keys()]
    problems += [f"unexpected {name}" for name in found.keys() - wanted.keys()]
    problems += [
        f"{name} has shape {list(found[name].shape)}, config.json asks for {list(wanted[name].shape)}"
        for name in wanted.keys() & found.keys()
        if wanted[name].shape != found[name].shape
    ]
    if problems:
        raise CheckpointError(f"{folder / WEIGHTS} does not fit its config.json:\n  " + "\n  ".join(sorted(problems)))
    model = Transformer(config)
    model.load_state_dict(from_published({k: v.float() for k, v in found.items()}, config))
    return model, tokenizer


_EXPERTS = re.compile(r"(.*\.mlp\.experts)\.(gate_up_proj|down_proj)\.weight$")


def to_published(state: dict[str, Tensor], c: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    """Our state dict under published names, experts one by one."""
    for ours, tensor in state.items():
        name = _published_name(ours, c)
        stacked = _EXPERTS.match(name)
        if not stacked:
            yield name, tensor
            continue
        for j in range(c.n_routed_experts):
            if stacked[2] == "down_proj":
                yield f"{stacked[1]}.{j}.down_proj.weight", tensor[j]
            else:
                gate, up = tensor[j].chunk(2)
                yield f"{stacked[1]}.{j}.gate_proj.weight", gate
                yield f"{stacked[1]}.{j}.up_proj.weight", up


def from_published(found: dict[str, Tensor], c: ModelConfig) -> dict[str, Tensor]:
    """The inverse of `to_published`, for a complete set of names."""
    with torch.device("meta"):
        names = list(Transformer(c).state_dict())
    state: dict[str, Tensor] = {}
    for ours in names:
        name = _published_name(ours, c)
        stacked = _EXPERTS.match(name)
        if not stacked:
            state[ours] = found[name]
            continue

        def experts(part: str, prefix: str = stacked[1]) -> Tensor:
            return torch.stack([found[f"{prefix}.{j}.{part}.weight"] for j in range(c.n_routed_experts)])

        joined = [experts("gate_proj"), experts("up_proj")] if stacked[2] == "gate_up_proj" else [experts("down_proj")]
        state[ours] = torch.cat(joined, 1)
    return state


def _published_name(ours: str, c: ModelConfig) -> str:
    if ours.startswith("lm_head."):
        return ours
    if not ours.startswith("mtp."):
        return "model." + ours
    _, index, rest = ours.split(".", 2)
    rest = re.sub(r"^norm\.", "shared_head.norm.", re.sub(r"^block\.", "", rest))
    return f"model.layers.{c.num_hidden_layers + int(index)}.{rest}"
