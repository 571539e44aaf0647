"""Checkpoints in the layout of published DeepSeek-V3 models, in FP32, BF16 or block FP8: config.json, tokenizer files
and safetensors whose names transformers and vLLM know. A folder is written under a temporary name and renamed, so a
half-written one is never seen. Tensors are read and written one shard at a time."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from model import config as configs
from model import fp8, layout, shards
from model import tokenizer as tokenizers
from model.config import ModelConfig, Precision
from model.layout import SCALE
from model.shards import SHARD_BYTES, WEIGHTS, CheckpointError, Shards, intact
from model.tokenizer import Tokenizer
from model.transformer import Transformer, allocate

__all__ = ["WEIGHTS", "CheckpointError", "export", "intact", "load", "save", "shape", "written_whole"]


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


def save(
    model: Transformer,
    tokenizer: Tokenizer,
    folder: Path,
    precision: Precision = "fp32",
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes weights, config and tokenizer into an existing folder."""
    views = dict(layout.to_published(model.state_dict(), model.c))
    _write(model.c, tokenizer, lambda name: views[name].detach().cpu(), folder, precision, shard_bytes)


def export(source: Path, folder: Path, precision: Precision, shard_bytes: int, chat_template: str | None) -> None:
    """Writes a checkpoint anew into an existing folder, in another precision or in other shards, without ever holding
    more than a shard. A tokenizer that has no chat template gets the one given. Raises CheckpointError as `load`."""
    config, tokenizer = shape(source)
    stored = _opened(source, config)
    tokenizer.chat_template = tokenizer.chat_template or chat_template
    _write(config, tokenizer, lambda name: _decoded(stored, name), folder, precision, shard_bytes)


def _write(
    config: ModelConfig,
    tokenizer: Tokenizer,
    read: Callable[[str], Tensor],
    folder: Path,
    precision: Precision,
    shard_bytes: int,
) -> None:
    shapes, copies = layout.shapes(config), layout.copies(config)
    shapes |= {copy: shapes[source] for copy, source in copies.items()}
    sizes = {name: _stored_bytes(name, shape, precision) for name, shape in shapes.items()}

    def make(name: str) -> dict[str, Tensor]:
        return _stored(name, read(copies[name]).clone() if name in copies else read(name), precision)

    shards.write(folder, sizes, make, shard_bytes)
    values = {**configs.to_hf(config), "dtype": "float32" if precision == "fp32" else "bfloat16"}
    if precision == "fp8":
        values["quantization_config"] = QUANTIZATION
    (folder / "config.json").write_text(json.dumps(values, indent=2) + "\n")
    tokenizer.save(folder)


QUANTIZATION = {
    "quant_method": "fp8",
    "fmt": "e4m3",
    "activation_scheme": "dynamic",
    "weight_block_size": [fp8.BLOCK, fp8.BLOCK],
}


def _stored(name: str, tensor: Tensor, precision: Precision) -> dict[str, Tensor]:
    """A tensor as a checkpoint of this precision keeps it; the routing bias is always FP32."""
    if precision == "fp8" and layout.in_blocks(name):
        data, scale = fp8.quantize_blocks(tensor)
        return {name: data, name + SCALE: scale}
    return {name: tensor.float() if precision == "fp32" or _kept_fp32(name) else tensor.bfloat16()}


def _stored_bytes(name: str, shape: tuple[int, ...], precision: Precision) -> int:
    if precision == "fp8" and layout.in_blocks(name):
        return math.prod(shape) + 4 * math.prod(layout.scale_shape(shape))
    return math.prod(shape) * (4 if precision == "fp32" or _kept_fp32(name) else 2)


def _kept_fp32(name: str) -> bool:
    return name.endswith(".e_score_correction_bias")


def shape(folder: Path) -> tuple[ModelConfig, Tokenizer]:
    """The configuration and tokenizer of a checkpoint, without its weights."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such checkpoint folder")
    config, tokenizer = configs.load(folder), tokenizers.load(folder)
    if len(tokenizer) > config.vocab_size:
        raise CheckpointError(f"{folder}: the tokenizer has {len(tokenizer)} tokens, the model {config.vocab_size}")
    return config, tokenizer


def load(folder: Path) -> tuple[Transformer, Tokenizer]:
    """The model (FP32) and tokenizer of a checkpoint of any precision. Raises CheckpointError that names every tensor
    that is missing, extra, mis-shaped or truncated."""
    config, tokenizer = shape(folder)
    stored = _opened(folder, config)
    model = allocate(config)
    views = dict(layout.to_published(model.state_dict(), config))
    with torch.no_grad():
        for name in stored.in_order(views):
            views[name].copy_(_decoded(stored, name))
    for copy, source in layout.copies(config).items():
        if copy in stored.entries and not torch.equal(_decoded(stored, copy), views[source]):
            raise CheckpointError(f"{folder}: {copy} must be a copy of {source}, and is not")
    return model, tokenizer


def _opened(folder: Path, config: ModelConfig) -> Shards:
    """The folder's tensors, found to be those that its config.json asks for."""
    stored = Shards(folder)
    problems = sorted(_misfits(stored.entries, layout.shapes(config), layout.copies(config)))
    if problems:
        raise CheckpointError(f"{folder}: the tensors do not fit its config.json:\n  " + "\n  ".join(problems))
    return stored


def _misfits(
    entries: Mapping[str, shards.Entry], shapes: Mapping[str, tuple[int, ...]], copies: Mapping[str, str]
) -> Iterator[str]:
    expected = {**shapes, **{copy: shapes[source] for copy, source in copies.items() if copy in entries}}
    scales = {
        name + SCALE: layout.scale_shape(shape)
        for name, shape in expected.items()
        if name in entries and entries[name].dtype == "F8_E4M3"
    }
    for name, shape in (expected | scales).items():
        if name not in entries:
            yield f"missing {name}"
            continue
        entry = entries[name]
        if entry.shape != shape:
            yield f"{name} has shape {list(entry.shape)}, config.json asks for {list(shape)}"
        if entry.dtype not in shards.BYTES:
            yield f"{name} has dtype {entry.dtype}, which is none of {', '.join(shards.BYTES)}"
        if entry.truncated:
            yield f"truncated {name}: {entry.file.name} ends before it does"
    for name in entries.keys() - expected.keys() - scales.keys():
        if not _CONSTANT.search(name):
            yield f"unexpected {name}"


_CONSTANT = re.compile(r"\.rotary_emb\.inv_freq$")
"""What some publishers store and no loader reads: it follows from config.json."""


def _decoded(stored: Shards, name: str) -> Tensor:
    """FP32."""
    tensor = stored.read(name)
    if tensor.dtype == torch.float8_e4m3fn:
        return fp8.dequantize_blocks(fp8.Quantized(tensor, stored.read(name + SCALE).float()))
    return tensor.float()
