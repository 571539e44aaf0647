"""The residual stream, the choice of experts and the draw of a token: what lies between the products of
`model.kernels.invariant`, a row at a time and so independent of the other rows."""

# Kernels are typed by Triton at each launch.
# mypy: disable-error-code="untyped-decorator, no-untyped-def"

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.kernels.invariant import Chosen
from model.kernels.router import _choose


class Progress(NamedTuple):
    """How far R rows are. int64 ``token`` [R] is each row's last one, whose place is ``position`` int32 [R], and
    ``guess`` [R] a draft of the next. ``done`` int32 [R] tokens were sampled of at most ``room`` int32 [R]; ``alive``
    int8 [R]. ``tokens`` int64 and ``logprobs`` FP32 [R, most] keep what was sampled."""

    token: Tensor
    guess: Tensor
    position: Tensor
    done: Tensor
    room: Tensor
    alive: Tensor
    tokens: Tensor
    logprobs: Tensor


CHOOSE_ROWS = 4
SCAN = 4096
"""Vocabulary entries of one step of the scan that a draw makes."""


def add_norm(residual: Tensor, parts: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """``residual`` [N, H] plus ``parts`` [N, P, H], added in FP32 and rounded once, and its RMSNorm."""
    tokens, hidden = residual.shape
    total = residual if parts is None else torch.empty_like(residual)
    normed = torch.empty_like(residual)
    if tokens:
        _add_norm_kernel[(tokens,)](
            residual, parts if parts is not None else residual, weight, eps, total, normed, hidden,
            PARTS=parts.shape[1] if parts is not None else 0, WIDTH=triton.next_power_of_2(hidden), num_warps=4,
        )  # fmt: skip
    return total, normed


def choose(
    logits: Tensor, bias: Tensor, counts: Tensor, *, k: int, groups: int, kept: int, shared: int, normalize: bool,
    factor: float,
) -> tuple[Tensor, Chosen]:  # fmt: skip
    """``logits`` FP32 [N, P, E] are summed over P; ``bias`` FP32 [E]; ``counts`` int32 [E + shared] comes as zeros and
    is filled. Returns the chosen experts int32 [N, k] and what `experts` needs."""
    (tokens, parts, count), device = logits.shape, logits.device
    indices = torch.empty(tokens, k, dtype=torch.int32, device=device)
    gates = torch.empty(tokens, k + shared, device=device)
    lists = torch.empty(count + shared, tokens, dtype=torch.int32, device=device)
    if tokens:
        _choose_kernel[(triton.cdiv(tokens, CHOOSE_ROWS),)](
            logits, bias, indices, gates, lists, counts, tokens, count // groups, factor,
            PARTS=parts, K=k, SHARED=shared, GROUPS=groups, KEPT=kept, NORMALIZE=normalize, ROWS=CHOOSE_ROWS,
            G=triton.next_power_of_2(groups), W=triton.next_power_of_2(count // groups), num_warps=4,
        )  # fmt: skip
    return indices, Chosen(gates, lists, counts)


def token_logprobs(logits: Tensor, tokens: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """FP32 ``logits`` [N, V] -> log-probabilities FP32 [N] of ``tokens`` [N], computed as `draw` does, and the
    entropies [N] in nats."""
    out, entropy = logits.new_empty(len(logits)), logits.new_empty(len(logits))
    if len(logits):
        _logprob_kernel[(len(logits),)](
            logits, tokens, out, entropy, temperature, logits.shape[1], BLOCK=SCAN, num_warps=8
        )
    return out, entropy


def draw(logits: Tensor, u: Tensor, temperature: Tensor, *, greedy: bool) -> tuple[Tensor, Tensor]:
    """Samples by inverting the distribution function, as `model.sampling.draw` does: FP32 ``logits`` [N, V], FP64 ``u``
    [N], ``temperature`` FP32 [1] on the device -> tokens int64 [N] and their log-probabilities FP32 [N]."""
    tokens = torch.empty(len(logits), dtype=torch.int64, device=logits.device)
    logp = logits.new_empty(len(logits))
    if len(logits):
        _draw_kernel[(len(logits),)](
            logits, u, temperature, tokens, logp, logits.shape[1], GREEDY=greedy, BLOCK=SCAN, num_warps=8
        )
    return tokens, logp


@triton.jit
def _add_norm_kernel(
    residual, parts, weight, eps, total, normed, hidden, PARTS: tl.constexpr, WIDTH: tl.constexpr
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, WIDTH)
    mask = i < hidden
    x = tl.load(residual + token * hidden + i, mask=mask, other=0.0)
    if PARTS > 0:
        value = x.to(tl.float32)
        for p in tl.static_range(PARTS):
            value += tl.load(parts + (token * PARTS + p) * hidden + i, mask=mask, other=0.0).to(tl.float32)
        x = value.to(total.dtype.element_ty)
        tl.store(total + token * hidden + i, x, mask=mask)
    value = x.to(tl.float32)
    value *= tl.rsqrt(tl.sum(value * value, 0) / hidden + eps)
    value *= tl.load(weight + i, mask=mask, other=0.0)
    tl.store(normed + token * hidden + i, value.to(normed.dtype.element_ty), mask=mask)


@triton.jit
def _choose_kernel(
    logits, bias, indices, gates, lists, counts, tokens, width, factor,
    PARTS: tl.constexpr, K: tl.constexpr, SHARED: tl.constexpr, GROUPS: tl.constexpr, KEPT: tl.constexpr,
    NORMALIZE: tl.constexpr, ROWS: tl.constexpr, G: tl.constexpr, W: tl.constexpr,
):  # fmt: skip
    experts = GROUPS * width
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    group, slot = tl.arange(0, G), tl.arange(0, W)
    expert = group[:, None] * width + slot[None, :]
    known = (group < GROUPS)[:, None] & (slot < width)[None, :]
    where = row.to(tl.int64)[:, None, None] * (PARTS * experts) + expert[None, :, :]
    mask = (row < tokens)[:, None, None] & known[None, :, :]
    logit = tl.load(logits + where, mask=mask, other=0.0)
    for p in tl.static_range(1, PARTS):
        logit += tl.load(logits + where + p * experts, mask=mask, other=0.0)
    score = 1.0 / (1.0 + tl.exp(-logit))
    chosen, gate = _choose(score, bias, width, factor, K, GROUPS, KEPT, NORMALIZE, ROWS, G, W)

    column = tl.arange(0, triton.next_power_of_2(K))
    mask = (row < tokens)[:, None] & (column < K)[None, :]
    tl.store(indices + row[:, None] * K + column[None, :], chosen, mask=mask)
    entry = row[:, None] * (K + SHARED) + column[None, :]
    tl.store(gates + entry, gate, mask=mask)
    # In which place of its expert's list an entry comes is a race that no result depends on.
    rank = tl.atomic_add(counts + chosen, tl.full(chosen.shape, 1, tl.int32), mask=mask)
    tl.store(lists + chosen.to(tl.int64) * tokens + rank, entry, mask=mask)
    for s in tl.static_range(SHARED):
        entry = row * (K + SHARED) + K + s
        tl.store(gates + entry, tl.full([ROWS], 1.0, tl.float32), mask=row < tokens)
        tl.store(lists + (experts + s).to(tl.int64) * tokens + row, entry, mask=row < tokens)
        tl.store(counts + experts + s + tl.zeros([ROWS], tl.int32), tokens + tl.zeros([ROWS], tl.int32))


@triton.jit
def _normaliser(x, temperature, vocab, BLOCK: tl.constexpr):
    """The maximum of a row of logits over the temperature, and the FP64 sum of their exponentials above it."""
    i = tl.arange(0, BLOCK)
    best = tl.full([], float("-inf"), tl.float32)
    for start in range(0, vocab, BLOCK):
        value = tl.load(x + start + i, mask=start + i < vocab, other=float("-inf")) / temperature
        best = tl.maximum(best, tl.max(value, 0))
    total = best.to(tl.float64) * 0.0
    for start in range(0, vocab, BLOCK):
        value = tl.load(x + start + i, mask=start + i < vocab, other=float("-inf")) / temperature
        total += tl.sum(tl.exp(value - best).to(tl.float64), 0)
    return best, total


@triton.jit
def _logprob_kernel(logits, tokens, out, entropy, temperature, vocab, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    x = logits + row * vocab
    best, total = _normaliser(x, temperature, vocab, BLOCK)
    value = tl.load(x + tl.load(tokens + row)) / temperature
    normaliser = tl.log(total.to(tl.float32))
    tl.store(out + row, (value - best) - normaliser)
    i = tl.arange(0, BLOCK)
    spread = best * 0.0
    for start in range(0, vocab, BLOCK):
        drop = tl.load(x + start + i, mask=start + i < vocab, other=float("-inf")) / temperature - best
        spread += tl.sum(tl.where(drop > -1e4, tl.exp(drop) * drop, 0.0), 0)
    tl.store(entropy + row, normaliser - spread / total.to(tl.float32))


@triton.jit
def _draw_kernel(logits, u, temperature, tokens, out, vocab, GREEDY: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    x = logits + row * vocab
    heat = tl.load(temperature)
    best, total = _normaliser(x, heat, vocab, BLOCK)
    goal = tl.load(u + row) * total
    i = tl.arange(0, BLOCK)
    below = total * 0.0
    token = tl.zeros([], tl.int32)
    possible = tl.zeros([], tl.int32)
    for start in range(0, vocab, BLOCK):
        inside = start + i < vocab
        value = tl.load(x + start + i, mask=inside, other=float("-inf")) / heat
        if GREEDY:
            first = tl.min(tl.where((value == best) & inside, start + i, vocab), 0)
            possible = tl.where((possible == 0) & (first < vocab), first + 1, possible)
        else:
            mass = tl.exp(value - best).to(tl.float64)
            sums = below + tl.cumsum(mass, 0)
            token += tl.sum(((sums <= goal) & inside).to(tl.int32), 0)
            possible = tl.maximum(possible, tl.max(tl.where((mass > 0) & inside, start + i, 0), 0))
            below = tl.max(sums, 0)
    if GREEDY:
        token = possible - 1
    else:
        # The sums of two orders can differ in their last digit, and u be within it of 1.
        token = tl.minimum(token, possible)
    tl.store(tokens + row, token.to(tl.int64))
    taken = tl.load(x + token) / heat
    tl.store(out + row, (taken - best) - tl.log(total.to(tl.float32)))


def advance(active: Tensor, width: int, tokens: Tensor, logp: Tensor, state: Progress, end: int) -> Tensor:
    """Adds what B rows drew to their ``state``: ``tokens`` int64 and ``logp`` FP32 [B width]. ``active`` int32 [B]
    names the rows. With a ``width`` of 2 a row was given its last token and a guess at the next one; the second draw
    counts where the first equals the guess. Returns int64 [B]: the place of each row's last draw that counts."""
    rows = len(active)
    last = torch.empty(rows, dtype=torch.int64, device=active.device)
    _advance_kernel[(triton.cdiv(rows, 128),)](
        active, tokens, logp, *state, last, rows, end, state.tokens.shape[1], WIDTH=width, ROWS=128, num_warps=4
    )
    return last


@triton.jit
def _advance_kernel(
    active, drawn, logp, token, guess, position, count, room, alive, tokens, logprobs, last, rows, end, most,
    WIDTH: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    real = i < rows
    row = tl.load(active + i, mask=real, other=0).to(tl.int64)
    n = tl.load(count + row, mask=real, other=0)
    space = tl.load(room + row, mask=real, other=0)
    going = tl.load(alive + row, mask=real, other=0) != 0
    first = tl.load(drawn + i * WIDTH, mask=real, other=0)
    where = row * most + n
    tl.store(tokens + where, first, mask=real & going)
    tl.store(logprobs + where, tl.load(logp + i * WIDTH, mask=real, other=0.0), mask=real & going)
    taken = going.to(tl.int32)
    final = first
    place = i * WIDTH
    going = going & (first != end) & (n + 1 < space)
    if WIDTH == 2:
        guessed = real & going & (tl.load(guess + row, mask=real, other=0) == first)
        second = tl.load(drawn + i * 2 + 1, mask=real, other=0)
        tl.store(tokens + where + 1, second, mask=guessed)
        tl.store(logprobs + where + 1, tl.load(logp + i * 2 + 1, mask=real, other=0.0), mask=guessed)
        taken += guessed.to(tl.int32)
        place += guessed.to(tl.int32)
        final = tl.where(guessed, second, first)
        going = going & ((guessed & (second != end) & (n + 2 < space)) | (guessed == 0))
    tl.store(last + i, place.to(tl.int64), mask=real)
    # A row that has ended stays where it is until the host takes it away.
    tl.store(token + row, final, mask=real & going)
    tl.store(position + row, tl.load(position + row, mask=real, other=0) + taken, mask=real & going)
    tl.store(count + row, n + taken, mask=real)
    tl.store(alive + row, going.to(tl.int8), mask=real)
