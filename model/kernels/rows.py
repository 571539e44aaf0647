"""Rows to their experts and back: `model.moe` is the reference. Each row is read and written once, without collisions,
so that both give the same at every run.

Sorted by expert, each expert's rows are filled up to a multiple of 128. A tile of 128 rows then has one expert, tiles
of 128 tokens lie within one expert, scales start at whole 16 bytes, and DeepGEMM takes the same layout.
"""

# Kernels are typed by Triton at each launch.
# mypy: disable-error-code="untyped-decorator, no-untyped-def"

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.fp8 import BLOCK
from model.kernels.launch import launched
from model.kernels.sizes import cdiv, power_of_two


class Places(NamedTuple):
    """Where T K choices of experts stand, among P rows, the most there can be. ``ends`` int32 [E]: the end of each
    expert's rows, a multiple of 128. ``place`` int32 [T, K]: each choice's row. ``choice`` int32 [P]: the number
    t K + j of the choice in a row, -1 where the row only fills up. Rows from ends[-1] on are never read."""

    ends: Tensor
    place: Tensor
    choice: Tensor


def places(indices: Tensor, counts: Tensor) -> Places:
    """From ``indices`` [T, K] and the ``counts`` [E] of each expert in it, without waiting for the device. Choices of
    one expert stay in order."""
    choices, experts, device = indices.numel(), counts.shape[0], indices.device
    width = power_of_two(experts)
    size = max(16, 8192 // width)
    blocks = cdiv(choices, size)
    most = (choices + experts * (BLOCK - 1)) // BLOCK * BLOCK
    found = torch.empty(experts, blocks, dtype=torch.int32, device=device)
    ends = torch.zeros(experts, dtype=torch.int32, device=device)
    place = torch.empty(indices.shape, dtype=torch.int32, device=device)
    choice = torch.full((most,), -1, dtype=torch.int32, device=device)
    if choices:
        indices = indices.contiguous()
        _count_kernel[(blocks,)](indices, found, choices, experts, SIZE=size, WIDTH=width, num_warps=4)
        _place_kernel[(blocks,)](
            indices, found.cumsum(1, dtype=torch.int32), counts, ends, place, choice, choices, experts,
            SIZE=size, WIDTH=width, num_warps=4,
        )  # fmt: skip
    return Places(ends, place, choice)


def experts_of_rows(ends: Tensor, rows: int) -> Tensor:
    """The expert of each row, int32 [rows], from the ``ends`` of `Places`; -1 from the last end on."""
    out = torch.empty(rows, dtype=torch.int32, device=ends.device)
    if rows:
        experts = ends.shape[0]
        _experts_of_rows_kernel[(cdiv(rows, BLOCK),)](
            ends, out, rows, experts, SIZE=BLOCK, WIDTH=power_of_two(experts), num_warps=4
        )
    return out


def permute(x: Tensor, places: Places) -> Tensor:
    """Each row of ``x`` [T, H] to the places of its choices: [P, H], zeros where a row fills up."""
    k, rows = places.place.shape[1], len(places.choice)
    out = x.new_empty(rows, x.shape[1])
    if rows:
        _permute_kernel[(rows,)](
            x.contiguous(), places.choice, places.ends[-1:], out, x.shape[1], k, WIDTH=_width(x), num_warps=4
        )
    return out


def unpermute(
    y: Tensor, place: Tensor, gates: Tensor | None = None, base: Tensor | None = None, stream: Tensor | None = None
) -> Tensor:
    """The sum over j of row ``place[t, j]`` of ``y`` [P, H], each times ``gates[t, j]`` where given, plus row t of
    ``base`` and of ``stream`` [T, H] where given: [T, H], summed in FP32."""
    return _unpermute(y, place, gates, base, stream, None, 0.0)


def unpermute_onto(y: Tensor, place: Tensor, base: Tensor | None, stream: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """`unpermute` and 1 over the root of the mean square of each row that it gives, FP32 [T]."""
    inverse = y.new_empty(place.shape[0], dtype=torch.float32)
    return _unpermute(y, place, None, base, stream, inverse, eps), inverse


def _unpermute(
    y: Tensor, place: Tensor, gates: Tensor | None, base: Tensor | None, stream: Tensor | None, inverse: Tensor | None,
    eps: float,
) -> Tensor:  # fmt: skip
    tokens, k = place.shape
    out = y.new_empty(tokens, y.shape[1])
    if tokens:
        _unpermute_kernel[(tokens,)](
            y.contiguous(), place, gates if gates is not None else y, base if base is not None else y,
            stream if stream is not None else y, out, inverse if inverse is not None else y, eps, y.shape[1],
            K=k, WIDTH=_width(y), GATED=gates is not None, BASED=base is not None, ADDED=stream is not None,
            NORMED=inverse is not None, num_warps=4,
        )  # fmt: skip
    return out


def _width(x: Tensor) -> int:
    return min(power_of_two(x.shape[1]), 2048)


@triton.jit
def _experts_of(indices, choices, SIZE: tl.constexpr, WIDTH: tl.constexpr):
    """The choices of a program, and as [SIZE, WIDTH] which expert each takes."""
    at = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    expert = tl.load(indices + at, mask=at < choices, other=WIDTH)
    return at, expert[:, None] == tl.arange(0, WIDTH)[None, :]


@launched
@triton.jit
def _count_kernel(indices, found, choices, experts, SIZE: tl.constexpr, WIDTH: tl.constexpr):
    _, taken = _experts_of(indices, choices, SIZE, WIDTH)
    expert = tl.arange(0, WIDTH)
    at = expert * tl.num_programs(0) + tl.program_id(0)
    tl.store(found + at, tl.sum(taken.to(tl.int32), 0), mask=expert < experts)


@launched
@triton.jit
def _place_kernel(
    indices, until, counts, ends, place, choice, choices, experts, SIZE: tl.constexpr, WIDTH: tl.constexpr
):  # fmt: skip
    """``until`` [E, programs] counts each expert's choices up to the last of a program's, ``counts`` [E] all."""
    at, taken = _experts_of(indices, choices, SIZE, WIDTH)
    expert = tl.arange(0, WIDTH)
    known = expert < experts
    padded = (tl.load(counts + expert, mask=known, other=0).to(tl.int32) + 127) // 128 * 128
    end = tl.cumsum(padded, 0)
    if tl.program_id(0) == 0:
        tl.store(ends + expert, end, mask=known)
    ones = taken.to(tl.int32)
    at_until = expert * tl.num_programs(0) + tl.program_id(0)
    here = tl.load(until + at_until, mask=known, other=0) - tl.sum(ones, 0)
    row = tl.sum(ones * (tl.cumsum(ones, 0) - 1 + (end - padded + here)[None, :]), 1)
    tl.store(place + at, row, mask=at < choices)
    tl.store(choice + row, at, mask=at < choices)


@launched
@triton.jit
def _experts_of_rows_kernel(ends, out, rows, experts, SIZE: tl.constexpr, WIDTH: tl.constexpr):
    row, expert = tl.program_id(0) * SIZE + tl.arange(0, SIZE), tl.arange(0, WIDTH)
    end = tl.load(ends + expert, mask=expert < experts, other=0x7FFFFFFF)
    before = tl.sum((end[None, :] <= row[:, None]).to(tl.int32), 1)
    tl.store(out + row, tl.where(before < experts, before, -1), mask=row < rows)


@launched
@triton.jit
def _permute_kernel(x, choice, total, out, hidden, k, WIDTH: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    if row >= tl.load(total):
        return
    chosen = tl.load(choice + row)
    source = (chosen // k).to(tl.int64)
    for first in range(0, hidden, WIDTH):
        col = first + tl.arange(0, WIDTH)
        value = tl.load(x + source * hidden + col, mask=(col < hidden) & (chosen >= 0), other=0.0)
        tl.store(out + row * hidden + col, value, mask=col < hidden)


@launched
@triton.jit
def _unpermute_kernel(
    y, place, gates, base, stream, out, inverse, eps, hidden,
    K: tl.constexpr, WIDTH: tl.constexpr, GATED: tl.constexpr, BASED: tl.constexpr, ADDED: tl.constexpr,
    NORMED: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    squares = tl.zeros([WIDTH], tl.float32)
    for first in range(0, hidden, WIDTH):
        col = first + tl.arange(0, WIDTH)
        total = tl.zeros([WIDTH], tl.float32)
        if BASED:
            total = tl.load(base + token * hidden + col, mask=col < hidden, other=0.0).to(tl.float32)
        if ADDED:
            total += tl.load(stream + token * hidden + col, mask=col < hidden, other=0.0).to(tl.float32)
        for j in tl.static_range(K):
            source = tl.load(place + token * K + j).to(tl.int64)
            value = tl.load(y + source * hidden + col, mask=col < hidden, other=0.0).to(tl.float32)
            if GATED:
                value *= tl.load(gates + token * K + j).to(tl.float32)
            total += value
        rounded = total.to(out.dtype.element_ty)
        tl.store(out + token * hidden + col, rounded, mask=col < hidden)
        if NORMED:
            squares += rounded.to(tl.float32) * rounded.to(tl.float32)
    if NORMED:
        tl.store(inverse + token, tl.rsqrt(tl.sum(squares, 0) / hidden + eps))
