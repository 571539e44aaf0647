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
# ruff: noqa: SIM102 - the outer condition is a compile-time one

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.fp8 import BLOCK, Quantized
from model.kernels.launch import launched
from model.kernels.rows import Places
from model.kernels.sizes import cdiv

RECIPROCAL = tl.constexpr(1 / 448)


def quantize_tiles(x: Tensor, *, powers_of_two: bool = False) -> Quantized:
    """1x128 tiles of ``x`` [M, K], BF16 or FP32."""
    rows, _ = _tiles(x, transpose=False, powers_of_two=powers_of_two)
    return rows


def quantize_both(x: Tensor, *, powers_of_two: bool = False) -> tuple[Quantized, Quantized]:
    """``x`` [M, K] in 1x128 tiles, and in 128x1 tiles stored transposed: [K, P] with scale [K, P / 128], P being M
    rounded up to 128 with zeros."""
    rows, columns = _tiles(x, powers_of_two=powers_of_two)
    assert columns is not None
    return rows, columns


def quantize_normed(x: Tensor, inverse: Tensor, weight: Tensor) -> tuple[Quantized, Quantized]:
    """`quantize_both` of ``x`` [M, K], whose rows may be parts of longer ones, times ``inverse`` FP32 [M] and
    ``weight`` [K], which is rounded to x's dtype, in one rounding."""
    rows, columns = _tiles(x, norm=(inverse, weight))
    assert columns is not None
    return rows, columns


def quantize_placed(x: Tensor, rows: Quantized, places: Places) -> tuple[Quantized, Quantized]:
    """`quantize_both` of the rows of ``x`` [T, H] in their places. ``rows`` are x's own 1x128 tiles, whose scales are
    copied there. One column of tiles comes after another: of x that much stays in the L2 cache until each token's last
    expert has read it."""
    width, blocks = x.shape[1], places.choice.shape[0] // BLOCK
    placed, turned = empty_tiles(x, blocks * BLOCK, width), empty_tiles(x, width, blocks * BLOCK)
    if blocks:
        _placed_kernel[(blocks, cdiv(width, BLOCK))](
            x.contiguous(), rows.scale, rows.scale.stride(1), places.choice, places.ends[-1:],
            placed.data, placed.scale, placed.scale.stride(1), _in_words(turned), turned.scale, turned.scale.stride(1),
            width, blocks * BLOCK, K=places.place.shape[1], num_warps=4,
        )  # fmt: skip
    return placed, turned


def swiglu_quantize(
    gate_up: Tensor, gates: Tensor | None = None, places: Places | None = None, *, powers_of_two: bool = False
) -> tuple[Quantized, Quantized]:
    """``silu(gate) * up`` of ``gate_up`` [M, 2 I] (gate, then up), with ``places`` times the choice's gate of ``gates``
    [T, K], in FP32 until the one rounding to FP8: 1x128 tiles [M, I] and 128x1 tiles as in `quantize_both`."""
    rows, columns = _tiles(gate_up, gates, places, swiglu=True, powers_of_two=powers_of_two)
    assert columns is not None
    return rows, columns


class Weights(NamedTuple):
    """``rows`` [E, N, K] as Fprop multiplies it and ``turned`` [E, K, N] as Dgrad does."""

    rows: Quantized
    turned: Quantized


class SwiGLUGrads(NamedTuple):
    """``d_rows`` and ``d_columns``: the gradient of gate and up, [M, 2 I] in 1x128 tiles and [2 I, P] in 128x1 tiles.
    ``d_gates`` FP32 [M]: the gradient of a row's gate."""

    d_rows: Quantized
    d_columns: Quantized
    d_gates: Tensor | None


def swiglu_backward(gate_up: Tensor, dh: Tensor, gates: Tensor | None, places: Places | None) -> SwiGLUGrads:
    """The gradient of `swiglu_quantize` for ``dh`` [M, I] in one pass over both. I must be a multiple of 128."""
    rows, width = dh.shape
    blocks = cdiv(rows, BLOCK)
    d_rows, d_columns = empty_tiles(dh, rows, 2 * width), empty_tiles(dh, 2 * width, blocks * BLOCK)
    parts = dh.new_empty(width // BLOCK, rows, dtype=torch.float32) if places is not None else None
    choice, ends = (places.choice, places.ends[-1:]) if places is not None else (d_rows.scale, d_rows.scale)
    _swiglu_backward_kernel[(2 * width // BLOCK, blocks)](
        gate_up, dh, gates if gates is not None else dh, choice, ends,
        d_rows.data, d_rows.scale, d_rows.scale.stride(1),
        _in_words(d_columns), d_columns.scale, d_columns.scale.stride(1),
        parts if parts is not None else d_rows.scale, rows, width, blocks * BLOCK,
        PLACED=places is not None, num_warps=8,
    )  # fmt: skip
    return SwiGLUGrads(d_rows, d_columns, None if parts is None else parts.sum(0))


def quantize_blocks(
    w: Tensor, *, transpose: bool = False, powers_of_two: bool = False, out: Quantized | None = None
) -> tuple[Quantized, Quantized | None]:
    """128x128 blocks of ``w`` [E, N, K], BF16 or FP32: data [E, N, K], scale [E, ceil(N/128), ceil(K/128)], stored with
    the blocks of K filled up to a multiple of 4 as cuBLASLt wants it, or as in ``out``. With ``transpose``, for N in
    4s, also the same bytes as [E, K, N], which Dgrad contracts over N."""
    experts, n, k = w.shape
    nb, kb = cdiv(n, BLOCK), cdiv(k, BLOCK)
    w = w.contiguous()
    data, scale = out or (torch.empty_like(w, dtype=torch.float8_e4m3fn), _empty_scale(w, nb, kb))
    turned = data.new_empty(experts, k, n) if transpose else data
    turned_scale = _empty_scale(w, kb, nb) if transpose else scale
    _block_kernel[(kb, nb, experts)](
        w, data, scale, scale.stride(1), turned.view(torch.uint32) if transpose else turned, turned_scale,
        turned_scale.stride(1), n, k,
        TRANSPOSE=transpose, POWERS=powers_of_two, num_warps=4,
    )  # fmt: skip
    return Quantized(data, scale), Quantized(turned, turned_scale) if transpose else None


def _empty_scale(w: Tensor, nb: int, kb: int) -> Tensor:
    return w.new_zeros(len(w), nb, cdiv(kb, 4) * 4, dtype=torch.float32)[..., :kb]


def _tiles(
    x: Tensor, gates: Tensor | None = None, places: Places | None = None, norm: tuple[Tensor, Tensor] | None = None, *,
    swiglu: bool = False, transpose: bool = True, powers_of_two: bool = False,
) -> tuple[Quantized, Quantized | None]:  # fmt: skip
    x = x if x.stride(1) == 1 else x.contiguous()
    width = x.shape[1] // 2 if swiglu else x.shape[1]
    tokens = (x if places is None else places.choice).shape[0]
    blocks = cdiv(tokens, BLOCK)
    rows = empty_tiles(x, tokens, width)
    columns = empty_tiles(x, width, blocks * BLOCK) if transpose else rows
    choice, total = (rows.scale, rows.scale) if places is None else (places.choice, places.ends[-1:])
    inverse, weight = norm or (rows.scale, rows.scale)
    if tokens:
        _tile_kernel[(cdiv(width, BLOCK), blocks)](
            x, x.stride(0), gates if gates is not None else x, choice, total, inverse, weight,
            rows.data, rows.scale, rows.scale.stride(1), _in_words(columns), columns.scale, columns.scale.stride(1),
            tokens, width, blocks * BLOCK, PLACED=places is not None, SWIGLU=swiglu, NORMED=norm is not None,
            TRANSPOSE=transpose, POWERS=powers_of_two,
            num_warps=4 if transpose else 8,
        )  # fmt: skip
    return rows, columns if transpose else None


def _in_words(q: Quantized) -> Tensor:
    """Four codes a number, as transposed tiles are written; others are left as they are."""
    return q.data.view(torch.uint32) if q.data.shape[1] % 4 == 0 else q.data


def empty_tiles(like: Tensor, rows: int, width: int) -> Quantized:
    """Room for 1x128 tiles of [rows, width]."""
    data = like.new_empty(rows, width, dtype=torch.float8_e4m3fn)
    line, blocks = cdiv(rows, 4) * 4, cdiv(width, BLOCK)
    scale = like.new_empty_strided((line, blocks), (1, line), dtype=torch.float32)
    return Quantized(data, scale if line == rows else scale[:rows])


@triton.jit
def _scale(amax, POWERS: tl.constexpr):
    """The scale of a tile and its reciprocal. A division by a constant whose remainder is added is exact, and so is a
    reciprocal after one step of Newton's but for its last digit: a fifth of the instructions of divisions."""
    amax = tl.maximum(amax, 1e-4)
    scale = amax * RECIPROCAL
    scale = tl.fma(tl.fma(-448.0, scale, amax), RECIPROCAL, scale)
    if POWERS:
        bits = scale.to(tl.int32, bitcast=True)
        scale = ((bits + 0x7FFFFF) & 0x7F800000).to(tl.float32, bitcast=True)
    return scale, _inverse(scale)


@triton.jit
def _inverse(scale):
    root = tl.rsqrt(scale)
    inverse = root * root
    return tl.fma(tl.fma(-scale, inverse, 1.0), inverse, inverse)


@triton.jit
def _largest(a, b, c, d):
    """Of four 32x128 quarters of a tile, the largest size in each column."""
    return tl.max(tl.maximum(tl.maximum(tl.abs(a), tl.abs(b)), tl.maximum(tl.abs(c), tl.abs(d))), 0)


@triton.jit
def _words(a, b, c, d, inverse):
    """The codes of tokens 4 i to 4 i + 3, quarter by quarter, as one number [32, 128]; transposing these is four times
    as fast as transposing bytes."""
    return _pair(a * inverse, b * inverse) | _pair(c * inverse, d * inverse) << 16


@triton.jit
def _pair(a, b):
    """Two codes in one number: the GPU rounds neighbours in one instruction, which leaves them so."""
    low, high = tl.split(tl.join(a, b).to(tl.float8e4nv).to(tl.uint8, bitcast=True))
    return (low.to(tl.uint16) | high.to(tl.uint16) << 8).to(tl.uint32)


@triton.jit
def _store_turned(t, t_scale, t_stride, t_width, a, b, c, d, block, line, mask, POWERS: tl.constexpr):
    """A 128x128 tile in 128x1 tiles, transposed, to the lines ``line`` of ``t``, which counts in words of 4 codes."""
    scale, inverse = _scale(_largest(a, b, c, d), POWERS)
    turned = tl.trans(_words(a, b, c, d, inverse[None, :]))
    at = line.to(tl.int64)[:, None] * (t_width // 4) + (block * 32 + tl.arange(0, 32))[None, :]
    tl.store(t + at, turned, mask=mask[:, None], eviction_policy="evict_first")  # read later, or too large to stay
    tl.store(t_scale + block.to(tl.int64) * t_stride + line, scale, mask=mask)


@triton.jit
def _store_rows(q, q_scale, width, a, b, c, d, block, rows, col, inside, POWERS: tl.constexpr):
    """A tile, given as four quarters of every fourth row, in 1x128 tiles."""
    row = block * 128 + 4 * tl.arange(0, 32)
    first = _store_quarter(q, width, a, row, rows, col, inside, POWERS)
    second = _store_quarter(q, width, b, row + 1, rows, col, inside, POWERS)
    third = _store_quarter(q, width, c, row + 2, rows, col, inside, POWERS)
    fourth = _store_quarter(q, width, d, row + 3, rows, col, inside, POWERS)
    _store_lines(q_scale, first, second, third, fourth, block, rows)


@triton.jit
def _store_lines(pointer, first, second, third, fourth, block, rows):
    """A number a row, of four quarters of every fourth row."""
    row = block * 128 + tl.arange(0, 128)
    value = tl.reshape(tl.join(tl.join(first, third), tl.join(second, fourth)), [128])
    tl.store(pointer + row, value, mask=row < rows)


@triton.jit
def _store_quarter(q, width, value, row, rows, col, inside, POWERS: tl.constexpr):
    scale, inverse = _scale(tl.max(tl.abs(value), 1), POWERS)
    code = (value * inverse[:, None]).to(tl.float8e4nv)
    tl.store(q + row.to(tl.int64)[:, None] * width + col[None, :], code, mask=(row < rows)[:, None] & inside[None, :])
    return scale


@triton.jit
def _sigmoid(x):
    """To 2^-21: exponential and inverse root are one instruction each, a division is nine."""
    root = tl.rsqrt(1.0 + tl.exp2(x * -1.4426950408889634))
    return root * root


@triton.jit
def _summed(x, width, i, mask, PARTS: tl.constexpr):
    """Places ``i`` of PARTS rows of ``width``, added in FP32 from the first to the last."""
    value = tl.load(x + i, mask=mask, other=0.0).to(tl.float32)
    for part in tl.static_range(1, PARTS):
        value += tl.load(x + part * width + i, mask=mask, other=0.0).to(tl.float32)
    return value


@triton.jit
def _tiles_of(value, codes, sizes, size_stride, width, WIDTH: tl.constexpr, TILE: tl.constexpr):
    """One row of ``width`` numbers, padded with zeros to WIDTH, in 1x128 tiles."""
    tiles = tl.reshape(value, [WIDTH // TILE, TILE])
    size, inverse = _scale(tl.max(tl.abs(tiles), 1), False)
    tile = tl.arange(0, WIDTH // TILE)
    i = tile[:, None] * TILE + tl.arange(0, TILE)[None, :]
    tl.store(codes + i, (tiles * inverse[:, None]).to(codes.dtype.element_ty), mask=i < width)
    tl.store(sizes + tile * size_stride, size, mask=tile * TILE < width)


@triton.jit
def _value(
    x, line, gates, choice, inverse, weight, row, col, rows, width,
    PLACED: tl.constexpr, SWIGLU: tl.constexpr, NORMED: tl.constexpr,
):  # fmt: skip
    """What is quantised at these rows and columns, FP32; zero where nothing is."""
    filled = row < rows
    if PLACED:
        chosen = tl.load(choice + row)
        filled = chosen >= 0
    inside = filled[:, None] & (col < width)[None, :]
    where = row.to(tl.int64)[:, None] * line + col[None, :]
    if SWIGLU:
        gate = tl.load(x + where, mask=inside, other=0.0).to(tl.float32)
        value = gate * _sigmoid(gate) * tl.load(x + where + width, mask=inside, other=0.0).to(tl.float32)
        if PLACED:
            value *= tl.load(gates + chosen, mask=filled, other=0.0).to(tl.float32)[:, None]
    else:
        value = tl.load(x + where, mask=inside, other=0.0).to(tl.float32)
    if NORMED:
        value *= tl.load(inverse + row, mask=filled, other=0.0)[:, None]
        value *= tl.load(weight + col, mask=col < width, other=0.0).to(x.dtype.element_ty).to(tl.float32)[None, :]
    return value


@launched
@triton.jit
def _tile_kernel(
    x, line, gates, choice, total, inverse, weight, q, q_scale, q_stride, t, t_scale, t_stride, tokens, width, t_width,
    PLACED: tl.constexpr, SWIGLU: tl.constexpr, NORMED: tl.constexpr, TRANSPOSE: tl.constexpr, POWERS: tl.constexpr,
):  # fmt: skip
    """One 128x128 tile, as four quarters of every fourth row; programs of the same 128 rows follow each other."""
    column, block = tl.program_id(0), tl.program_id(1)
    if PLACED:
        if block * 128 >= tl.load(total):
            return
    row = block * 128 + 4 * tl.arange(0, 32)
    col = column * 128 + tl.arange(0, 128)
    a = _value(x, line, gates, choice, inverse, weight, row, col, tokens, width, PLACED, SWIGLU, NORMED)
    b = _value(x, line, gates, choice, inverse, weight, row + 1, col, tokens, width, PLACED, SWIGLU, NORMED)
    c = _value(x, line, gates, choice, inverse, weight, row + 2, col, tokens, width, PLACED, SWIGLU, NORMED)
    d = _value(x, line, gates, choice, inverse, weight, row + 3, col, tokens, width, PLACED, SWIGLU, NORMED)
    inside = col < width
    q_scale += column.to(tl.int64) * q_stride
    _store_rows(q, q_scale, width, a, b, c, d, block, tokens, col, inside, POWERS)
    if TRANSPOSE:
        _store_turned(t, t_scale, t_stride, t_width, a, b, c, d, block, col, inside, POWERS)


@triton.jit
def _of_token(x, sizes, choice, row, col, width, K: tl.constexpr):
    """What is quantised in these places and columns, ``x`` of their tokens, FP32, and the scales of its 1x128 tiles;
    zero and one where nothing is."""
    chosen = tl.load(choice + row)
    token, known = chosen // K, chosen >= 0
    where = token.to(tl.int64)[:, None] * width + col[None, :]
    value = tl.load(x + where, mask=known[:, None] & (col < width)[None, :], other=0.0)
    return value.to(tl.float32), tl.load(sizes + token, mask=known, other=1.0)


@triton.jit
def _place_quarter(q, q_scale, value, scale, row, col, width):
    code = (value * _inverse(scale)[:, None]).to(tl.float8e4nv)
    where = row.to(tl.int64)[:, None] * width + col[None, :]
    tl.store(q + where, code, mask=(col < width)[None, :], eviction_policy="evict_first")  # the cache is to keep x
    tl.store(q_scale + row, scale)


@launched
@triton.jit
def _placed_kernel(
    x, sizes, size_stride, choice, total, q, q_scale, q_stride, t, t_scale, t_stride, width, t_width,
    K: tl.constexpr,
):  # fmt: skip
    """One 128x128 tile. To round x again for its rows takes less time than to fetch the codes, which the cache would
    have to hand out as often as x."""
    block, column = tl.program_id(0), tl.program_id(1)
    if block * 128 >= tl.load(total):
        return
    row, col = block * 128 + 4 * tl.arange(0, 32), column * 128 + tl.arange(0, 128)
    sizes += column.to(tl.int64) * size_stride
    q_scale += column.to(tl.int64) * q_stride
    a, a_scale = _of_token(x, sizes, choice, row, col, width, K)
    b, b_scale = _of_token(x, sizes, choice, row + 1, col, width, K)
    c, c_scale = _of_token(x, sizes, choice, row + 2, col, width, K)
    d, d_scale = _of_token(x, sizes, choice, row + 3, col, width, K)
    _place_quarter(q, q_scale, a, a_scale, row, col, width)
    _place_quarter(q, q_scale, b, b_scale, row + 1, col, width)
    _place_quarter(q, q_scale, c, c_scale, row + 2, col, width)
    _place_quarter(q, q_scale, d, d_scale, row + 3, col, width)
    _store_turned(t, t_scale, t_stride, t_width, a, b, c, d, block, col, col < width, False)


@triton.jit
def _of_rows(x, row, rows, PLACED: tl.constexpr):
    """FP32. Rows that fill up an expert's come of rows of zeros; they are read like all others."""
    if PLACED:
        return tl.load(x).to(tl.float32)
    return tl.load(x, mask=(row < rows)[:, None], other=0.0).to(tl.float32)


@triton.jit
def _swiglu_gradient(gate_up, dh, gates, choice, first, k, col, rows, width, UP: tl.constexpr, PLACED: tl.constexpr):
    """At rows ``first`` + ``k`` and these columns the gradient of up, or that of gate and the sum of each row's
    products of dh and what its gate multiplies."""
    row = first + k
    weight = tl.full([32], 1.0, tl.float32)
    if PLACED:
        chosen = tl.load(choice + row)
        weight = tl.load(gates + chosen, mask=chosen >= 0, other=0.0).to(tl.float32)
    where = first.to(tl.int64)[:, None] * width + col[None, :]
    from_row = gate_up + 2 * k * width + where + first.to(tl.int64)[:, None] * width
    d = _of_rows(dh + k * width + where, row, rows, PLACED)
    gate = _of_rows(from_row, row, rows, PLACED)
    sigmoid = _sigmoid(gate)
    silu = gate * sigmoid
    if not UP:
        d *= _of_rows(from_row + width, row, rows, PLACED)
    value = silu * d
    total = tl.sum(value, 1)
    if not UP:
        value = (sigmoid + silu * (1.0 - sigmoid)) * d
    return value * weight[:, None], total


@triton.jit
def _store_gradient(
    gate_up, dh, gates, choice, q, q_scale, q_stride, t, t_scale, t_stride, parts, rows, width, t_width, column, block,
    UP: tl.constexpr, PLACED: tl.constexpr,
):  # fmt: skip
    row, col = block * 128 + 4 * tl.arange(0, 32), column * 128 + tl.arange(0, 128)
    a, first = _swiglu_gradient(gate_up, dh, gates, choice, row, 0, col, rows, width, UP, PLACED)
    b, second = _swiglu_gradient(gate_up, dh, gates, choice, row, 1, col, rows, width, UP, PLACED)
    c, third = _swiglu_gradient(gate_up, dh, gates, choice, row, 2, col, rows, width, UP, PLACED)
    d, fourth = _swiglu_gradient(gate_up, dh, gates, choice, row, 3, col, rows, width, UP, PLACED)
    if PLACED:
        if not UP:  # stored behind all that is read, for no read is moved past a write
            _store_lines(parts, first, second, third, fourth, block, rows)
    inside = col < width
    line = UP * width + col
    q_scale += (UP * (width // 128) + column).to(tl.int64) * q_stride
    _store_rows(q, q_scale, 2 * width, a, b, c, d, block, rows, line, inside, False)
    _store_turned(t, t_scale, t_stride, t_width, a, b, c, d, block, line, inside, False)


@launched
@triton.jit
def _swiglu_backward_kernel(
    gate_up, dh, gates, choice, total, q, q_scale, q_stride, t, t_scale, t_stride, parts, rows, width, t_width,
    PLACED: tl.constexpr,
):  # fmt: skip
    """One 128x128 tile of one of two gradients. Both read the same inputs one after another, from the cache but for the
    first."""
    column, block = tl.program_id(0) // 2, tl.program_id(1)
    if PLACED:
        if block * 128 >= tl.load(total):
            return
        parts += column.to(tl.int64) * rows
    if tl.program_id(0) % 2 == 0:
        _store_gradient(gate_up, dh, gates, choice, q, q_scale, q_stride, t, t_scale, t_stride, parts, rows, width,
                        t_width, column, block, 0, PLACED)  # fmt: skip
    else:
        _store_gradient(gate_up, dh, gates, choice, q, q_scale, q_stride, t, t_scale, t_stride, parts, rows, width,
                        t_width, column, block, 1, PLACED)  # fmt: skip


@launched
@triton.jit
def _block_kernel(w, q, q_scale, q_stride, t, t_scale, t_stride, n, k, TRANSPOSE: tl.constexpr, POWERS: tl.constexpr):
    _store_block(w, q, q_scale, q_stride, t, t_scale, t_stride, n, k, TRANSPOSE, POWERS)


@triton.jit
def _store_block(w, q, q_scale, q_stride, t, t_scale, t_stride, n, k, TRANSPOSE: tl.constexpr, POWERS: tl.constexpr):
    """One 128x128 block of one expert, as four quarters of every fourth row."""
    kb, nb, expert = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    row, col = nb * 128 + 4 * tl.arange(0, 32), kb * 128 + tl.arange(0, 128)
    w += expert * n * k
    a = _value(w, k, w, w, w, w, row, col, n, k, False, False, False)
    b = _value(w, k, w, w, w, w, row + 1, col, n, k, False, False, False)
    c = _value(w, k, w, w, w, w, row + 2, col, n, k, False, False, False)
    d = _value(w, k, w, w, w, w, row + 3, col, n, k, False, False, False)
    scale, inverse = _scale(tl.max(_largest(a, b, c, d), 0), POWERS)
    q += expert * n * k
    where = row.to(tl.int64)[:, None] * k + col[None, :]
    inside = (col < k)[None, :]
    tl.store(q + where, (a * inverse).to(tl.float8e4nv), mask=(row < n)[:, None] & inside)
    tl.store(q + where + k, (b * inverse).to(tl.float8e4nv), mask=(row + 1 < n)[:, None] & inside)
    tl.store(q + where + 2 * k, (c * inverse).to(tl.float8e4nv), mask=(row + 2 < n)[:, None] & inside)
    tl.store(q + where + 3 * k, (d * inverse).to(tl.float8e4nv), mask=(row + 3 < n)[:, None] & inside)
    kbs, nbs = tl.num_programs(0), tl.num_programs(1)
    tl.store(q_scale + (expert * nbs + nb) * q_stride + kb, scale)
    if TRANSPOSE:
        token = nb * 32 + tl.arange(0, 32)
        to = expert * (n // 4) * k + col.to(tl.int64)[:, None] * (n // 4) + token[None, :]
        mask = (col < k)[:, None] & (token < n // 4)[None, :]
        # The codes are made anew: transposing those that were stored above came out wrong on Hopper (Triton 3.6).
        again = (inverse + tl.zeros([128], tl.float32))[None, :]
        tl.store(t + to, tl.trans(_words(a, b, c, d, again)), mask=mask)
        tl.store(t_scale + (expert * kbs + kb) * t_stride + nb, scale)
