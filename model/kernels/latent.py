"""Attention over a paged cache of latents (DeepSeek-V2 report, section 2.1, in the absorbed form), one token at a time,
so that a token's result does not depend on what else is computed with it.

A cache is a pool of pages [P, 64, kv_lora_rank + rope]; a row's pages are listed in a table. Any number of tokens can
be in flight, several of one row among them: all write their latents first, then each reads its row's up to itself. That
is decoding, prefill, the verification of drafts, and a trainer's forward pass over whole sequences alike.
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
from model.kernels.quantize import _scale, _summed, _tiles_of, empty_tiles
from model.kernels.sizes import cdiv, power_of_two

PAGE = 64
HEADS = 16
"""Heads of one program, the rows of a tensor-core tile."""
KEYS, WARPS = 64, 4
SPAN = 256
"""Keys whose weighted sum is formed by itself, and then joined to those before."""
SPLIT_HEADS, SPLIT_SUMS = 2048, 2**17
"""Up to so many heads of all tokens, and sums of all spans, each span has a program of its own."""
LOG2_E = 1.4426950408889634


class Places(NamedTuple):
    """Where N tokens are: ``rows`` int32 [N], ``positions`` int32 [N] in their row, ``table`` int32 [R, pages]."""

    rows: Tensor
    positions: Tensor
    table: Tensor


def write_latents(
    projected: Tensor, q_norm: Tensor | None, kv_norm: Tensor, eps: float, turns: Tensor, pool: Tensor, places: Places,
    *, quantized: bool,
) -> Tensor | Quantized:  # fmt: skip
    """``projected`` FP32 [N, P, q_lora + kv_lora + rope] is summed over P and normed, its key rotated, and what is
    cached written to ``pool`` [pages, 64, kv_lora + rope]; returns the normed query latent [N, q_lora]. ``turns`` FP32
    [positions, rope / 2, 2] holds cosines and sines. ``quantized`` returns the query in FP8 tiles, and sends the latent
    through them."""
    tokens, rope, latent = len(projected), 2 * turns.shape[1], len(kv_norm)
    width = len(q_norm) if q_norm is not None else 0
    query = empty_tiles(projected, tokens, width) if quantized else pool.new_empty(tokens, width)
    codes, sizes = query if isinstance(query, Quantized) else (query, turns)
    if tokens:
        _write_kernel[(tokens,)](
            projected, q_norm if q_norm is not None else kv_norm, kv_norm, eps, turns, codes, sizes, sizes.stride(1),
            pool, *places, places.table.stride(0), width,
            QUERY=power_of_two(max(width, 1)), LATENT=latent, ROPE=rope, PAGE=PAGE, TILE=BLOCK,
            LATENT_TILE=min(BLOCK, latent), PARTS=projected.shape[1],
            QUANTIZED=quantized, num_warps=4,
        )  # fmt: skip
    return query


def attend(absorbed: Tensor, q: Tensor, turns: Tensor, pool: Tensor, places: Places, scale: float) -> Tensor:
    """``absorbed`` [N, heads, kv_lora] scores against latents, the tail of ``q`` [N, heads, nope + rope], rotated here,
    against rotated keys -> [N, heads, kv_lora]."""
    tokens, heads, latent = absorbed.shape
    out = torch.empty_like(absorbed)
    spans = cdiv(places.table.shape[1] * PAGE, SPAN)
    split = spans > 1 and tokens * heads <= SPLIT_HEADS and tokens * spans * heads <= SPLIT_SUMS
    sums, weights = out, turns
    if split:
        sums = absorbed.new_empty(tokens, spans, heads, latent, dtype=torch.float32)
        weights = sums.new_empty(tokens, spans, heads, 2)
    if tokens:
        _attend_kernel[(tokens, cdiv(heads, HEADS), spans if split else 1)](
            absorbed, q, turns, pool, sums, weights, *places, places.table.stride(0), heads, q.shape[-1],
            scale * LOG2_E, LATENT=latent, ROPE=2 * turns.shape[1], HEADS=HEADS, KEYS=KEYS, PAGE=PAGE, SPAN=SPAN,
            SPLIT=split, num_warps=WARPS, num_stages=3 if split else 2,
        )  # fmt: skip
    if tokens and split:
        _join_kernel[(tokens, heads)](
            sums, weights, places.positions, out, spans, LATENT=latent, SPAN=SPAN, num_warps=4
        )
    return out


@launched
@triton.jit
def _write_kernel(
    projected, q_norm, kv_norm, eps, turns, query, sizes, size_stride, pool, rows, positions, table, table_row, width,
    QUERY: tl.constexpr, LATENT: tl.constexpr, ROPE: tl.constexpr, PAGE: tl.constexpr, TILE: tl.constexpr,
    LATENT_TILE: tl.constexpr, PARTS: tl.constexpr, QUANTIZED: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    wide = width + LATENT + ROPE
    x = projected + token * PARTS * wide
    if QUERY > 1:
        i = tl.arange(0, QUERY)
        value = _summed(x, wide, i, i < width, PARTS)
        value *= tl.rsqrt(tl.sum(value * value, 0) / width + eps)
        value *= tl.load(q_norm + i, mask=i < width, other=0.0)
        if QUANTIZED:
            _tiles_of(value, query + token * width, sizes + token, size_stride, width, QUERY, TILE)
        else:
            tl.store(query + token * width + i, value.to(query.dtype.element_ty), mask=i < width)

    position = tl.load(positions + token)
    page = tl.load(table + tl.load(rows + token).to(tl.int64) * table_row + position // PAGE).to(tl.int64)
    target = pool + (page * PAGE + position % PAGE) * (LATENT + ROPE)
    i = tl.arange(0, LATENT)
    value = _summed(x, wide, width + i, i < LATENT, PARTS)
    value *= tl.rsqrt(tl.sum(value * value, 0) / LATENT + eps)
    value = (value * tl.load(kv_norm + i)).to(pool.dtype.element_ty)
    if QUANTIZED:
        tiles = tl.reshape(value.to(tl.float32), [LATENT // LATENT_TILE, LATENT_TILE])
        size, inverse = _scale(tl.max(tl.abs(tiles), 1), False)
        tiles = (tiles * inverse[:, None]).to(tl.float8e4nv).to(tl.float32) * size[:, None]
        value = tl.reshape(tiles, [LATENT]).to(pool.dtype.element_ty)
    tl.store(target + i, value)

    pair = tl.arange(0, ROPE // 2)
    even = _summed(x, wide, width + LATENT + 2 * pair, pair < ROPE // 2, PARTS)
    odd = _summed(x, wide, width + LATENT + 2 * pair + 1, pair < ROPE // 2, PARTS)
    cos = tl.load(turns + position.to(tl.int64) * ROPE + 2 * pair)
    sin = tl.load(turns + position.to(tl.int64) * ROPE + 2 * pair + 1)
    tl.store(target + LATENT + 2 * pair, (even * cos - odd * sin).to(pool.dtype.element_ty))
    tl.store(target + LATENT + 2 * pair + 1, (even * sin + odd * cos).to(pool.dtype.element_ty))


@triton.jit
def _shrinks(best, other):
    """What sums relative to two maxima are multiplied with to be relative to the higher one, which comes last."""
    higher = tl.maximum(best, other)
    return tl.exp2(best - higher), tl.exp2(other - higher), higher


@triton.jit
def _joined(total, shrink, other, other_shrink):
    """Two sums [HEADS, L] as one. The order of operations is spelt out, so that both kernels that do it round alike."""
    return tl.fma(total, shrink[:, None] + tl.zeros_like(total), other * other_shrink[:, None])


@launched
@triton.jit
def _attend_kernel(
    absorbed, q, turns, pool, out, weights, rows, positions, table, table_row, heads, q_width, scale,
    LATENT: tl.constexpr, ROPE: tl.constexpr, HEADS: tl.constexpr, KEYS: tl.constexpr, PAGE: tl.constexpr,
    SPAN: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """Keys in blocks of fixed size from the first on; ``scale`` includes log2(e). Places of the last block past the
    token get a weight of exactly zero, so what lies there only has to be finite."""
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    span = tl.program_id(2)
    known = (head < heads)[:, None]
    last = tl.load(positions + token)
    begin, end = 0, last + 1
    if SPLIT:
        begin = span * SPAN
        if begin > last:
            return
        end = tl.minimum(end, begin + SPAN)
    pages = table + tl.load(rows + token).to(tl.int64) * table_row
    i = tl.arange(0, LATENT // 2)
    j = tl.arange(0, ROPE)
    pair = tl.arange(0, ROPE // 2)
    slot = (token * heads + head)[:, None]
    query_at = absorbed + slot * LATENT + i[None, :]
    query_a = tl.load(query_at, mask=known, other=0.0)
    query_b = tl.load(query_at + LATENT // 2, mask=known, other=0.0)
    tail = q + slot * q_width + (q_width - ROPE) + 2 * pair[None, :]
    even = tl.load(tail, mask=known, other=0.0).to(tl.float32)
    odd = tl.load(tail + 1, mask=known, other=0.0).to(tl.float32)
    cos = tl.load(turns + last.to(tl.int64) * ROPE + 2 * pair)[None, :]
    sin = tl.load(turns + last.to(tl.int64) * ROPE + 2 * pair + 1)[None, :]
    turned = tl.reshape(tl.join(even * cos - odd * sin, even * sin + odd * cos), [HEADS, ROPE]).to(query_a.dtype)

    key = tl.arange(0, KEYS)
    best = tl.full([HEADS], float("-inf"), tl.float32)
    weight = tl.zeros([HEADS], tl.float32)
    total_a = tl.zeros([HEADS, LATENT // 2], tl.float32)
    total_b = total_a
    all_best, all_weight, all_a, all_b = best, weight, total_a, total_b
    page = tl.load(pages + begin // PAGE)
    for start in range(begin, end, KEYS):
        at = pool + (page.to(tl.int64) * PAGE + start % PAGE + key)[:, None] * (LATENT + ROPE)
        latents_a, latents_b = tl.load(at + i[None, :]), tl.load(at + LATENT // 2 + i[None, :])
        keys = tl.load(at + LATENT + j[None, :])
        # The next page's number is fetched while this one is multiplied.
        page = tl.load(pages + tl.minimum(start + KEYS, last) // PAGE)
        # Halves, since one product after another of 16 rows would wait for itself.
        score = tl.dot(query_a, tl.trans(latents_a), input_precision="ieee")
        score_b = tl.dot(query_b, tl.trans(latents_b), input_precision="ieee")
        score = (tl.dot(turned, tl.trans(keys), score, input_precision="ieee") + score_b) * scale
        score = tl.where((start + key <= last)[None, :], score, float("-inf"))
        higher = tl.maximum(best, tl.max(score, 1))
        shrink = tl.exp2(best - higher)
        share = tl.exp2(score - higher[:, None])
        weight = weight * shrink + tl.sum(share, 1)
        share = share.to(latents_a.dtype)
        total_a = tl.dot(share, latents_a, total_a * shrink[:, None], input_precision="ieee")
        total_b = tl.dot(share, latents_b, total_b * shrink[:, None], input_precision="ieee")
        best = higher
        if not SPLIT:
            if (start + KEYS) % SPAN == 0 or start + KEYS >= end:
                shrink, other_shrink, all_best = _shrinks(all_best, best)
                all_weight = tl.fma(all_weight, shrink, weight * other_shrink)
                all_a = _joined(all_a, shrink, total_a, other_shrink)
                all_b = _joined(all_b, shrink, total_b, other_shrink)
                best = tl.full([HEADS], float("-inf"), tl.float32)
                weight = tl.zeros([HEADS], tl.float32)
                total_a = tl.zeros([HEADS, LATENT // 2], tl.float32)
                total_b = tl.zeros([HEADS, LATENT // 2], tl.float32)
    if SPLIT:
        slot = ((token * tl.num_programs(2) + span) * heads + head)[:, None]
        pair_at = weights + 2 * ((token * tl.num_programs(2) + span) * heads + head)
        tl.store(pair_at, best, mask=head < heads)
        tl.store(pair_at + 1, weight, mask=head < heads)
    else:
        total_a, total_b = all_a / all_weight[:, None], all_b / all_weight[:, None]
    where = out + slot * LATENT + i[None, :]
    tl.store(where, total_a.to(out.dtype.element_ty), mask=known)
    tl.store(where + LATENT // 2, total_b.to(out.dtype.element_ty), mask=known)


@launched
@triton.jit
def _join_kernel(
    sums, weights, positions, out, spans, LATENT: tl.constexpr, SPAN: tl.constexpr
):  # fmt: skip
    """The spans of one token and head, in order."""
    token, head, heads = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    last = tl.load(positions + token)
    i = tl.arange(0, LATENT)[None, :]
    best = tl.full([1], float("-inf"), tl.float32)
    weight = tl.zeros([1], tl.float32)
    total = tl.zeros([1, LATENT], tl.float32)
    one = tl.arange(0, 1)
    for span in range(0, last // SPAN + 1):
        slot = (token * spans + span) * heads + head
        other_best, other_weight = tl.load(weights + 2 * slot + one), tl.load(weights + 2 * slot + 1 + one)
        shrink, other_shrink, best = _shrinks(best, other_best)
        weight = tl.fma(weight, shrink, other_weight * other_shrink)
        total = _joined(total, shrink, tl.load(sums + slot * LATENT + i), other_shrink)
    where = out + (token * heads + head) * LATENT + i
    tl.store(where, (total / weight[:, None]).to(out.dtype.element_ty))
