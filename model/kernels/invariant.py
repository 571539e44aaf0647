"""Matrix products whose every row is the same to the bit whatever else is multiplied with it: plain, batched and
grouped by expert, with BF16 weights or block-FP8 ones.

A row's sum runs along the contraction in one order, in steps of one tensor-core instruction, whatever the size of the
tiles and wherever in a tile the row lies. So an engine that multiplies 5 rows and a trainer that multiplies 50,000 get
the same numbers. `F.linear` and `F.grouped_mm` are the references; they choose among kernels by the number of rows.

With FP8 weights the input comes quantised in 1x128 tiles, each is multiplied by its block, and added in FP32 with both
scales, as the report's section 3.3 has it. (Quantising tiles as they are loaded, once for each tile of the result, took
twice the time of the product.) What is multiplied next is quantised where it is made: a launch of its own for that took
a fifth of a decoding step.

Experts get no sorted rows: each has a list of the entries that chose it, and its tiles read those rows of the input and
write those rows of the output. Entry ``t * choices + j`` is the j-th choice of token t.
"""

# Kernels are typed by Triton at each launch.
# mypy: disable-error-code="untyped-decorator, no-untyped-def"
# ruff: noqa: SIM102, PLR0915 - outer conditions are compile-time ones; Triton's kernels are one function

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.fp8 import BLOCK, Quantized
from model.kernels.launch import launched
from model.kernels.quantize import _scale, empty_tiles, quantize_tiles
from model.kernels.sizes import cdiv, power_of_two


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

    def of(self, steps: int) -> Tiles:
        """With no more stages than there are steps: each takes room that another program could use."""
        return self._replace(stages=min(self.stages, steps))


def linear(x: Tensor | Quantized, w: Weight, out: Tensor | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """``x @ w^T``: x [M, K] or [M, B, K] with w [N, K] or [B, N, K] -> [M, N] or [M, B, N] in ``dtype``, by default x's
    and BF16 for a quantised one. Both x and ``out`` may be views whose last dimension is contiguous."""
    x, sizes = _operand(x, w)
    if out is None:
        kind = dtype or (x.dtype if sizes is None else torch.bfloat16)
        out = x.new_empty(*x.shape[:-1], w.data.shape[-2], dtype=kind)
    _multiply(x, sizes, w, out, None)
    return out


def linear_parts(x: Tensor | Quantized, w: Weight) -> Tensor:
    """``x @ w^T`` of x [M, K] and w [N, K] as parts FP32 [M, P, N] that are still to be added, first to last: those of
    the quarters of K for few rows, which make four times as many programs, and for many rows their sum, alike to the
    bit."""
    x, sizes = _operand(x, w)
    quarters = 4 if w.data.shape[1] % (4 * BLOCK) == 0 else 1
    out = x.new_empty(len(x), quarters if len(x) <= FEW_ROWS else 1, len(w.data), dtype=torch.float32)
    _multiply(x, sizes, w, out, None, quarters)
    return out


def linear_quantized(x: Tensor, w: Weight) -> Quantized:
    """x [M, B, K] times each of w [B, N, K] in BF16, flattened to [M, B N] and quantised, for N in 128s."""
    out = empty_tiles(x, len(x), x.shape[1] * w.data.shape[-2])
    _multiply(x, None, w, out.data.view(len(x), x.shape[1], -1), out.scale)
    return out


def _multiply(
    x: Tensor, sizes: Tensor | None, w: Weight, out: Tensor, out_sizes: Tensor | None, quarters: int = 1
) -> None:
    """With ``quarters`` of K, each is summed by itself, and they are added in order or lie side by side in ``out``."""
    m, (n, k), fp8 = len(x), w.data.shape[-2:], sizes is not None
    split = quarters > 1 and out.shape[1] > 1
    blocks, step = cdiv(k, BLOCK), k // quarters
    if split:
        x, batch, w_batch, w_blocks, k = x.unflatten(1, (quarters, -1)), quarters, step, step // BLOCK, step
    else:
        batch, w_batch, w_blocks = x.shape[1] if x.dim() == 3 else 1, n * k, 0
    depth = _depth(k, fp8, 128 if m <= FEW_ROWS else 64)
    tiles = (_linear_tiles(m, n) if out_sizes is None else _quantized_tiles(m)).of(cdiv(k, depth))
    if m:
        _linear_kernel[(cdiv(n, tiles.cols) * cdiv(m, tiles.rows), batch)](
            x, *_scales(sizes, x), w.data, w.scale if fp8 else x, out, *_scales(out_sizes, x), m, n, k,
            x.stride(0), x.stride(1) if x.dim() == 3 else 0, w.data.stride(-2), w_batch, blocks, w_blocks,
            out.stride(0), out.stride(1) if out.dim() == 3 else 0,
            FP8=fp8, CODES=out_sizes is not None, CUT=0 if split or quarters == 1 else step // depth,
            ROWS=tiles.rows, COLS=tiles.cols, DEPTH=depth, EVEN=k % depth == 0,
            num_warps=tiles.warps, num_stages=tiles.stages,
        )  # fmt: skip


def experts(x: Tensor | Quantized, w: Weight, chosen: Chosen) -> Tensor:
    """Each entry's row times its expert's weight: x [T C, K] by entry, w [E, N, K] -> [T, C, N]."""
    x, sizes = _operand(x, w)
    kind = x.dtype if sizes is None else torch.bfloat16
    out = x.new_empty(*chosen.gates.shape, w.data.shape[1], dtype=kind)
    _multiply_experts(x, sizes, w, chosen, out, None)
    return out


def experts_swiglu(x: Tensor | Quantized, w: Weight, chosen: Chosen) -> Tensor | Quantized:
    """x [T, K] by token times w [E, 2 I, K], gate over up, to ``silu(gate) * up * gates`` [T C, I], which is quantised
    where w is."""
    x, sizes = _operand(x, w)
    entries, width = chosen.gates.numel(), w.data.shape[1] // 2
    if sizes is None:
        plain = x.new_empty(entries, width)
        _multiply_experts(x, None, w, chosen, plain, None)
        return plain
    out = empty_tiles(x, entries, width)
    _multiply_experts(x, sizes, w, chosen, out.data, out.scale)
    return out


def _multiply_experts(
    x: Tensor, sizes: Tensor | None, w: Weight, chosen: Chosen, out: Tensor, out_sizes: Tensor | None
) -> None:
    (tokens, choices), (count, wide, k) = chosen.gates.shape, w.data.shape
    entries, n, fp8 = tokens * choices, out.shape[-1], sizes is not None
    swiglu = wide == 2 * n
    depth = _depth(k, fp8, 64)
    tiles = _expert_tiles(entries // count, swiglu, fp8).of(cdiv(k, depth))
    direct = tokens <= DIRECT_TOKENS and 2 * entries > count
    if entries:
        _experts_kernel[(cdiv(n, tiles.cols), count if direct else entries // tiles.rows + min(entries, count))](
            x, *_scales(sizes, x), w.data, w.scale if fp8 else x, out, *_scales(out_sizes, x),
            chosen.gates, chosen.lists, chosen.counts, tokens, choices, count, n, k,
            FP8=fp8, SWIGLU=swiglu, CODES=out_sizes is not None, DIRECT=direct,
            ROWS=tiles.rows, COLS=tiles.cols, DEPTH=depth, EVEN=k % depth == 0, EXPERTS=power_of_two(count),
            num_warps=tiles.warps, num_stages=tiles.stages,
        )  # fmt: skip


def _operand(x: Tensor | Quantized, w: Weight) -> tuple[Tensor, Tensor | None]:
    """What a kernel multiplies, and with FP8 weights its tiles' scales."""
    if isinstance(x, Tensor) and w.scale is None:
        return x, None
    return quantize_tiles(x) if isinstance(x, Tensor) else x


def _scales(sizes: Tensor | None, other: Tensor) -> tuple[Tensor, int]:
    """Tiles' scales, and how far those of two blocks lie apart."""
    return (other, 0) if sizes is None else (sizes, sizes.stride(1))


def _depth(k: int, fp8: bool, most: int) -> int:
    return BLOCK if fp8 else min(most, power_of_two(k))


FEW_ROWS = 128
DIRECT_TOKENS = 64
"""Up to so many tokens each expert has at most one tile of rows, so that a program knows its expert from the start. Of
a few tokens most experts have none."""


def _linear_tiles(m: int, n: int) -> Tiles:
    """As measured on an H100; below 512 columns there are too few tiles of another size."""
    if m > 1024:
        return Tiles(128, 128, 8, 3)
    if m <= FEW_ROWS or n < 512:
        return Tiles(64, 32, 4, 4)
    return Tiles(128, 64, 4, 4)


def _quantized_tiles(m: int) -> Tiles:
    """Of the 128 columns that share a scale."""
    return Tiles(64, BLOCK, 4, 3) if m <= FEW_ROWS else Tiles(128, BLOCK, 8, 3)


def _expert_tiles(rows: int, swiglu: bool, fp8: bool) -> Tiles:
    """``rows`` an expert, on average."""
    if rows > 128:
        return Tiles(128, 64 if swiglu and not fp8 else 128, 8, 3)
    if swiglu and fp8:
        return Tiles(64, 128, 8, 3 if rows else 5)
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
def _factors(sizes, size_stride, scale_at, row, real, step, steps, FP8: tl.constexpr):
    """The rows' and the block's scales of a step of an FP8 product. They are loaded a step before they are used:
    Triton's pipeline does that for what tensor cores multiply, but not for these, and their latency would be every
    step's."""
    size, block = 0.0, 0.0
    if FP8:
        at = tl.minimum(step, steps - 1)
        size, block = tl.load(sizes + at * size_stride + row, mask=real, other=0.0), tl.load(scale_at + at)
    return size, block


@triton.jit
def _coded(total, sizes, row, real):
    """FP32 rows of 128 columns as FP8 codes still in FP32, their scales stored at ``sizes + row``."""
    size, inverse = _scale(tl.max(tl.abs(total), 1), False)
    tl.store(sizes + row, size, mask=real)
    return total * inverse[:, None]


@launched
@triton.jit
def _linear_kernel(
    x, sizes, size_stride, w, scale, out, out_sizes, out_size_stride, m, n, k, x_row, x_batch, w_row, w_batch,
    scale_row, scale_batch, out_row, out_batch,
    FP8: tl.constexpr, CODES: tl.constexpr, CUT: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
    DEPTH: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    # Tiles of 8 x ROWS rows follow each other, column by column: they read the same weights, which L2 still holds.
    batch = tl.program_id(1).to(tl.int64)
    wide, high = tl.cdiv(n, COLS), tl.cdiv(m, ROWS)
    above = tl.program_id(0) // (8 * wide) * 8
    within, rows = tl.program_id(0) % (8 * wide), tl.minimum(high - above, 8)
    tile = within // rows
    row = (above + within % rows) * ROWS + tl.arange(0, ROWS)
    col = tile * COLS + tl.arange(0, COLS)
    along = tl.arange(0, DEPTH)
    a_at = x + batch * x_batch + row.to(tl.int64)[:, None] * x_row + along[None, :]
    real = (row < m)[:, None]
    b_at = w + batch * w_batch + tl.minimum(col, n - 1).to(tl.int64)[:, None] * w_row + along[None, :]
    steps = tl.cdiv(k, DEPTH)
    scale_at = scale + batch * scale_batch + tile * COLS // 128 * scale_row
    sizes += batch * scale_batch * size_stride
    size, block = _factors(sizes, size_stride, scale_at, row, row < m, 0, steps, FP8)
    total = tl.zeros([ROWS, COLS], tl.float32)
    whole = total
    for step in range(0, steps):
        if EVEN:
            a = tl.load(a_at, mask=real, other=0.0)
            b = tl.load(b_at)
        else:
            inside = (along < k - step * DEPTH)[None, :]
            a = tl.load(a_at, mask=real & inside, other=0.0)
            b = tl.load(b_at, mask=inside, other=0.0)
        next_size, next_block = _factors(sizes, size_stride, scale_at, row, row < m, step + 1, steps, FP8)
        total = _times(a, b, size, block, total, FP8)
        size, block = next_size, next_block
        a_at += DEPTH
        b_at += DEPTH
        if CUT > 0:
            if step % CUT == CUT - 1:
                whole += total
                total = tl.zeros([ROWS, COLS], tl.float32)
    if CUT > 0:
        total = whole
    if CODES:
        where = out_sizes + (batch * (n // 128) + tile) * out_size_stride
        total = _coded(total, where, row, row < m)
    where = out + batch * out_batch + row.to(tl.int64)[:, None] * out_row + col[None, :]
    tl.store(where, total.to(out.dtype.element_ty), mask=real & (col < n)[None, :])


@launched
@triton.jit
def _experts_kernel(
    x, sizes, size_stride, w, scale, out, out_sizes, out_size_stride, gates, lists, counts, tokens, choices, experts,
    n, k,
    FP8: tl.constexpr, SWIGLU: tl.constexpr, CODES: tl.constexpr, DIRECT: tl.constexpr, ROWS: tl.constexpr,
    COLS: tl.constexpr, DEPTH: tl.constexpr, EVEN: tl.constexpr, EXPERTS: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(1)
    col = tl.program_id(0) * COLS + tl.arange(0, COLS)
    wide = 2 * n if SWIGLU else n
    if DIRECT:
        expert = tile
        first = 0
        filled = tl.load(counts + expert)
        if filled == 0:
            return
    else:
        each = tl.arange(0, EXPERTS)
        counted = tl.load(counts + each, mask=each < experts, other=0)
        tiles = (counted + ROWS - 1) // ROWS
        expert = tl.sum((tl.cumsum(tiles) <= tile).to(tl.int32))
        if expert >= experts:
            return
        first = (tile - tl.sum(tl.where(each < expert, tiles, 0))) * ROWS
        filled = tl.sum(tl.where(each == expert, counted, 0))
    member = first + tl.arange(0, ROWS)
    real = member < filled
    expert = expert.to(tl.int64)
    entry = tl.load(lists + expert * tokens + member, mask=real, other=0).to(tl.int64)
    along = tl.arange(0, DEPTH)
    source = entry // choices if SWIGLU else entry
    a_at = x + source[:, None] * k + along[None, :]
    b_at = w + (expert * wide + tl.minimum(col, n - 1))[:, None] * k + along[None, :]
    steps = tl.cdiv(k, DEPTH)
    scale_at = scale + (expert * tl.cdiv(wide, 128) + tl.program_id(0) * COLS // 128) * steps
    up_scale_at = scale_at + n // 128 * steps
    size, block = _factors(sizes, size_stride, scale_at, source, real, 0, steps, FP8)
    up_block = tl.load(up_scale_at) if FP8 and SWIGLU else block
    total = tl.zeros([ROWS, COLS], tl.float32)
    other = tl.zeros([ROWS, COLS], tl.float32)
    for step in range(0, steps):
        inside = (along < k - step * DEPTH)[None, :]
        # Absent rows are not read: hundreds of programs reading one row in their stead were twice as slow.
        a = tl.load(a_at, mask=real[:, None] if EVEN else real[:, None] & inside, other=0.0)
        b = tl.load(b_at) if EVEN else tl.load(b_at, mask=inside, other=0.0)
        next_size, next_block = _factors(sizes, size_stride, scale_at, source, real, step + 1, steps, FP8)
        total = _times(a, b, size, block, total, FP8)
        if SWIGLU:
            up_at = b_at + n.to(tl.int64) * k
            b = tl.load(up_at) if EVEN else tl.load(up_at, mask=inside, other=0.0)
            next_up_block = tl.load(up_scale_at + tl.minimum(step + 1, steps - 1)) if FP8 else 0.0
            other = _times(a, b, size, up_block, other, FP8)
            up_block = next_up_block
        size, block = next_size, next_block
        a_at += DEPTH
        b_at += DEPTH
    if SWIGLU:
        gate = tl.load(gates + entry, mask=real, other=0.0)
        total = total / (1.0 + tl.exp(-total)) * other * gate[:, None]
    if CODES:
        total = _coded(total, out_sizes + tl.program_id(0).to(tl.int64) * out_size_stride, entry, real)
    where = out + entry[:, None] * n + col[None, :]
    tl.store(where, total.to(out.dtype.element_ty), mask=real[:, None] & (col < n)[None, :])
