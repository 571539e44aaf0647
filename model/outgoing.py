"""Where a trainer on a GPU makes its publishes: memory that stays from one to the next, so that all is launched on the
same addresses, by tables that were laid down before."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from model import fp8, publish
from model.config import Precision
from model.digest import Kind
from model.kernels.transfer import Passing, Quantizing, Transfer
from model.parts import SCALE, Part
from model.transformer import Transformer

STEP = 16
"""Kernels take addresses and rows in so many bytes, or numbers."""


class Outgoing:
    """A model's weights in an engine's precision. Its parts are lent: they are written anew when nobody holds any of
    the last publish, or what makes them. ``to_kernels`` as for `publish.outlined`. ``in_turn``: there is room for two,
    which later ones take from earlier ones, for somebody who launches what takes a part before the next one is made."""

    def __init__(
        self, model: Transformer, precision: Precision, *, to_kernels: bool = False, in_turn: bool = False
    ) -> None:
        self.precision, self.to_kernels, self.places = precision, to_kernels, places(model)
        self.sources = [owner[key].data_ptr() for owner, key in self.places]
        self.lent: list[weakref.ref[Any]] = []
        self.parts: list[Part] = []
        self.others: dict[str, Part] = {}
        self.making: list[Transfer] = []
        outlines = list(publish.outlined(model, precision, to_kernels=to_kernels))
        self.names = tuple(name for outline, _ in outlines for name in outline.tensors)
        most = max(outline.size for outline, _ in outlines)
        rooms = [torch.empty(most, dtype=torch.uint8, device=model.device) for _ in range(2 * in_turn)]
        for i, (outline, state) in enumerate(outlines):
            part = Part(outline, rooms[i % 2][: outline.size]) if in_turn else outline.empty(model.device)
            self.parts.append(part)
            self.making.append(Transfer.of(*work_of(state, part)))

    def fits(self, precision: Precision, *, to_kernels: bool) -> bool:
        """Whether the weights are still where they were."""
        now = [owner[key].data_ptr() for owner, key in self.places]
        return (self.precision, self.to_kernels, self.sources) == (precision, to_kernels, now)

    def free(self) -> bool:
        return all(part() is None for part in self.lent)

    def made(self, kind: Kind | None) -> Iterator[tuple[Part, Tensor]]:
        """As `model.publish.Fresh.made`."""
        making = self._made(kind)
        self.lent = [weakref.ref(making)]
        return making

    def _made(self, kind: Kind | None) -> Iterator[tuple[Part, Tensor]]:
        for own, making in zip(self.parts, self.making, strict=True):
            digests = making.run(sums=kind is not None)
            yield self._lend(own), digests

    def further(self, name: str, tensors: Mapping[str, Tensor]) -> Part:
        """As `model.publish.Fresh.further`."""
        self.others[name] = Part.of(name, tensors, self.others.get(name))
        return self._lend(self.others[name])

    def _lend(self, own: Part) -> Part:
        part = Part(own.outline, own.piece)
        part.__dict__["tensors"] = own.tensors  # which take long to cut
        self.lent.append(weakref.ref(part))
        return part


_kept: weakref.WeakKeyDictionary[nn.Module, list[Outgoing]] = weakref.WeakKeyDictionary()


@torch.no_grad()
def outgoing(model: Transformer, precision: Precision, *, to_kernels: bool) -> Outgoing | None:
    """One that is free, or None where the kernels do not take the model's tensors. There is more than one where
    publishes overlap."""
    kept = [out for out in _kept.get(model, []) if out.fits(precision, to_kernels=to_kernels)]
    free = next((out for out in kept if out.free()), None)
    if free is None:
        if not takes(model):
            return None
        free = Outgoing(model, precision, to_kernels=to_kernels)
    _kept[model] = [*(out for out in kept if not out.free()), free]
    return free


def takes(model: Transformer) -> bool:
    """Whether these kernels do. Rows that are quantised are of 16 numbers, or a multiple."""
    if not publish.has_e4m3(model.device):
        return False
    state = model.state_dict().values()
    return all(t.dtype == torch.float32 and t.is_contiguous() and t.data_ptr() % STEP == 0 for t in state) and all(
        t.shape[-1] % STEP == 0 for t in state if t.dim() > 1
    )


def places(model: nn.Module) -> list[tuple[dict[str, Any], str]]:
    """Where the model's tensors are found, by the tables of its modules: thus a tensor that takes another's place is
    seen."""
    tables = [table for module in model.modules() for table in (module._parameters, module._buffers)]
    return [(table, key) for table in tables for key, tensor in table.items() if tensor is not None]


def work_of(state: Mapping[str, Tensor], part: Part) -> tuple[list[Passing], list[Quantizing]]:
    """In the order of the part's tensors."""
    words, blocks = [], []
    for key, target in part.tensors.items():
        if key + SCALE in part.tensors:
            source, scale = state[key], part.tensors[key + SCALE]
            experts = [t if t.dim() == 3 else t.unsqueeze(0) for t in (source, target, scale)]
            blocks.append(Quantizing(experts[0], fp8.Quantized(*experts[1:])))
        elif not key.endswith(SCALE):
            words.append(Passing(state[key], target))
    return words, blocks
