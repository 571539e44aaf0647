"""The router of DeepSeek-V3 (report, section 2.1.2; 4 of 8 groups by the sum of their two best) in one pass over the
logits; `model.moe.Router` is the reference. Among equal scores the lowest expert is taken."""

# Kernels are typed by Triton at each launch.
# mypy: disable-error-code="untyped-decorator, no-untyped-def"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.kernels.launch import launched
from model.kernels.sizes import cdiv, power_of_two

ROWS = 16


def route(
    logits: Tensor, bias: Tensor, *, k: int, groups: int = 1, kept: int = 1, normalize: bool = True, factor: float = 1.0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``logits`` FP32 [T, E], or [T, P, E] to be summed over P, and ``bias`` FP32 [E] to (scores FP32 [T, E] = sigmoid
    of the logits, indices int64 [T, k] by falling score + bias, gates FP32 [T, k], counts int64 [E])."""
    tokens, experts = logits.shape[0], logits.shape[-1]
    if experts % groups or k > experts // groups * kept:
        raise ValueError(f"{k} of {experts} experts cannot be chosen from {kept} of {groups} groups")
    scores = logits.new_empty(tokens, experts)
    indices = torch.empty(tokens, k, dtype=torch.int64, device=logits.device)
    gates = logits.new_empty(tokens, k)
    counts = torch.zeros(experts, dtype=torch.int64, device=logits.device)
    if tokens:
        _route_kernel[(cdiv(tokens, ROWS),)](
            logits.contiguous(), bias, scores, indices, gates, counts, tokens, experts // groups, factor,
            PARTS=logits.shape[1] if logits.dim() == 3 else 1,
            K=k, GROUPS=groups, KEPT=kept, NORMALIZE=normalize, ROWS=ROWS,
            G=power_of_two(groups), W=power_of_two(experts // groups), num_warps=4,
        )  # fmt: skip
    return scores, indices, gates, counts


def route_backward(
    scores: Tensor, indices: Tensor, d_scores: Tensor | None, d_gates: Tensor | None, *, normalize: bool,
    factor: float, dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """The gradient of the logits of `route`, ``dtype`` [T, E]; ``d_scores`` or ``d_gates`` may be missing."""
    (tokens, experts), k = scores.shape, indices.shape[1]
    out = torch.empty_like(scores, dtype=dtype)
    if tokens:
        _route_backward_kernel[(cdiv(tokens, ROWS),)](
            scores, indices, scores if d_scores is None else d_scores, scores if d_gates is None else d_gates, out,
            tokens, experts, factor, K=k, NORMALIZE=normalize, SCORED=d_scores is not None, GATED=d_gates is not None,
            ROWS=ROWS, E=power_of_two(experts), num_warps=4,
        )  # fmt: skip
    return out


@launched
@triton.jit
def _route_kernel(
    logits, bias, scores, indices, gates, counts, tokens, width, factor,
    PARTS: tl.constexpr, K: tl.constexpr, GROUPS: tl.constexpr, KEPT: tl.constexpr, NORMALIZE: tl.constexpr,
    ROWS: tl.constexpr, G: tl.constexpr, W: tl.constexpr,
):  # fmt: skip
    """ROWS tokens; choices are [ROWS, G, W], groups and their width padded to powers of two."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    group = tl.arange(0, G)
    expert = group[:, None] * width + tl.arange(0, W)[None, :]
    known = (group < GROUPS)[:, None] & (tl.arange(0, W) < width)[None, :]
    where = row.to(tl.int64)[:, None, None] * (GROUPS * width) + expert[None, :, :]
    mask = (row < tokens)[:, None, None] & known[None, :, :]
    part = where + row.to(tl.int64)[:, None, None] * ((PARTS - 1) * GROUPS * width)
    logit = tl.load(logits + part, mask=mask, other=0.0)
    for p in tl.static_range(1, PARTS):
        logit += tl.load(logits + part + p * GROUPS * width, mask=mask, other=0.0)
    score = 1.0 / (1.0 + tl.exp(-logit))
    tl.store(scores + where, score, mask=mask)
    chosen, gate = _choose(score, bias, width, factor, K, GROUPS, KEPT, NORMALIZE, ROWS, G, W)
    column = tl.arange(0, triton.next_power_of_2(K))
    mask = (row < tokens)[:, None] & (column < K)[None, :]
    where = row.to(tl.int64)[:, None] * K + column[None, :]
    tl.store(indices + where, chosen.to(tl.int64), mask=mask)
    tl.store(gates + where, gate, mask=mask)
    tl.atomic_add(counts + chosen, tl.full(chosen.shape, 1, tl.int64), mask=mask)


@triton.jit
def _choose(
    score, bias, width, factor,
    K: tl.constexpr, GROUPS: tl.constexpr, KEPT: tl.constexpr, NORMALIZE: tl.constexpr, ROWS: tl.constexpr,
    G: tl.constexpr, W: tl.constexpr,
):  # fmt: skip
    """From scores [ROWS, G, W] the experts int32 [ROWS, K], padded to a power of two, and their gates FP32."""
    minus: tl.constexpr = float("-inf")
    group = tl.arange(0, G)
    slot = tl.arange(0, W)[None, None, :]
    expert = group[:, None] * width + tl.arange(0, W)[None, :]
    known = (group < GROUPS)[:, None] & (tl.arange(0, W) < width)[None, :]
    choice = tl.where(known[None, :, :], score + tl.load(bias + expert, mask=known, other=0.0)[None, :, :], minus)
    if GROUPS > 1:
        best = tl.max(choice, 2)
        first = tl.argmax(choice, 2, tie_break_left=True)
        value = best + tl.max(tl.where(slot == first[:, :, None], minus, choice), 2)
        keep = tl.zeros([ROWS, G], tl.int1)
        for _ in tl.static_range(KEPT):
            top = tl.argmax(value, 1, tie_break_left=True)
            hit = group[None, :] == top[:, None]
            keep = keep | hit
            value = tl.where(hit, minus, value)
        choice = tl.where(keep[:, :, None], choice, minus)

    choice = tl.reshape(choice, [ROWS, G * W])
    score = tl.reshape(score, [ROWS, G * W])
    flat = tl.arange(0, G * W)
    column = tl.arange(0, triton.next_power_of_2(K))
    chosen = tl.zeros([ROWS, triton.next_power_of_2(K)], tl.int32)
    gate = tl.zeros([ROWS, triton.next_power_of_2(K)], tl.float32)
    for j in tl.static_range(K):
        top = tl.argmax(choice, 1, tie_break_left=True)
        hit = flat[None, :] == top[:, None]
        here = (column == j)[None, :]
        gate = tl.where(here, tl.sum(tl.where(hit, score, 0.0), 1)[:, None], gate)
        chosen = tl.where(here, ((top // W) * width + top % W)[:, None], chosen)
        choice = tl.where(hit, minus, choice)
    if NORMALIZE:
        gate = gate / (tl.sum(gate, 1) + 1e-20)[:, None]
    return chosen, gate * factor


@launched
@triton.jit
def _route_backward_kernel(
    scores, indices, d_scores, d_gates, out, tokens, experts, factor,
    K: tl.constexpr, NORMALIZE: tl.constexpr, SCORED: tl.constexpr, GATED: tl.constexpr, ROWS: tl.constexpr,
    E: tl.constexpr,
):  # fmt: skip
    row, expert = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64), tl.arange(0, E)
    real = row < tokens
    where = row[:, None] * experts + expert[None, :]
    mask = real[:, None] & (expert < experts)[None, :]
    score = tl.load(scores + where, mask=mask, other=0.0)
    d = tl.zeros([ROWS, E], tl.float32)
    if SCORED:
        d = tl.load(d_scores + where, mask=mask, other=0.0)
    if GATED:
        total = tl.full([ROWS], 1e-20, tl.float32)
        along = tl.zeros([ROWS], tl.float32)
        if NORMALIZE:
            for j in tl.static_range(K):
                hit = expert[None, :] == tl.load(indices + row * K + j, mask=real, other=0)[:, None]
                picked = tl.sum(tl.where(hit, score, 0.0), 1)
                total += picked
                along += picked * tl.load(d_gates + row * K + j, mask=real, other=0.0)
            along = along / total
        for j in tl.static_range(K):
            hit = expert[None, :] == tl.load(indices + row * K + j, mask=real, other=0)[:, None]
            d_picked = tl.load(d_gates + row * K + j, mask=real, other=0.0)
            if NORMALIZE:
                d_picked = (d_picked - along) / total
            d += tl.where(hit, (d_picked * factor)[:, None], 0.0)
    d *= score * (1.0 - score)
    tl.store(out + where, d.to(out.dtype.element_ty), mask=mask)
