"""Attention over a paged cache of latents (DeepSeek-V2 report, section 2.1, in the absorbed form), one token at a time,
so that a token's result does not depend on what else is computed with it.

A cache is a pool of pages [P, 64, kv_lora_rank + rope]; a row's pages are listed in a table. Any number of tokens can
be in flight, several of one row among them: all write their latents first, then each reads its row's up to itself. That
is decoding, prefill, the verification of drafts, and a trainer's forward pass over whole sequences alike.
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
from model.kernels.quantize import _scale

PAGE = 64
HEADS = 16
"""Heads of one program, the rows of a tensor-core tile."""
KEYS, WARPS, STAGES = 64, 4, 3
LOG2_E = 1.4426950408889634


class Places(NamedTuple):
    """Where N tokens are: ``rows`` int32 [N], ``positions`` int32 [N] in their row, ``table`` int32 [R, pages]."""

    rows: Tensor
    positions: Tensor
    table: Tensor


def write_latents(
    projected: Tensor, q_norm: Tensor | None, kv_norm: Tensor, eps: float, turns: Tensor, pool: Tensor, places: Places,
    *, rounded: bool,
) -> Tensor:  # fmt: skip
    """``projected`` [N, q_lora + kv_lora + rope] is normed, its key rotated, and what is cached written to ``pool``
    [P, 64, kv_lora + rope]; returns the normed query latent [N, q_lora]. ``turns`` FP32 [positions, rope / 2, 2] holds
    cosines and sines. ``rounded`` sends the latent through FP8 tiles."""
    tokens, rope, latent = len(projected), 2 * turns.shape[1], len(kv_norm)
    width = len(q_norm) if q_norm is not None else 0
    query = projected.new_empty(tokens, width)
    if tokens:
        _write_kernel[(tokens,)](
            projected, q_norm if q_norm is not None else kv_norm, kv_norm, eps, turns, query, pool, *places,
            places.table.stride(0), width,
            QUERY=triton.next_power_of_2(max(width, 1)), LATENT=latent, ROPE=rope, PAGE=PAGE,
            TILE=min(BLOCK, latent), ROUNDED=rounded, num_warps=4,
        )  # fmt: skip
    return query


def attend(absorbed: Tensor, q: Tensor, turns: Tensor, pool: Tensor, places: Places, scale: float) -> Tensor:
    """``absorbed`` [N, heads, kv_lora] scores against latents, the tail of ``q`` [N, heads, nope + rope], rotated here,
    against rotated keys -> [N, heads, kv_lora]."""
    tokens, heads, latent = absorbed.shape
    rope = 2 * turns.shape[1]
    out = torch.empty_like(absorbed)
    if tokens:
        _attend_kernel[(tokens, triton.cdiv(heads, HEADS))](
            absorbed, q, turns, pool, out, *places, places.table.stride(0), heads, q.shape[-1], scale * LOG2_E,
            LATENT=latent, ROPE=rope, HEADS=HEADS, KEYS=KEYS, PAGE=PAGE, num_warps=WARPS, num_stages=STAGES,
        )  # fmt: skip
    return out


@triton.jit
def _write_kernel(
    projected, q_norm, kv_norm, eps, turns, query, pool, rows, positions, table, table_row, width,
    QUERY: tl.constexpr, LATENT: tl.constexpr, ROPE: tl.constexpr, PAGE: tl.constexpr, TILE: tl.constexpr,
    ROUNDED: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    x = projected + token * (width + LATENT + ROPE)
    if QUERY > 1:
        i = tl.arange(0, QUERY)
        value = tl.load(x + i, mask=i < width, other=0.0).to(tl.float32)
        value *= tl.rsqrt(tl.sum(value * value, 0) / width + eps)
        value *= tl.load(q_norm + i, mask=i < width, other=0.0)
        tl.store(query + token * width + i, value.to(query.dtype.element_ty), mask=i < width)

    position = tl.load(positions + token)
    page = tl.load(table + tl.load(rows + token).to(tl.int64) * table_row + position // PAGE).to(tl.int64)
    target = pool + (page * PAGE + position % PAGE) * (LATENT + ROPE)
    i = tl.arange(0, LATENT)
    value = tl.load(x + width + i).to(tl.float32)
    value *= tl.rsqrt(tl.sum(value * value, 0) / LATENT + eps)
    value = (value * tl.load(kv_norm + i)).to(pool.dtype.element_ty)
    if ROUNDED:
        tiles = tl.reshape(value.to(tl.float32), [LATENT // TILE, TILE])
        size, inverse = _scale(tl.max(tl.abs(tiles), 1), False)
        tiles = (tiles * inverse[:, None]).to(tl.float8e4nv).to(tl.float32) * size[:, None]
        value = tl.reshape(tiles, [LATENT]).to(pool.dtype.element_ty)
    tl.store(target + i, value)

    pair = tl.arange(0, ROPE // 2)
    even = tl.load(x + width + LATENT + 2 * pair).to(tl.float32)
    odd = tl.load(x + width + LATENT + 2 * pair + 1).to(tl.float32)
    cos = tl.load(turns + position.to(tl.int64) * ROPE + 2 * pair)
    sin = tl.load(turns + position.to(tl.int64) * ROPE + 2 * pair + 1)
    tl.store(target + LATENT + 2 * pair, (even * cos - odd * sin).to(pool.dtype.element_ty))
    tl.store(target + LATENT + 2 * pair + 1, (even * sin + odd * cos).to(pool.dtype.element_ty))


@triton.jit
def _attend_kernel(
    absorbed, q, turns, pool, out, rows, positions, table, table_row, heads, q_width, scale,
    LATENT: tl.constexpr, ROPE: tl.constexpr, HEADS: tl.constexpr, KEYS: tl.constexpr, PAGE: tl.constexpr,
):  # fmt: skip
    """Keys in blocks of fixed size from the first on; ``scale`` includes log2(e). Places of the last block past the
    token get a weight of exactly zero, so what lies there only has to be finite."""
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    known = (head < heads)[:, None]
    last = tl.load(positions + token)
    pages = table + tl.load(rows + token).to(tl.int64) * table_row
    i = tl.arange(0, LATENT)
    j = tl.arange(0, ROPE)
    pair = tl.arange(0, ROPE // 2)
    slot = (token * heads + head)[:, None]
    query = tl.load(absorbed + slot * LATENT + i[None, :], mask=known, other=0.0)
    tail = q + slot * q_width + (q_width - ROPE) + 2 * pair[None, :]
    even = tl.load(tail, mask=known, other=0.0).to(tl.float32)
    odd = tl.load(tail + 1, mask=known, other=0.0).to(tl.float32)
    cos = tl.load(turns + last.to(tl.int64) * ROPE + 2 * pair)[None, :]
    sin = tl.load(turns + last.to(tl.int64) * ROPE + 2 * pair + 1)[None, :]
    turned = tl.reshape(tl.join(even * cos - odd * sin, even * sin + odd * cos), [HEADS, ROPE]).to(query.dtype)

    key = tl.arange(0, KEYS)
    best = tl.full([HEADS], float("-inf"), tl.float32)
    weight = tl.zeros([HEADS], tl.float32)
    total = tl.zeros([HEADS, LATENT], tl.float32)
    page = tl.load(pages)
    for start in range(0, last + 1, KEYS):
        at = pool + (page.to(tl.int64) * PAGE + start % PAGE + key)[:, None] * (LATENT + ROPE)
        latents = tl.load(at + i[None, :])
        keys = tl.load(at + LATENT + j[None, :])
        # The next page's number is fetched while this one is multiplied.
        page = tl.load(pages + tl.minimum(start + KEYS, last) // PAGE)
        score = tl.dot(query, tl.trans(latents), input_precision="ieee")
        score = tl.dot(turned, tl.trans(keys), score, input_precision="ieee") * scale
        score = tl.where((start + key <= last)[None, :], score, float("-inf"))
        higher = tl.maximum(best, tl.max(score, 1))
        shrink = tl.exp2(best - higher)
        share = tl.exp2(score - higher[:, None])
        weight = weight * shrink + tl.sum(share, 1)
        total = tl.dot(share.to(latents.dtype), latents, total * shrink[:, None], input_precision="ieee")
        best = higher
    where = out + slot * LATENT + i[None, :]
    tl.store(where, (total / weight[:, None]).to(out.dtype.element_ty), mask=known)
