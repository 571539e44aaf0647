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

from model import sampling
from model.fp8 import BLOCK, Quantized
from model.kernels.invariant import Chosen
from model.kernels.launch import launched
from model.kernels.quantize import _summed, _tiles_of, empty_tiles
from model.kernels.router import _choose
from model.kernels.sizes import cdiv, power_of_two


class Progress(NamedTuple):
    """How far R rows are. int64 ``token`` [R] is each row's last one, whose place is ``position`` int32 [R], and
    ``guess`` [R] a draft of the next. ``done`` int32 [R] tokens were sampled of at most ``room`` int32 [R] in ``steps``
    int32 [R]; ``alive`` int8 [R]. ``tokens`` int64 and ``logprobs`` FP32 [R, most] keep what was sampled."""

    token: Tensor
    guess: Tensor
    position: Tensor
    done: Tensor
    room: Tensor
    steps: Tensor
    alive: Tensor
    tokens: Tensor
    logprobs: Tensor


CHOOSE_ROWS, CHOOSE_WARPS = 1, 1
SCAN, SCAN_WARPS = 4096, 8
"""Vocabulary entries of one step of the scan that a draw makes."""
BELOW_1 = tl.constexpr(sampling.BELOW_1)


def add_norm(
    residual: Tensor, parts: Tensor | None, weight: Tensor, eps: float, *, quantized: bool = False,
    total: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | Quantized]:  # fmt: skip
    """``residual`` [N, H] plus the sum of ``parts`` [N, P, H], added in FP32 and rounded once (where given, into
    ``total``); its RMSNorm; and that as a product takes it, in FP8 tiles where ``quantized``."""
    tokens, hidden = residual.shape
    if total is None:
        total = residual if parts is None else torch.empty_like(residual)
    normed = torch.empty_like(residual)
    codes = empty_tiles(residual, tokens, hidden) if quantized else None
    if tokens:
        _add_norm_kernel[(tokens,)](
            residual, parts if parts is not None else residual, weight, eps, total, normed,
            *(codes or (residual, weight)), codes.scale.stride(1) if codes else 0, hidden,
            PARTS=parts.shape[1] if parts is not None else 0, WIDTH=power_of_two(hidden), QUANTIZED=quantized,
            TILE=BLOCK, num_warps=4,
        )  # fmt: skip
    return total, normed, codes or normed


def choose(
    logits: Tensor, bias: Tensor, counts: Tensor, *, k: int, groups: int, kept: int, shared: int, normalize: bool,
    factor: float,
) -> tuple[Tensor, Tensor, Chosen]:  # fmt: skip
    """``logits`` FP32 [N, P, E] are summed over P; ``bias`` FP32 [E]; ``counts`` int32 [E + shared] comes as zeros and
    is filled. Returns the scores FP32 [N, E], the chosen experts int32 [N, k] and what `experts` needs."""
    (tokens, parts, count), device = logits.shape, logits.device
    scores = torch.empty(tokens, count, device=device)
    indices = torch.empty(tokens, k, dtype=torch.int32, device=device)
    gates = torch.empty(tokens, k + shared, device=device)
    lists = torch.empty(count + shared, tokens, dtype=torch.int32, device=device)
    if tokens:
        _choose_kernel[(cdiv(tokens, CHOOSE_ROWS),)](
            logits, bias, scores, indices, gates, lists, counts, tokens, count // groups, factor,
            PARTS=parts, K=k, SHARED=shared, GROUPS=groups, KEPT=kept, NORMALIZE=normalize, ROWS=CHOOSE_ROWS,
            G=power_of_two(groups), W=power_of_two(count // groups), num_warps=CHOOSE_WARPS,
        )  # fmt: skip
    return scores, indices, Chosen(gates, lists, counts)


def token_logprobs(logits: Tensor, tokens: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """FP32 ``logits`` [N, V] -> log-probabilities FP32 [N] of ``tokens`` [N], computed as `draw` does, and the
    entropies [N] in nats."""
    out, entropy = logits.new_empty(len(logits)), logits.new_empty(len(logits))
    if len(logits):
        _logprob_kernel[(len(logits),)](
            logits, tokens, out, entropy, temperature, logits.shape[1],
            BLOCK=SCAN, BLOCKS=_blocks(logits), num_warps=SCAN_WARPS,
        )  # fmt: skip
    return out, entropy


def draw(
    logits: Tensor, keys: Tensor, rows: Tensor, numbers: Tensor, temperature: Tensor, *, greedy: bool
) -> tuple[Tensor, Tensor]:
    """`model.sampling.draw`: FP32 ``logits`` [N, V], with the one of ``keys`` int32 [R, most] at ``rows`` and
    ``numbers`` int32 [N] (or the row's last one), ``temperature`` FP32 [1] on the device -> tokens int64 [N] and their
    log-probabilities FP32 [N]."""
    tokens = torch.empty(len(logits), dtype=torch.int64, device=logits.device)
    logp = logits.new_empty(len(logits))
    if len(logits):
        _draw_kernel[(len(logits),)](
            logits, keys, rows, numbers, keys.shape[1], temperature, tokens, logp, logits.shape[1],
            GREEDY=greedy, BLOCK=SCAN, BLOCKS=_blocks(logits), num_warps=SCAN_WARPS,
        )  # fmt: skip
    return tokens, logp


def distances(ours: Tensor, theirs: Tensor, out: Tensor) -> None:
    """Of streams [L, N, H] to FP32 ``out`` [L]: how far a row of ours is off theirs in norm, relative to theirs, on
    average over the N. Not a number where either holds one."""
    layers, tokens, hidden = ours.shape
    _distances_kernel[(layers,)](ours, theirs, out, tokens, hidden, WIDTH=power_of_two(hidden), num_warps=4)


def _blocks(logits: Tensor) -> int:
    return power_of_two(cdiv(logits.shape[1], SCAN))


@launched
@triton.jit
def _distances_kernel(ours, theirs, out, tokens, hidden, WIDTH: tl.constexpr):
    layer, i = tl.program_id(0), tl.arange(0, WIDTH)
    total = 0.0
    for token in range(0, tokens):
        at = (layer.to(tl.int64) * tokens + token) * hidden + i
        own = tl.load(theirs + at, mask=i < hidden, other=0.0).to(tl.float32)
        off = tl.load(ours + at, mask=i < hidden, other=0.0).to(tl.float32) - own
        size = tl.sqrt(tl.sum(own * own, 0))
        total += tl.sqrt(tl.sum(off * off, 0)) / tl.where(size == 0.0, 1e-30, size)
    tl.store(out + layer, total / tokens)


@launched
@triton.jit
def _add_norm_kernel(
    residual, parts, weight, eps, total, normed, codes, sizes, size_stride, hidden,
    PARTS: tl.constexpr, WIDTH: tl.constexpr, QUANTIZED: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, WIDTH)
    mask = i < hidden
    x = tl.load(residual + token * hidden + i, mask=mask, other=0.0)
    if PARTS > 0:
        x = (x.to(tl.float32) + _summed(parts + token * PARTS * hidden, hidden, i, mask, PARTS)).to(x.dtype)
        tl.store(total + token * hidden + i, x, mask=mask)
    value = x.to(tl.float32)
    value *= tl.rsqrt(tl.sum(value * value, 0) / hidden + eps)
    value *= tl.load(weight + i, mask=mask, other=0.0)
    tl.store(normed + token * hidden + i, value.to(normed.dtype.element_ty), mask=mask)
    if QUANTIZED:
        _tiles_of(value, codes + token * hidden, sizes + token, size_stride, hidden, WIDTH, TILE)


@launched
@triton.jit
def _choose_kernel(
    logits, bias, scores, indices, gates, lists, counts, tokens, width, factor,
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
    tl.store(scores + row.to(tl.int64)[:, None, None] * experts + expert[None, :, :], score, mask=mask)
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
def _normaliser(x, temperature, vocab, BLOCK: tl.constexpr, BLOCKS: tl.constexpr):
    """The maximum of a row of logits over the temperature, and the FP64 sum of their exponentials above it."""
    i, block = tl.arange(0, BLOCK), tl.arange(0, BLOCKS)
    tops = tl.full([BLOCKS], float("-inf"), tl.float32)
    masses = tl.zeros([BLOCKS], tl.float64)
    for start in range(0, vocab, BLOCK):
        value = tl.load(x + start + i, mask=start + i < vocab, other=float("-inf")) / temperature
        top = tl.max(value, 0)
        mass = tl.sum(tl.exp(value - top).to(tl.float64), 0)
        tops = tl.where(block == start // BLOCK, top, tops)
        masses = tl.where(block == start // BLOCK, mass, masses)
    best = tl.max(tops, 0)
    return best, tl.sum(masses * tl.exp(tops - best).to(tl.float64), 0)


@launched
@triton.jit
def _logprob_kernel(
    logits, tokens, out, entropy, temperature, vocab, BLOCK: tl.constexpr, BLOCKS: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    x = logits + row * vocab
    best, total = _normaliser(x, temperature, vocab, BLOCK, BLOCKS)
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
def _mixed(x):
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def _exponentials(key, i):
    """Those of ``key`` at the places int32 ``i``, as `model.sampling.exponentials` has them."""
    hashed = _mixed(_mixed((i + 1).to(tl.uint32)) ^ key.to(tl.uint32, bitcast=True))
    part = ((hashed & 0x7FFFFFFF).to(tl.float32) + 0.5) * BELOW_1
    # Where the logarithm of 1 - part would be that of its rounding, four terms of its series.
    series = part * (1.0 + part * (0.5 + part * (1.0 / 3.0 + part * 0.25)))
    return tl.where(part < 1 / 64, series, -tl.log(1.0 - part))


@launched
@triton.jit
def _draw_kernel(
    logits, keys, rows, numbers, most, temperature, tokens, out, vocab,
    GREEDY: tl.constexpr, BLOCK: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    x = logits + row * vocab
    heat = tl.load(temperature)
    key = tl.load(keys + tl.load(rows + row).to(tl.int64) * most + tl.minimum(tl.load(numbers + row), most - 1))
    best, total = _normaliser(x, heat, vocab, BLOCK, BLOCKS)
    token, lead = 0, float("-inf")
    for start in range(0, vocab, BLOCK):
        i = start + tl.arange(0, BLOCK)
        score = tl.load(x + i, mask=i < vocab, other=float("-inf")) / heat - best
        if not GREEDY:
            score = tl.exp(score) / _exponentials(key, i)
        top = tl.max(score, 0)
        token = tl.where(top > lead, tl.min(tl.where(score == top, i, vocab), 0), token)
        lead = tl.maximum(top, lead)
    tl.store(tokens + row, token)
    taken = tl.load(x + token) / heat
    tl.store(out + row, (taken - best) - tl.log(total.to(tl.float32)))


def gather(active: Tensor, width: int, state: Progress) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What a step runs for B rows: the tokens int64 [B width], and int32 [B width] their rows, positions and the
    numbers of the draws behind them. With a ``width`` of 2 a row's guess follows its last token."""
    tokens = torch.empty(len(active) * width, dtype=torch.int64, device=active.device)
    rows, positions, numbers = (torch.empty_like(tokens, dtype=torch.int32) for _ in range(3))
    _gather_kernel[(cdiv(len(active), 128),)](
        active, state.token, state.guess, state.position, state.done, tokens, rows, positions, numbers, len(active),
        WIDTH=width, ROWS=128, num_warps=4,
    )  # fmt: skip
    return tokens, rows, positions, numbers


@launched
@triton.jit
def _gather_kernel(
    active, token, guess, position, done, tokens, rows, positions, numbers, count,
    WIDTH: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    real = i < count
    row = tl.load(active + i, mask=real, other=0)
    for j in tl.static_range(WIDTH):
        tl.store(tokens + i * WIDTH + j, tl.load((token if j == 0 else guess) + row, mask=real), mask=real)
        tl.store(rows + i * WIDTH + j, row, mask=real)
        tl.store(positions + i * WIDTH + j, tl.load(position + row, mask=real) + j, mask=real)
        tl.store(numbers + i * WIDTH + j, tl.load(done + row, mask=real) + j, mask=real)


def advance(active: Tensor, width: int, tokens: Tensor, logp: Tensor, state: Progress, end: int) -> Tensor:
    """Adds what B rows drew to their ``state``: ``tokens`` int64 and ``logp`` FP32 [B width]. ``active`` int32 [B]
    names the rows. With a ``width`` of 2 a row was given its last token and a guess at the next one; the second draw
    counts where the first equals the guess. Returns int64 [B]: the place of each row's last draw that counts."""
    rows = len(active)
    last = torch.empty(rows, dtype=torch.int64, device=active.device)
    _advance_kernel[(cdiv(rows, 128),)](
        active, tokens, logp, *state, last, rows, end, state.tokens.shape[1], WIDTH=width, ROWS=128, num_warps=4
    )
    return last


@launched
@triton.jit
def _advance_kernel(
    active, drawn, logp, token, guess, position, count, room, steps, alive, tokens, logprobs, last, rows, end, most,
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
    tl.store(steps + row, tl.load(steps + row, mask=real, other=0) + taken, mask=real)
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
