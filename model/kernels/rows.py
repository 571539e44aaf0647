"""Rows to their experts and back: `model.moe` is the reference. Each row is read and written once, without collisions,
so that both give the same at every run."""

# Kernels are typed by Triton at each launch.
# mypy: disable-error-code="untyped-decorator, no-untyped-def"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


def permute(x: Tensor, order: Tensor, k: int) -> Tensor:
    """Row ``order[i] // k`` of ``x`` [T, H] to place i: [T k, H]. ``order`` [T k] sorts the T k choices by expert."""
    out = x.new_empty(len(order), x.shape[1])
    if len(order):
        _permute_kernel[(len(order),)](x.contiguous(), order, out, x.shape[1], k, WIDTH=_width(x), num_warps=4)
    return out


def unpermute(y: Tensor, place: Tensor, gates: Tensor | None = None) -> Tensor:
    """The sum over j of row ``place[t, j]`` of ``y`` [T k, H], each times ``gates[t, j]`` where given: [T, H], summed
    in FP32. ``place`` [T, k] is the inverse of ``order``."""
    tokens, k = place.shape
    out = torch.empty_like(y[:1]).expand(tokens, -1).contiguous()
    if tokens:
        _unpermute_kernel[(tokens,)](
            y.contiguous(), place, gates if gates is not None else y, out, y.shape[1], K=k, WIDTH=_width(y),
            GATED=gates is not None, num_warps=4,
        )  # fmt: skip
    return out


def _width(x: Tensor) -> int:
    return int(min(triton.next_power_of_2(x.shape[1]), 2048))


@triton.jit
def _permute_kernel(x, order, out, hidden, k, WIDTH: tl.constexpr):
    place = tl.program_id(0).to(tl.int64)
    source = (tl.load(order + place) // k).to(tl.int64)
    for first in range(0, hidden, WIDTH):
        col = first + tl.arange(0, WIDTH)
        tl.store(out + place * hidden + col, tl.load(x + source * hidden + col, mask=col < hidden), mask=col < hidden)


@triton.jit
def _unpermute_kernel(y, place, gates, out, hidden, K: tl.constexpr, WIDTH: tl.constexpr, GATED: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    for first in range(0, hidden, WIDTH):
        col = first + tl.arange(0, WIDTH)
        total = tl.zeros([WIDTH], tl.float32)
        for j in tl.static_range(K):
            source = tl.load(place + token * K + j).to(tl.int64)
            value = tl.load(y + source * hidden + col, mask=col < hidden, other=0.0).to(tl.float32)
            if GATED:
                value *= tl.load(gates + token * K + j).to(tl.float32)
            total += value
        tl.store(out + token * hidden + col, total.to(out.dtype.element_ty), mask=col < hidden)
