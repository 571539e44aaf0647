"""Matrix products whose every row is the same to the bit whatever else is multiplied with it: plain, batched and
grouped by expert, with BF16 weights or block-FP8 ones.

A row's sum runs along the contraction in one order, in steps of one tensor-core instruction, whatever the size of the
tiles and wherever in a tile the row lies. So an engine that multiplies 5 rows and a trainer that multiplies 50,000 get
the same numbers. `F.linear` and `F.grouped_mm` are the references; they choose among kernels by the number of rows.

With FP8 weights the input is quantised in 1x128 tiles, each is multiplied by its block, and added in FP32 with both
scales, as the report's section 3.3 has it. (Quantising tiles as they are loaded, once for each tile of the result, took
twice the time of the product.)

Experts get no sorted rows: each has a list of the entries that chose it, and its tiles read those rows of the input and
write those rows of the output. Entry ``t * choices + j`` is the j-th choice of token t.
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
from model.kernels.quantize import quantize_tiles


class Weight(NamedTuple):
    """``data`` [..., N, K] in the compute dtype, or float8_e4m3fn with FP32 ``scale`` [..., ceil(N/128),
    ceil(K/128)]."""

    data: Tensor
    scale: Tensor | None = None


class Chosen(NamedTuple):
    """Where T tokens go. ``gates`` FP32 [T, C]; ``lists`` int32 [E, T] holds each expert's entries in any order,
    ``counts`` int32 [E] how many there are. The shared experts are the last ones, with a gate of 1."""

    gates: Tensor
    lists: Tensor
    counts: Tensor


class Tiles(NamedTuple):
    """Rows and columns of a tile, and what Triton is to do with it. None of it moves a bit of the result."""

    rows: int
    cols: int
    warps: int
    stages: int


def linear(x: Tensor, w: Weight, out: Tensor | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """``x @ w^T``: x [M, K] or [M, B, K] with w [N, K] or [B, N, K] -> [M, N] or [M, B, N]. Both x and ``out`` may be
    views whose last dimension is contiguous."""
    batched = x.dim() == 3
    m, k, n = x.shape[0], x.shape[-1], w.data.shape[-2]
    if out is None:
        out = x.new_empty(*x.shape[:-1], n, dtype=dtype or x.dtype)
    fp8, (x, sizes, stride) = w.scale is not None, _quantized(x, w)
    tiles = _linear_tiles(m, n)
    depth = _depth(k, fp8, 128 if m <= 128 else 64)
    if m:
        _linear_kernel[(triton.cdiv(n, tiles.cols), triton.cdiv(m, tiles.rows), x.shape[1] if batched else 1)](
            x, sizes, stride, w.data, w.scale if fp8 else x, out, m, n, k,
            x.stride(0), x.stride(1) if batched else 0, out.stride(0), out.stride(1) if batched else 0,
            FP8=fp8, ROWS=tiles.rows, COLS=tiles.cols, DEPTH=depth, EVEN=k % depth == 0,
            num_warps=tiles.warps, num_stages=tiles.stages,
        )  # fmt: skip
    return out


def experts(x: Tensor, w: Weight, chosen: Chosen, *, swiglu: bool) -> Tensor:
    """Each entry's row times its expert's weight. With ``swiglu`` x is [T, K] by token, w [E, 2 I, K] gate over up, and
    the result ``silu(gate) * up * gates`` [T, C, I]; without, x is [T, C, K] by entry, w [E, N, K] -> [T, C, N]."""
    (tokens, choices), (count, wide, k) = chosen.gates.shape, w.data.shape
    n = wide // 2 if swiglu else wide
    out = x.new_empty(tokens, choices, n)
    fp8, (x, sizes, stride) = w.scale is not None, _quantized(x, w)
    tiles, depth = _expert_tiles(tokens * choices // count, swiglu), _depth(k, fp8, 64)
    entries = tokens * choices
    if entries:
        _experts_kernel[(triton.cdiv(n, tiles.cols), min(entries, entries // tiles.rows + count))](
            x, sizes, stride, w.data, w.scale if fp8 else x, out, chosen.gates, chosen.lists, chosen.counts,
            tokens, choices, count, n, k,
            FP8=fp8, SWIGLU=swiglu, ROWS=tiles.rows, COLS=tiles.cols, DEPTH=depth, EVEN=k % depth == 0,
            EXPERTS=triton.next_power_of_2(count), num_warps=tiles.warps, num_stages=tiles.stages,
        )  # fmt: skip
    return out


def _quantized(x: Tensor, w: Weight) -> tuple[Tensor, Tensor, int]:
    """What a kernel multiplies: x or its FP8 codes, their scales, and how far the scales of two blocks lie apart."""
    if w.scale is None:
        return x, x, 0
    codes, scale = quantize_tiles(x.flatten(0, -2))
    return codes, scale, scale.stride(1)


def _depth(k: int, fp8: bool, most: int) -> int:
    return BLOCK if fp8 else int(min(most, triton.next_power_of_2(k)))


def _linear_tiles(m: int, n: int) -> Tiles:
    """As measured on an H100; below 512 columns there are too few tiles of another size."""
    if m > 1024:
        return Tiles(128, 128, 8, 3)
    if m <= 128 or n < 512:
        return Tiles(64, 32, 4, 4)
    return Tiles(128, 64, 4, 4)


def _expert_tiles(rows: int, swiglu: bool) -> Tiles:
    """``rows`` an expert, on average."""
    if rows > 128:
        return Tiles(128, 64 if swiglu else 128, 8, 3)
    return Tiles(64, 64 if swiglu else 128, 4, 4 if swiglu else 3)


@triton.jit
def _times(a, b, sizes, scale, total, FP8: tl.constexpr):
    """``total + a @ b^T``, each row of a FP8 product times its size and the block's scale."""
    if FP8:
        total += tl.dot(a, tl.trans(b)) * (sizes * scale)[:, None]
    else:
        total = tl.dot(a, tl.trans(b), total, input_precision="ieee")
    return total


@triton.jit
def _linear_kernel(
    x, sizes, size_stride, w, scale, out, m, n, k, x_row, x_batch, out_row, out_batch,
    FP8: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, DEPTH: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(2).to(tl.int64)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    col = tl.program_id(0) * COLS + tl.arange(0, COLS)
    along = tl.arange(0, DEPTH)
    a_at = x + batch * x_batch + row.to(tl.int64)[:, None] * x_row + along[None, :]
    real = (row < m)[:, None]
    b_at = w + batch * n * k + tl.minimum(col, n - 1).to(tl.int64)[:, None] * k + along[None, :]
    blocks = tl.cdiv(k, 128)
    scale_at = scale + (batch * tl.cdiv(n, 128) + tl.program_id(0) * COLS // 128) * blocks
    total = tl.zeros([ROWS, COLS], tl.float32)
    for step in range(0, tl.cdiv(k, DEPTH)):
        if EVEN:
            a = tl.load(a_at, mask=real, other=0.0)
            b = tl.load(b_at)
        else:
            inside = (along < k - step * DEPTH)[None, :]
            a = tl.load(a_at, mask=real & inside, other=0.0)
            b = tl.load(b_at, mask=inside, other=0.0)
        size = tl.load(sizes + step * size_stride + row, mask=row < m, other=0.0) if FP8 else 0.0
        total = _times(a, b, size, tl.load(scale_at + step) if FP8 else 0.0, total, FP8)
        a_at += DEPTH
        b_at += DEPTH
    where = out + batch * out_batch + row.to(tl.int64)[:, None] * out_row + col[None, :]
    tl.store(where, total.to(out.dtype.element_ty), mask=real & (col < n)[None, :])


@triton.jit
def _experts_kernel(
    x, sizes, size_stride, w, scale, out, gates, lists, counts, tokens, choices, experts, n, k,
    FP8: tl.constexpr, SWIGLU: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, DEPTH: tl.constexpr,
    EVEN: tl.constexpr, EXPERTS: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(1)
    each = tl.arange(0, EXPERTS)
    filled = tl.load(counts + each, mask=each < experts, other=0)
    tiles = (filled + ROWS - 1) // ROWS
    expert = tl.sum((tl.cumsum(tiles) <= tile).to(tl.int32))
    if expert >= experts:
        return
    first = (tile - tl.sum(tl.where(each < expert, tiles, 0))) * ROWS
    member = first + tl.arange(0, ROWS)
    real = member < tl.sum(tl.where(each == expert, filled, 0))
    expert = expert.to(tl.int64)
    entry = tl.load(lists + expert * tokens + member, mask=real, other=0).to(tl.int64)
    col = tl.program_id(0) * COLS + tl.arange(0, COLS)
    along = tl.arange(0, DEPTH)
    source = entry // choices if SWIGLU else entry
    wide = 2 * n if SWIGLU else n
    a_at = x + source[:, None] * k + along[None, :]
    b_at = w + (expert * wide + tl.minimum(col, n - 1))[:, None] * k + along[None, :]
    blocks = tl.cdiv(k, 128)
    scale_at = scale + (expert * tl.cdiv(wide, 128) + tl.program_id(0) * COLS // 128) * blocks
    total = tl.zeros([ROWS, COLS], tl.float32)
    other = tl.zeros([ROWS, COLS], tl.float32)
    for step in range(0, tl.cdiv(k, DEPTH)):
        inside = (along < k - step * DEPTH)[None, :]
        # Absent rows are not read: hundreds of programs reading one row in their stead were twice as slow.
        a = tl.load(a_at, mask=real[:, None] if EVEN else real[:, None] & inside, other=0.0)
        b = tl.load(b_at) if EVEN else tl.load(b_at, mask=inside, other=0.0)
        size = tl.load(sizes + step * size_stride + source, mask=real, other=0.0) if FP8 else 0.0
        total = _times(a, b, size, tl.load(scale_at + step) if FP8 else 0.0, total, FP8)
        if SWIGLU:
            up_at = b_at + n.to(tl.int64) * k
            b = tl.load(up_at) if EVEN else tl.load(up_at, mask=inside, other=0.0)
            other = _times(a, b, size, tl.load(scale_at + n // 128 * blocks + step) if FP8 else 0.0, other, FP8)
        a_at += DEPTH
        b_at += DEPTH
    if SWIGLU:
        gate = tl.load(gates + entry, mask=real, other=0.0)
        total = total / (1.0 + tl.exp(-total)) * other * gate[:, None]
    where = out + entry[:, None] * n + col[None, :]
    tl.store(where, total.to(out.dtype.element_ty), mask=real[:, None] & (col < n)[None, :])
