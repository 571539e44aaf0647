"""The gradients of queries, of keys and values, and of what their latents are normed from, quantised both ways as Dgrad
and Wgrad multiply them (`model.kernels.quantize`)."""

# Kernels are typed by Triton at each launch.
# mypy: disable-error-code="untyped-decorator, no-untyped-def"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.fp8 import BLOCK, Quantized
from model.kernels.launch import launched
from model.kernels.norms import PROGRAMS, _put, _row, _weight
from model.kernels.quantize import _in_words, _store_rows, _store_turned, empty_tiles
from model.kernels.sizes import cdiv, power_of_two


def keys_backward(dk: Tensor, dv: Tensor, nope: int) -> tuple[Quantized, Quantized, Tensor]:
    """`elementwise.join_keys_backward`, its first result quantised: ``dk`` [N, heads, nope + rope] and ``dv``
    [N, heads, v] to 1x128 tiles [N, heads (nope + v)], 128x1 tiles of the same, and the shared key's gradient
    [N, rope]. nope and v are multiples of 128."""
    tokens, heads, values = dv.shape
    width, rope, blocks = heads * (nope + values), dk.shape[2] - nope, cdiv(tokens, BLOCK)
    rows, columns, d_key = (
        empty_tiles(dk, tokens, width),
        empty_tiles(dk, width, blocks * BLOCK),
        dk.new_empty(tokens, rope),
    )
    dk, dv = dk.contiguous(), dv.contiguous()
    _keys_backward_kernel[(width // BLOCK, blocks)](
        dk, dv, rows.data, rows.scale, rows.scale.stride(1), _in_words(columns), columns.scale, columns.scale.stride(1),
        tokens, heads, nope, rope, values, width, blocks * BLOCK, num_warps=4,
    )  # fmt: skip
    _shared_key_kernel[(tokens,)](
        dk, d_key, heads, nope, rope, HEADS=power_of_two(heads), ROPE=power_of_two(rope), num_warps=1
    )
    return rows, columns, d_key


def queries_backward(dq: Tensor, turns: Tensor, nope: int) -> tuple[Quantized, Quantized]:
    """``dq`` BF16 [N, heads, nope + rope], its dimensions from ``nope`` on turned back by ``turns`` complex64
    [N, rope / 2]: in 1x128 tiles [N, heads (nope + rope)] and in 128x1 tiles. nope and rope are even."""
    tokens, heads, size = dq.shape
    width, blocks = heads * size, cdiv(tokens, BLOCK)
    rows, columns = empty_tiles(dq, tokens, width), empty_tiles(dq, width, blocks * BLOCK)
    _queries_backward_kernel[(cdiv(width, BLOCK), blocks)](
        dq.contiguous().view(torch.int32), turns.view(torch.int64),
        rows.data, rows.scale, rows.scale.stride(1), _in_words(columns), columns.scale, columns.scale.stride(1),
        tokens, nope // 2, size // 2, width, blocks * BLOCK, num_warps=8,
    )  # fmt: skip
    return rows, columns


def latents_backward(
    joint: Tensor, turns: Tensor, weights: tuple[Tensor, Tensor], inverses: Tensor, dq: Tensor, d_latent: Tensor,
    d_key: Tensor,
) -> tuple[Quantized, Quantized, Tensor]:  # fmt: skip
    """`norms.latents_backward`, its first result quantised: in 1x128 tiles [N, Q + L + R], in 128x1 tiles, and the
    gradients of both ``weights``, FP32 [Q + L]. ``inverses`` FP32 [2, N] are those of `norms.latent_inverses`. Q and L
    are multiples of 128."""
    tokens, width = joint.shape
    (q,), (latent,), blocks = weights[0].shape, weights[1].shape, cdiv(tokens, BLOCK)
    rows, columns = empty_tiles(joint, tokens, width), empty_tiles(joint, width, blocks * BLOCK)
    programs = min(tokens, 2 * PROGRAMS)
    alongs, parts = torch.empty_like(inverses), joint.new_empty(programs, q + latent, dtype=torch.float32)
    dq, d_latent, d_key = dq.contiguous(), d_latent.contiguous(), d_key.contiguous()
    _latent_sums_kernel[(programs,)](
        joint, *weights, inverses, dq, d_latent, alongs, parts, tokens, q, latent, width,
        Q=power_of_two(q), L=power_of_two(latent), num_warps=4,
    )  # fmt: skip
    _latents_backward_kernel[(cdiv(width, BLOCK), blocks)](
        joint, turns.view(torch.int64), *weights, inverses, alongs, dq, d_latent, d_key.view(torch.int32),
        rows.data, rows.scale, rows.scale.stride(1), _in_words(columns), columns.scale, columns.scale.stride(1),
        tokens, q, latent, width, blocks * BLOCK, num_warps=4,
    )  # fmt: skip
    return rows, columns, parts.sum(0)


@triton.jit
def _turned_back(words, turns, row, pair, tokens, nope, size, width):
    """A quarter of a tile, whose columns come in pairs: a word holds one of BF16 numbers, and one of ``turns`` a
    complex number."""
    inside = pair % size - nope
    known = (row < tokens)[:, None] & (pair < width)[None, :]
    at = row.to(tl.int64)[:, None]
    word = tl.load(words + at * width + pair[None, :], mask=known, other=0)
    a = (word << 16).to(tl.float32, bitcast=True)
    b = (word & -65536).to(tl.float32, bitcast=True)
    # What is not turned is turned by 1, of which these are the bits.
    turn = tl.load(turns + at * (size - nope) + inside[None, :], mask=known & (inside >= 0)[None, :], other=0x3F800000)
    real = turn.to(tl.int32).to(tl.float32, bitcast=True)
    imaginary = (turn >> 32).to(tl.int32).to(tl.float32, bitcast=True)
    return tl.reshape(tl.join(a * real + b * imaginary, b * real - a * imaginary), [32, 128])


@launched
@triton.jit
def _queries_backward_kernel(
    words, turns, q, q_scale, q_stride, t, t_scale, t_stride, tokens, nope, size, width, t_width
):  # fmt: skip
    """One 128x128 tile, as four quarters of every fourth row. ``nope`` and ``size`` count pairs."""
    column, block = tl.program_id(0), tl.program_id(1)
    row, pair = block * 128 + 4 * tl.arange(0, 32), column * 64 + tl.arange(0, 64)
    a = _turned_back(words, turns, row, pair, tokens, nope, size, width // 2)
    b = _turned_back(words, turns, row + 1, pair, tokens, nope, size, width // 2)
    c = _turned_back(words, turns, row + 2, pair, tokens, nope, size, width // 2)
    d = _turned_back(words, turns, row + 3, pair, tokens, nope, size, width // 2)
    col = column * 128 + tl.arange(0, 128)
    known = col < width
    q_scale += column.to(tl.int64) * q_stride
    _store_rows(q, q_scale, width, a, b, c, d, block, tokens, col, known, False)
    _store_turned(t, t_scale, t_stride, t_width, a, b, c, d, block, col, known, False)


@triton.jit
def _of_head(d, row, col, line, tokens):
    """Four quarters of a tile."""
    where = d + row.to(tl.int64)[:, None] * line + col[None, :]
    a = tl.load(where, mask=(row < tokens)[:, None], other=0.0).to(tl.float32)
    b = tl.load(where + line, mask=(row + 1 < tokens)[:, None], other=0.0).to(tl.float32)
    c = tl.load(where + 2 * line, mask=(row + 2 < tokens)[:, None], other=0.0).to(tl.float32)
    d = tl.load(where + 3 * line, mask=(row + 3 < tokens)[:, None], other=0.0).to(tl.float32)
    return a, b, c, d


@launched
@triton.jit
def _keys_backward_kernel(
    dk, dv, q, q_scale, q_stride, t, t_scale, t_stride, tokens, heads, nope, rope, values, width, t_width
):  # fmt: skip
    """One 128x128 tile, which lies within a head's keys or values."""
    column, block = tl.program_id(0), tl.program_id(1)
    row, col = block * 128 + 4 * tl.arange(0, 32), column * 128 + tl.arange(0, 128)
    head, inside = column * 128 // (nope + values), column * 128 % (nope + values)
    if inside < nope:
        at = tl.multiple_of(head * (nope + rope) + inside, 16) + tl.arange(0, 128)
        a, b, c, d = _of_head(dk, row, at, heads * (nope + rope), tokens)
    else:
        at = tl.multiple_of(head * values + inside - nope, 16) + tl.arange(0, 128)
        a, b, c, d = _of_head(dv, row, at, heads * values, tokens)
    known = col < width
    q_scale += column.to(tl.int64) * q_stride
    _store_rows(q, q_scale, width, a, b, c, d, block, tokens, col, known, False)
    _store_turned(t, t_scale, t_stride, t_width, a, b, c, d, block, col, known, False)


@launched
@triton.jit
def _shared_key_kernel(dk, d_key, heads, nope, rope, HEADS: tl.constexpr, ROPE: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    head, col = tl.arange(0, HEADS), tl.arange(0, ROPE)
    where = (token * heads + head)[:, None] * (nope + rope) + nope + col[None, :]
    mask = (head < heads)[:, None] & (col < rope)[None, :]
    total = tl.sum(tl.load(dk + where, mask=mask, other=0.0).to(tl.float32), 0)
    tl.store(d_key + token * rope + col, total.to(d_key.dtype.element_ty), mask=col < rope)


@launched
@triton.jit
def _latent_sums_kernel(
    joint, q_weight, weight, inverses, dq, d_latent, alongs, parts, tokens, q, latent, width,
    Q: tl.constexpr, L: tl.constexpr,
):  # fmt: skip
    """How much of each row's two gradients lies along what was normed, and the gradients of both weights over a
    program's rows."""
    first = tl.program_id(0).to(tl.int64)
    q_w, w = _weight(q_weight, joint, q, Q), _weight(weight, joint, latent, L)
    q_dw = tl.zeros([Q], tl.float32)
    dw = tl.zeros([L], tl.float32)
    for turn in tl.range(tl.cdiv(tokens - tl.program_id(0), tl.num_programs(0)), num_stages=3):
        row = first + turn * tl.num_programs(0)
        q_x, q_dy = _row(joint, row * width, q, Q), _row(dq, row * q, q, Q)
        x, dy = _row(joint, row * width + q, latent, L), _row(d_latent, row * latent, latent, L)
        q_inverse, inverse = tl.load(inverses + row), tl.load(inverses + tokens + row)
        q_product, product = q_x * q_dy, x * dy
        q_dw += q_product * q_inverse
        dw += product * inverse
        tl.store(alongs + row, tl.sum(q_product * q_w, 0) / q * q_inverse)
        tl.store(alongs + tokens + row, tl.sum(product * w, 0) / latent * inverse)
    _put(parts, first * (q + latent), q_dw, q, Q)
    _put(parts, first * (q + latent) + q, dw, latent, L)


@triton.jit
def _normed_gradient(x, line, dy, size, w, inverses, alongs, row, col, tokens):
    """A quarter of a tile, as `norms._gradient` has it; x and ``dy`` begin where their norm does."""
    known = row < tokens
    value = tl.load(x + row.to(tl.int64)[:, None] * line + col[None, :], mask=known[:, None], other=0.0).to(tl.float32)
    d = tl.load(dy + row.to(tl.int64)[:, None] * size + col[None, :], mask=known[:, None], other=0.0).to(tl.float32)
    inverse = tl.load(inverses + row, mask=known, other=0.0)
    along = tl.load(alongs + row, mask=known, other=0.0) * inverse
    return (d * w[None, :] - value * along[:, None]) * inverse[:, None]


@launched
@triton.jit
def _latents_backward_kernel(
    joint, turns, q_weight, weight, inverses, alongs, dq, d_latent, key_words, q_out, q_scale, q_stride, t,
    t_scale, t_stride, tokens, q, latent, width, t_width,
):  # fmt: skip
    """One 128x128 tile, which lies within the queries' latent, the keys' or the shared key."""
    column, block = tl.program_id(0), tl.program_id(1)
    row, col = block * 128 + 4 * tl.arange(0, 32), column * 128 + tl.arange(0, 128)
    if column * 128 >= q + latent:
        pair = column * 64 - (q + latent) // 2 + tl.arange(0, 64)
        size = (width - q - latent) // 2
        a = _turned_back(key_words, turns, row, pair, tokens, 0, size, size)
        b = _turned_back(key_words, turns, row + 1, pair, tokens, 0, size, size)
        c = _turned_back(key_words, turns, row + 2, pair, tokens, 0, size, size)
        d = _turned_back(key_words, turns, row + 3, pair, tokens, 0, size, size)
    else:
        size, at, dy = q, col, dq
        if column * 128 >= q:
            size, at, dy = latent, col - q, d_latent
            q_weight = weight
            joint += q
            inverses += tokens
            alongs += tokens
        w = tl.load(q_weight + at).to(joint.dtype.element_ty).to(tl.float32)
        a = _normed_gradient(joint, width, dy, size, w, inverses, alongs, row, at, tokens)
        b = _normed_gradient(joint, width, dy, size, w, inverses, alongs, row + 1, at, tokens)
        c = _normed_gradient(joint, width, dy, size, w, inverses, alongs, row + 2, at, tokens)
        d = _normed_gradient(joint, width, dy, size, w, inverses, alongs, row + 3, at, tokens)
    known = col < width
    q_scale += column.to(tl.int64) * q_stride
    _store_rows(q_out, q_scale, width, a, b, c, d, block, tokens, col, known, False)
    _store_turned(t, t_scale, t_stride, t_width, a, b, c, d, block, col, known, False)
