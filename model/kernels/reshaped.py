"""Weights that an engine keeps in another form than they come in, each made in one launch: a publish does so in the
shadow of larger copies, where every launch waits for its turn."""

# Kernels are typed by Triton at each launch.
# mypy: disable-error-code="untyped-decorator, no-untyped-def"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.kernels.invariant import Weight
from model.kernels.launch import launched
from model.kernels.sizes import cdiv

ROWS, COLUMNS = 16, 128
ROUTER_ROW = 512


def halves(w: Weight, heads: int, nope: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """``kv_b_proj`` [heads (nope + v), latent] as what queries are multiplied with, [heads, latent, nope], and what
    gives the values, [heads, v, latent], decoded; nope and v are multiples of 16."""
    data, scale = w
    latent, wide = data.shape[-1], data.shape[-2] // heads
    up_k = torch.empty(heads, latent, nope, dtype=dtype, device=data.device)
    up_v = torch.empty(heads, wide - nope, latent, dtype=dtype, device=data.device)
    _halves_kernel[(heads * wide // ROWS, cdiv(latent, COLUMNS))](
        data, data if scale is None else scale, up_k, up_v, latent, nope, wide - nope,
        SCALED=scale is not None, R=ROWS, C=COLUMNS, num_warps=4,
    )  # fmt: skip
    return up_k, up_v


def router_terms(w: Tensor, dtype: torch.dtype, cut: int) -> Tensor:
    """An FP32 weight [E, H] as its P terms (`model.derived.bf16_terms`; in FP32 itself), cut into S parts along H:
    [S, P E, H / S]."""
    experts, hidden = w.shape
    terms = 3 if dtype == torch.bfloat16 else 1
    out = torch.empty(cut, terms * experts, hidden // cut, dtype=dtype, device=w.device)
    _router_kernel[(experts, cut)](w, out, experts, hidden // cut, CUT=cut, TERMS=terms, W=ROUTER_ROW, num_warps=4)
    return out


@launched
@triton.jit
def _halves_kernel(
    w, scale, up_k, up_v, latent, nope, wide, SCALED: tl.constexpr, R: tl.constexpr, C: tl.constexpr
):  # fmt: skip
    first, col = tl.program_id(0) * R, tl.program_id(1) * C + tl.arange(0, C)
    row, inside = first + tl.arange(0, R), (col < latent)[None, :]
    value = tl.load(w + row[:, None] * latent + col[None, :], mask=inside, other=0.0).to(tl.float32)
    if SCALED:
        value *= tl.load(scale + first // 128 * tl.cdiv(latent, 128) + tl.program_id(1))
    head, place = first // (nope + wide), first % (nope + wide)
    kind = up_k.dtype.element_ty
    if place < nope:
        turned = (head * latent + col)[:, None] * nope + (place + tl.arange(0, R))[None, :]
        tl.store(up_k + turned, tl.trans(value).to(kind), mask=(col < latent)[:, None])
    else:
        plain = (head * wide + place - nope + tl.arange(0, R))[:, None] * latent + col[None, :]
        tl.store(up_v + plain, value.to(kind), mask=inside)


@launched
@triton.jit
def _router_kernel(w, out, experts, width, CUT: tl.constexpr, TERMS: tl.constexpr, W: tl.constexpr):
    expert, part = tl.program_id(0), tl.program_id(1)
    for start in range(0, width, W):
        col = start + tl.arange(0, W)
        left = tl.load(w + (expert * CUT + part) * width + col, mask=col < width, other=0.0)
        for term in tl.static_range(TERMS):
            value = left.to(out.dtype.element_ty)
            tl.store(out + ((part * TERMS + term) * experts + expert) * width + col, value, mask=col < width)
            left -= value.to(tl.float32)
