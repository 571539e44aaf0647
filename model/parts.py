"""The parts in which a publish carries the weights: the embedding, each layer, the head, the MTP modules."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from model import fp8
from model.digest import host_bytes

SCALE = ".scale_inv"
ALIGNED = 256
"""Bytes: a tensor begins at a multiple of so many."""
NEIGHBOURS = (
    "q_a_proj.weight", "kv_a_proj_with_mqa.weight", "mlp.experts.gate_up_proj.weight",
    "shared_experts.gate_proj.weight", "shared_experts.up_proj.weight", "mlp.experts.down_proj.weight",
    "shared_experts.down_proj.weight", "mlp.gate_proj.weight", "mlp.up_proj.weight",
)  # fmt: skip
"""Matrices that an engine multiplies as one lie one behind another (`model.serving`)."""


class Outline(NamedTuple):
    """A part without its bytes, which are ``size`` in one piece: ``tensors`` says by name the dtype, the shape and the
    place of the first."""

    name: str
    tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...], int]]
    size: int

    @staticmethod
    def of(name: str, kinds: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]) -> Outline:
        size, places = 0, {}
        for key in sorted(kinds, key=_rank):
            dtype, shape = kinds[key]
            places[key] = size
            size += -(-math.prod(shape) * dtype.itemsize // ALIGNED) * ALIGNED
        # A plain tuple crosses to another process in half the time of a torch.Size.
        return Outline(name, {key: (dtype, tuple(shape), places[key]) for key, (dtype, shape) in kinds.items()}, size)

    def empty(self, device: torch.device) -> Part:
        return Part(self, torch.empty(self.size, dtype=torch.uint8, device=device))


def _rank(name: str) -> tuple[bool, int]:
    """Scales come last, for they would lie between neighbours, and in the order of theirs."""
    matrix = name.removesuffix(SCALE)
    return name != matrix, next((i for i, end in enumerate(NEIGHBOURS) if matrix.endswith(end)), -1)


@dataclass(frozen=True)
class Part:
    """Some of the weights, whose bytes are ``piece`` uint8 [outline.size]: opening or sending each tensor by itself
    takes longer than copying it."""

    outline: Outline
    piece: Tensor

    @staticmethod
    def of(name: str, tensors: Mapping[str, Tensor], room: Part | None = None) -> Part:
        """A copy, in ``room`` where that has held the like."""
        outline = Outline.of(name, {key: (t.dtype, t.shape) for key, t in tensors.items()})
        if room is None or room.outline != outline:
            room = outline.empty(next(iter(tensors.values())).device)
        for key, target in room.tensors.items():
            target.copy_(tensors[key])
        return room

    @property
    def name(self) -> str:
        return self.outline.name

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """By a parameter's name its tensor, and by name + ".scale_inv" its FP8 scales."""
        return {
            name: self.piece[start : start + math.prod(shape) * dtype.itemsize].view(dtype).view(shape)
            for name, (dtype, shape, start) in self.outline.tensors.items()
        }

    def to(self, device: torch.device) -> Part:
        return self if self.piece.device == device else Part(self.outline, self.piece.to(device))

    def opened(self) -> Part:
        """As a part that lies in another process is."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Travels as a plain byte array, which a process boundary can pass without copying."""
        return _unpacked, (self.outline, host_bytes(self.piece))


def _unpacked(outline: Outline, data: Any) -> Part:
    return Part(outline, torch.from_numpy(data.copy()))


def split(state: Mapping[str, Tensor]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """A state dict in parts, in the order of the model and named as their modules: ``embed_tokens``, ``layers.0``, ...,
    ``head`` and, for drafts, ``mtp``."""
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in state.items():
        first, second, *_ = key.split(".")
        name = f"layers.{second}" if first == "layers" else first if first in ("embed_tokens", "mtp") else "head"
        parts.setdefault(name, {})[key] = tensor
    yield from parts.items()


def decoded(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Each parameter as it is multiplied, FP8 as what it decodes to."""
    for name, value in tensors.items():
        if name + SCALE in tensors:
            yield name, fp8.dequantize_blocks(fp8.Quantized(value, tensors[name + SCALE]))
        elif not name.endswith(SCALE):
            yield name, value
