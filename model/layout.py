"""The names of tensors in published DeepSeek-V3 checkpoints, and which of them are kept in block FP8."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from model import fp8
from model.config import ModelConfig
from model.transformer import Transformer

SCALE = "_scale_inv"

_EXPERTS = re.compile(r"(.*\.mlp\.experts)\.(gate_up_proj|down_proj)\.weight$")


def to_published(state: Mapping[str, Tensor], c: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    """Our state dict under published names, experts one by one: views of the same memory."""
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


def shapes(c: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of a checkpoint, by published name, copies left out."""
    with torch.device("meta"):
        state = Transformer(c).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in to_published(state, c)}


def copies(c: ModelConfig) -> dict[str, str]:
    """Published checkpoints repeat the embedding and the head in every MTP module: the name of each copy, and of what
    it is a copy."""
    layers = range(c.num_hidden_layers, c.num_hidden_layers + c.num_nextn_predict_layers)
    shared = {"embed_tokens": "model.embed_tokens.weight", "shared_head.head": "lm_head.weight"}
    return {f"model.layers.{i}.{part}.weight": source for i in layers for part, source in shared.items()}


def in_blocks(name: str) -> bool:
    """Whether FP8 checkpoints keep this tensor in 128x128 blocks: every projection but the MTP modules' eh_proj."""
    return bool(re.search(r"_proj(_with_mqa)?\.weight$", name)) and not name.endswith("eh_proj.weight")


def scale_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(-(-size // fp8.BLOCK) for size in shape)


def _published_name(ours: str, c: ModelConfig) -> str:
    if ours.startswith("lm_head."):
        return ours
    if not ours.startswith("mtp."):
        return "model." + ours
    _, index, rest = ours.split(".", 2)
    rest = re.sub(r"^norm\.", "shared_head.norm.", re.sub(r"^block\.", "", rest))
    return f"model.layers.{c.num_hidden_layers + int(index)}.{rest}"
