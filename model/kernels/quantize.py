"""Quantisation to block FP8 (E4M3) in one pass over the input; `model.fp8` is the reference.

A tile's scale is ``amax / 448`` with amax clamped at 1e-4 (DeepSeek-V3 report, section 3.3), or the next power of two.
Values are multiplied by the reciprocal of the scale, so with FP32 scales a byte may differ by one step from division
where the quotient lies within rounding of the middle between two codes. Tiles with an infinity or a NaN decode to NaN
or zero; nothing outside such a tile changes.

``scale`` of tiles has the logical shape [rows, blocks] of the reference and is stored with rows contiguous and the
blocks' stride a multiple of 4, as bulk copies, cuBLASLt and DeepGEMM want it.
"""

# Kernels are typed by Triton at each launch.
# mypy: disable-error-code="untyped-decorator, no-untyped-def"

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.fp8 import BLOCK, Quantized


class Segments(NamedTuple):
    """Rows sorted by expert. ``ends`` int32 [E] is the end of each expert's rows; ``padded`` int32 [E] the same after
    rounding each expert's rows up to 128, the layout of the tokens in transposed tiles."""

    ends: Tensor
    padded: Tensor

    @classmethod
    def of(cls, counts: Tensor) -> Segments:
        """From ``counts`` [E], without waiting for the device."""
        ends = counts.cumsum(0, dtype=torch.int32)
        padded = ((counts + BLOCK - 1) // BLOCK * BLOCK).cumsum(0, dtype=torch.int32)
        return cls(ends, padded)


def quantize_tiles(x: Tensor, *, powers_of_two: bool = False) -> Quantized:
    """1x128 tiles of ``x`` [M, K], BF16 or FP32."""
    rows, _ = _tiles(x, None, None, swiglu=False, transpose=False, powers_of_two=powers_of_two)
    return rows


def quantize_both(
    x: Tensor, segments: Segments | None = None, *, powers_of_two: bool = False
) -> tuple[Quantized, Quantized]:
    """``x`` [M, K] in 1x128 tiles, and in 128x1 tiles stored transposed: [K, P] with scale [K, P / 128].

    The transposed tokens are padded with zeros to a multiple of 128, within each expert where ``segments`` are given; P
    then has room for every distribution of M rows, and what lies beyond ``segments.padded[-1]`` is not written.
    """
    rows, columns = _tiles(x, None, segments, swiglu=False, transpose=True, powers_of_two=powers_of_two)
    assert columns is not None
    return rows, columns


def swiglu_quantize(
    gate_up: Tensor, weights: Tensor | None = None, segments: Segments | None = None, *,
    transpose: bool = False, powers_of_two: bool = False,
) -> tuple[Quantized, Quantized | None]:  # fmt: skip
    """``silu(gate) * up * weights`` of ``gate_up`` [M, 2 I] (gate, then up) and ``weights`` [M], in FP32 until the one
    rounding to FP8: 1x128 tiles [M, I] and, with ``transpose``, 128x1 tiles as in `quantize_both`."""
    return _tiles(gate_up, weights, segments, swiglu=True, transpose=transpose, powers_of_two=powers_of_two)


def quantize_blocks(
    w: Tensor, *, transpose: bool = False, powers_of_two: bool = False
) -> tuple[Quantized, Quantized | None]:
    """128x128 blocks of ``w`` [E, N, K], BF16 or FP32: data [E, N, K], scale [E, ceil(N/128), ceil(K/128)]. With
    ``transpose`` also the same bytes as [E, K, N], which Dgrad contracts over N."""
    experts, n, k = w.shape
    nb, kb = triton.cdiv(n, BLOCK), triton.cdiv(k, BLOCK)
    w = w.contiguous()
    data = torch.empty_like(w, dtype=torch.float8_e4m3fn)
    scale = w.new_empty(experts, nb, kb, dtype=torch.float32)
    turned = data.new_empty(experts, k, n) if transpose else data
    turned_scale = scale.new_empty(experts, kb, nb) if transpose else scale
    _block_kernel[(kb, nb, experts)](
        w, data, scale, turned, turned_scale, n, k, TRANSPOSE=transpose, POWERS=powers_of_two, num_warps=8
    )
    return Quantized(data, scale), Quantized(turned, turned_scale) if transpose else None


def _tiles(
    x: Tensor, weights: Tensor | None, segments: Segments | None, *, swiglu: bool, transpose: bool, powers_of_two: bool
) -> tuple[Quantized, Quantized | None]:
    tokens, width = x.shape[0], x.shape[1] // 2 if swiglu else x.shape[1]
    x = x.contiguous()
    grouped = transpose and segments is not None
    experts = len(segments.ends) if segments is not None and grouped else 1
    blocks = triton.cdiv(tokens, BLOCK) + (experts if grouped else 0)
    rows = _empty(x, tokens, width)
    columns = _empty(x, width, blocks * BLOCK) if transpose else rows
    ends, padded = segments if segments is not None else (rows.scale, rows.scale)
    if tokens:
        _tile_kernel[(triton.cdiv(width, BLOCK), blocks)](
            x, weights if weights is not None else x, ends, padded,
            rows.data, rows.scale, rows.scale.stride(1), columns.data, columns.scale, columns.scale.stride(1),
            tokens, width, blocks * BLOCK, experts,
            EXPERTS=triton.next_power_of_2(experts), GROUPED=grouped, SWIGLU=swiglu, WEIGHTED=weights is not None,
            TRANSPOSE=transpose, POWERS=powers_of_two, num_warps=8,
        )  # fmt: skip
    return rows, columns if transpose else None


def _empty(like: Tensor, rows: int, width: int) -> Quantized:
    data = like.new_empty(rows, width, dtype=torch.float8_e4m3fn)
    scale = like.new_empty(triton.cdiv(width, BLOCK), triton.cdiv(rows, 4) * 4, dtype=torch.float32)
    return Quantized(data, scale.T[:rows])


@triton.jit
def _scale(amax, POWERS: tl.constexpr):
    scale = tl.div_rn(tl.maximum(amax, 1e-4), 448.0)
    if POWERS:
        bits = scale.to(tl.int32, bitcast=True)
        scale = ((bits + 0x7FFFFF) & 0x7F800000).to(tl.float32, bitcast=True)
    return scale, tl.div_rn(1.0, scale)


@triton.jit
def _tile_kernel(
    x, weights, ends, padded, q, q_scale, q_stride, t, t_scale, t_stride, tokens, width, t_width, experts,
    EXPERTS: tl.constexpr, GROUPED: tl.constexpr, SWIGLU: tl.constexpr, WEIGHTED: tl.constexpr,
    TRANSPOSE: tl.constexpr, POWERS: tl.constexpr,
):  # fmt: skip
    """One 128x128 tile; programs of the same 128 rows follow each other."""
    column, block = tl.program_id(0), tl.program_id(1)
    start, end = 0, tokens
    row = block * 128 + tl.arange(0, 128)
    if GROUPED:
        e = tl.arange(0, EXPERTS)
        known = e < experts
        expert = tl.sum((tl.load(padded + e, mask=known, other=2147483647) <= block * 128).to(tl.int32))
        if expert >= experts:
            return
        start = tl.load(ends + expert - 1, mask=expert > 0, other=0)
        end = tl.load(ends + expert)
        row += start - tl.load(padded + expert - 1, mask=expert > 0, other=0)
    col = column * 128 + tl.arange(0, 128)
    inside = (row < end)[:, None] & (col < width)[None, :]
    where = row.to(tl.int64)[:, None] * width + col[None, :]
    if SWIGLU:
        from_row = where + row.to(tl.int64)[:, None] * width
        gate = tl.load(x + from_row, mask=inside, other=0.0).to(tl.float32)
        value = gate / (1.0 + tl.exp(-gate)) * tl.load(x + from_row + width, mask=inside, other=0.0).to(tl.float32)
        if WEIGHTED:
            value *= tl.load(weights + row, mask=row < end, other=0.0).to(tl.float32)[:, None]
    else:
        value = tl.load(x + where, mask=inside, other=0.0).to(tl.float32)
    size = tl.abs(value)

    scale, inverse = _scale(tl.max(size, 1), POWERS)
    tl.store(q + where, (value * inverse[:, None]).to(tl.float8e4nv), mask=inside)
    tl.store(q_scale + column.to(tl.int64) * q_stride + row, scale, mask=row < end)
    if TRANSPOSE:
        scale, inverse = _scale(tl.max(size, 0), POWERS)
        turned = tl.trans((value * inverse[None, :]).to(tl.float8e4nv))
        token = block * 128 + tl.arange(0, 128)
        tl.store(t + col.to(tl.int64)[:, None] * t_width + token[None, :], turned, mask=(col < width)[:, None])
        tl.store(t_scale + block.to(tl.int64) * t_stride + col, scale, mask=col < width)


@triton.jit
def _block_kernel(w, q, q_scale, t, t_scale, n, k, TRANSPOSE: tl.constexpr, POWERS: tl.constexpr):
    """One 128x128 block of one expert."""
    kb, nb, expert = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    row, col = nb * 128 + tl.arange(0, 128), kb * 128 + tl.arange(0, 128)
    inside = (row < n)[:, None] & (col < k)[None, :]
    where = expert * n * k + row.to(tl.int64)[:, None] * k + col[None, :]
    value = tl.load(w + where, mask=inside, other=0.0).to(tl.float32)
    scale, inverse = _scale(tl.max(tl.max(tl.abs(value), 1), 0), POWERS)
    code = (value * inverse).to(tl.float8e4nv)
    kbs, nbs = tl.num_programs(0), tl.num_programs(1)
    tl.store(q + where, code, mask=inside)
    tl.store(q_scale + (expert * nbs + nb) * kbs + kb, scale)
    if TRANSPOSE:
        turned = expert * n * k + col.to(tl.int64)[:, None] * n + row[None, :]
        tl.store(t + turned, tl.trans(code), mask=(col < k)[:, None] & (row < n)[None, :])
        tl.store(t_scale + (expert * kbs + kb) * nbs + nb, scale)
