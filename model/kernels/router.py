"""The router of DeepSeek-V3 (report, section 2.1.2; 4 of 8 groups by the sum of their two best) in one pass over the
logits; `model.moe.Router` is the reference. Among equal scores the lowest expert is taken."""

# Kernels are typed by Triton at each launch.
# mypy: disable-error-code="untyped-decorator, no-untyped-def"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS = 16


def route(
    logits: Tensor, bias: Tensor, *, k: int, groups: int = 1, kept: int = 1, normalize: bool = True, factor: float = 1.0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``logits`` FP32 [T, E] and ``bias`` FP32 [E] to (scores FP32 [T, E] = sigmoid of the logits, indices int64
    [T, k] by falling score + bias, gates FP32 [T, k], counts int64 [E])."""
    tokens, experts = logits.shape
    if experts % groups or k > experts // groups * kept:
        raise ValueError(f"{k} of {experts} experts cannot be chosen from {kept} of {groups} groups")
    scores = torch.empty_like(logits)
    indices = torch.empty(tokens, k, dtype=torch.int64, device=logits.device)
    gates = logits.new_empty(tokens, k)
    counts = torch.zeros(experts, dtype=torch.int64, device=logits.device)
    if tokens:
        _route_kernel[(triton.cdiv(tokens, ROWS),)](
            logits.contiguous(), bias, scores, indices, gates, counts, tokens, experts // groups, factor,
            K=k, GROUPS=groups, KEPT=kept, NORMALIZE=normalize, ROWS=ROWS,
            G=triton.next_power_of_2(groups), W=triton.next_power_of_2(experts // groups), num_warps=4,
        )  # fmt: skip
    return scores, indices, gates, counts


@triton.jit
def _route_kernel(
    logits, bias, scores, indices, gates, counts, tokens, width, factor,
    K: tl.constexpr, GROUPS: tl.constexpr, KEPT: tl.constexpr, NORMALIZE: tl.constexpr, ROWS: tl.constexpr,
    G: tl.constexpr, W: tl.constexpr,
):  # fmt: skip
    """ROWS tokens; choices are [ROWS, G, W], groups and their width padded to powers of two."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    group = tl.arange(0, G)
    expert = group[:, None] * width + tl.arange(0, W)[None, :]
    known = (group < GROUPS)[:, None] & (tl.arange(0, W) < width)[None, :]
    where = row.to(tl.int64)[:, None, None] * (GROUPS * width) + expert[None, :, :]
    mask = (row < tokens)[:, None, None] & known[None, :, :]
    score = 1.0 / (1.0 + tl.exp(-tl.load(logits + where, mask=mask, other=0.0)))
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
