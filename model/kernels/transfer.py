"""Weights on their way: cast, quantised or copied, and digested (`model.digest`) as they pass, many tensors a launch.

A launch goes by a table on the device, a line a tensor, of addresses and sizes, which is laid down once where tensors
stay in their places. A digest costs no reading: the program that writes a word has it in a register.
"""

# Kernels are typed by Triton at each launch.
# mypy: disable-error-code="untyped-decorator, no-untyped-def"

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.digest import factors, rows
from model.fp8 import BLOCK, Quantized
from model.kernels.launch import launched
from model.kernels.quantize import _largest, _scale
from model.kernels.sizes import cdiv

PROGRAMS = 1024
"""At most so many share one tensor."""
MOVED, CAST, ROUNDED = KINDS = 0, 1, 2
"""What becomes of words: nothing; a cast whose result is digested; one whose source is."""
LEAST = 4
"""Rows of words, or blocks, that a program is worth."""


class Passing(NamedTuple):
    """Words of 4 bytes from ``source`` to ``target`` of the same bytes, or FP32 to a BF16 target of an even length; the
    digest is of what arrives, or ``sent`` of what came. Without a target they are read for it alone. Both are
    contiguous, at addresses in 16s."""

    source: Tensor
    target: Tensor | None = None
    sent: bool = False

    @property
    def digested(self) -> Tensor:
        return self.source if self.target is None or self.sent else self.target

    @property
    def kind(self) -> int:
        if self.target is None or self.source.dtype != torch.float32 or self.target.dtype != torch.bfloat16:
            return MOVED
        return ROUNDED if self.sent else CAST


class Quantizing(NamedTuple):
    """``source`` FP32 [E, N, K], K in 16s, in 128x128 blocks: data [E, N, K] and scales [E, ceil(N / 128), ceil(K /
    128)], all contiguous, at addresses
    in 16s."""

    source: Tensor
    target: Quantized


class Table(NamedTuple):
    """``lines`` int64 [tensors, fields]; ``programs`` int64 [programs, 3]: its line, its first row or block there, and
    how many programs share that line."""

    lines: Tensor
    programs: Tensor

    @staticmethod
    def of(lines: Sequence[Sequence[int]], sizes: Sequence[int], device: torch.device) -> Table:
        """``sizes``: how many rows or blocks each line has."""
        counts = torch.tensor([min(PROGRAMS, cdiv(size, LEAST)) for size in sizes], dtype=torch.int64)
        line = torch.arange(len(sizes)).repeat_interleave(counts)
        before = (counts.cumsum(0) - counts)[line]
        programs = torch.stack([line, torch.arange(len(line)) - before, counts[line]], 1)
        return Table(_on(lines, device), programs.to(device, non_blocking=True))


@dataclass(frozen=True)
class Transfer:
    """What one part of the weights takes: words as they are, words to be cast, and blocks. ``sums`` int64 [tensors, 2]
    is where programs add digests up and count themselves: the last one of a tensor leaves zeros there, as it was, since
    to clear it took a launch. Tensors come in the order in which they arrive: the words' first, then each block's data
    and scales."""

    words: tuple[Table, ...]
    blocks: Table
    sums: Tensor
    factors: tuple[Tensor, Tensor]

    @staticmethod
    def of(words: Sequence[Passing], blocks: Sequence[Quantizing] = ()) -> Transfer:
        """Lays the tables down; waits for nothing."""
        arriving = [w.digested for w in words] + [t for q in blocks for t in q.target]
        device = arriving[0].device
        tables = tuple(_of_words([(i, w) for i, w in enumerate(words) if w.kind == kind], device) for kind in KINDS)
        quantized = _of_blocks(blocks, len(words), device)
        longest = max(rows(t.nbytes // 4) for t in arriving)
        sums = torch.zeros(len(arriving), 2, dtype=torch.int64, device=device)
        return Transfer(tables, quantized, sums, factors(longest, device))

    def run(self, *, sums: bool = True) -> Tensor:
        """Digests int64 [tensors, 2] of the kind "sum", or [0, 2] without ``sums``."""
        found = torch.empty_like(self.sums)
        given, options = (*self.factors, self.sums, found), {"ROW": len(self.factors[1]), "SUMS": sums}
        for kind, table in enumerate(self.words):
            if len(table.programs):
                _words_kernel[(len(table.programs),)](*table, *given, **options, KIND=kind, num_warps=4)
        if len(self.blocks.programs):
            _blocks_kernel[(len(self.blocks.programs),)](*self.blocks, *given, **options, num_warps=4)
        return found if sums else found[:0]


def _of_words(words: Sequence[tuple[int, Passing]], device: torch.device) -> Table:
    """With the slot of each in what is found."""
    lines = [[slot, _address(w.source), _address(w.target), w.digested.nbytes // 4] for slot, w in words]
    return Table.of(lines, [rows(line[-1]) for line in lines], device)


def _of_blocks(blocks: Sequence[Quantizing], slot: int, device: torch.device) -> Table:
    """From this slot on, two each."""
    lines, sizes = [], []
    for i, (source, target) in enumerate(blocks):
        experts, n, k = source.shape
        lines.append([slot + 2 * i, *map(_address, (source, *target)), experts, n, k // 16])
        sizes.append(experts * cdiv(n, BLOCK) * cdiv(k, BLOCK))
    return Table.of(lines, sizes, device)


def _on(numbers: Sequence[object], device: torch.device) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int64).to(device, non_blocking=True)


def word_sums(tensors: Sequence[Tensor]) -> Tensor:
    """The digests of ``tensors``, contiguous and of whole words of 4 bytes, int64 [len(tensors), 2]."""
    return Transfer.of([Passing(t) for t in tensors]).run()


def _address(t: Tensor | None) -> int:
    """In 16s, which a kernel then knows of it."""
    return 0 if t is None else t.data_ptr() // 16


@triton.jit
def _assigned(lines, programs, FIELDS: tl.constexpr):
    """This program's line, its first row and how far it is to its next one."""
    own = programs + 3 * tl.program_id(0)
    return lines + FIELDS * tl.load(own), tl.load(own + 1), tl.load(own + 2)


@triton.jit
def _add_up(sums, found, slot, own, programs, size):
    """Adds a program's ``own`` sum to a tensor's, which has ``size`` bytes. The last program writes the digest."""
    at = sums + 2 * slot
    tl.atomic_add(at, own)
    if tl.atomic_add(at + 1, 1) == programs - 1:
        tl.store(found + 2 * slot, tl.atomic_xchg(at, 0))
        tl.store(found + 2 * slot + 1, size)
        tl.store(at + 1, 0)


@triton.jit
def _passed(source, target, row, count, ROW: tl.constexpr, KIND: tl.constexpr, WHOLE: tl.constexpr):
    """A row of words [ROW] from source to target; returns those that are digested."""
    at = row * ROW + tl.arange(0, ROW)
    inside = WHOLE | (at < count)
    if KIND == 1:
        pair = row * 2 * ROW + tl.arange(0, 2 * ROW)
        there = tl.multiple_of(source.to(tl.pointer_type(tl.float32)) + pair, 16)
        value = tl.load(there, mask=WHOLE | (pair < 2 * count), other=0.0)
        half = value.to(tl.bfloat16).to(tl.uint16, bitcast=True).to(tl.int32)
        low, high = tl.split(tl.reshape(half, [ROW, 2]))
        word = low | high << 16
    else:
        there = tl.multiple_of(source.to(tl.pointer_type(tl.int32)) + at, 16)
        word = tl.load(there, mask=inside, other=0)
    if KIND == 2:
        rounded = word.to(tl.float32, bitcast=True).to(tl.bfloat16)
        tl.store(tl.multiple_of(target.to(tl.pointer_type(tl.bfloat16)) + at, 16), rounded, mask=inside)
    elif target != 0:
        tl.store(tl.multiple_of(target.to(tl.pointer_type(tl.int32)) + at, 16), word, mask=inside)
    return word.to(tl.int64)


@launched
@triton.jit
def _words_kernel(lines, programs, a, b, sums, found, ROW: tl.constexpr, SUMS: tl.constexpr, KIND: tl.constexpr):
    line, first, step = _assigned(lines, programs, 4)
    source, target, count = tl.load(line + 1) * 16, tl.load(line + 2) * 16, tl.load(line + 3)
    whole = count // ROW
    total = tl.zeros([ROW], tl.int64)
    for row in range(first, whole, step):
        word = _passed(source, target, row, count, ROW, KIND, True)
        if SUMS:
            total += word * tl.load(a + row).to(tl.int64)
    if (whole * ROW < count) & (whole % step == first):
        word = _passed(source, target, whole, count, ROW, KIND, False)
        if SUMS:
            total += word * tl.load(a + whole).to(tl.int64)
    if SUMS:
        own = tl.sum(total * tl.load(b + tl.arange(0, ROW)).to(tl.int64))
        _add_up(sums, found, tl.load(line), own, step, 4 * count)


@triton.jit
def _four(value, inverse):
    """The codes [R, 4 W] of ``value`` as words [R, W], the first code lowest."""
    code = (value * inverse).to(tl.float8e4nv).to(tl.uint8, bitcast=True).to(tl.int32)
    low, high = tl.split(tl.reshape(code, [code.shape[0], code.shape[1] // 2, 2]))
    first, second = tl.split(tl.reshape(low | high << 8, [code.shape[0], code.shape[1] // 4, 2]))
    return first | second << 16


@triton.jit
def _quarter(w, row, col, n, k):
    """FP32 [32, 128] of an expert, zero where nothing is."""
    inside = (row < n)[:, None] & (col < k)[None, :]
    return tl.load(tl.multiple_of(w + row[:, None] * k + col[None, :], [1, 16]), mask=inside, other=0.0)


@triton.jit
def _store_words(data, word, before, row, block, n, k, a, b, SUMS: tl.constexpr):
    """Stores words [R, 32] at these rows and a block of columns of an expert, in front of which so many words lie;
    returns their products with the factors [R, 8], summed by fours: so many neighbours lie in one row of the digest's,
    rows here being of words in fours."""
    first, col = row[:, None] * (k // 4), block * 32 + tl.arange(0, 32)[None, :]
    inside = (row < n)[:, None] & (col < k // 4)
    tl.store(tl.multiple_of(data + first + col, [1, 16]), word, mask=inside)
    sums = tl.zeros([word.shape[0], 8], tl.int64)
    if SUMS:
        first += before
        column = tl.max_contiguous(tl.multiple_of((first + col) & 1023, [1, 4]), [1, 4])
        factor = tl.load(tl.multiple_of(b + column, [1, 16]), mask=inside, other=0)
        products = word.to(tl.int64) * factor.to(tl.int64)
        four = block * 32 + 4 * tl.arange(0, 8)[None, :]
        there = (row < n)[:, None] & (four < k // 4)
        factor = tl.load(a + ((first + four).to(tl.uint32) >> 10), mask=there, other=0)
        sums = tl.sum(tl.reshape(products, [word.shape[0], 8, 4]), 2) * factor.to(tl.int64)
        tl.debug_barrier()  # or what the quarters need is fetched at once, in registers that other programs could use
    return sums


@launched
@triton.jit
def _blocks_kernel(lines, programs, a, b, sums, found, ROW: tl.constexpr, SUMS: tl.constexpr):
    """Blocks of 128x128 as in `model.kernels.quantize`, as four quarters of every fourth row, one after another."""
    tl.static_assert(ROW == 1024)
    line, first, step = _assigned(lines, programs, 7)
    w = (tl.load(line + 1) * 16).to(tl.pointer_type(tl.float32))
    data = (tl.load(line + 2) * 16).to(tl.pointer_type(tl.int32))
    scales = (tl.load(line + 3) * 16).to(tl.pointer_type(tl.float32))
    # A tensor has fewer than 2^32 words, and an expert than 2^31 numbers: longer ones would cost many instructions.
    experts, n, k = tl.load(line + 4).to(tl.int32), tl.load(line + 5).to(tl.int32), tl.load(line + 6).to(tl.int32) * 16
    nbs, kbs = tl.cdiv(n, 128), tl.cdiv(k, 128)
    total, of_scales = tl.zeros([32, 8], tl.int64), tl.zeros([1], tl.int64)
    for where in range(first.to(tl.int32), experts * nbs * kbs, step.to(tl.int32)):
        expert, nb, kb = where // (nbs * kbs), where // kbs % nbs, where % kbs
        row, col = nb * 128 + 4 * tl.arange(0, 32), kb * 128 + tl.arange(0, 128)
        own, before = w + expert.to(tl.int64) * n * k, expert.to(tl.int64) * n * (k // 4)
        q0 = _quarter(own, row, col, n, k)
        q1 = _quarter(own, row + 1, col, n, k)
        q2 = _quarter(own, row + 2, col, n, k)
        q3 = _quarter(own, row + 3, col, n, k)
        scale, inverse = _scale(tl.max(_largest(q0, q1, q2, q3), 0), False)
        there, before = data + before, before.to(tl.int32)
        total += _store_words(there, _four(q0, inverse), before, row, kb, n, k, a, b, SUMS)
        total += _store_words(there, _four(q1, inverse), before, row + 1, kb, n, k, a, b, SUMS)
        total += _store_words(there, _four(q2, inverse), before, row + 2, kb, n, k, a, b, SUMS)
        total += _store_words(there, _four(q3, inverse), before, row + 3, kb, n, k, a, b, SUMS)
        tl.store(scales + where, scale)
        if SUMS:
            word = scale.to(tl.int32, bitcast=True).to(tl.int64)
            of_scales += word * tl.load(a + (where >> 10)) * tl.load(b + (where & 1023)).to(tl.int64)
    if SUMS:
        slot = tl.load(line)
        _add_up(sums, found, slot, tl.sum(tl.sum(total, 1), 0), step, experts.to(tl.int64) * n * k)
        _add_up(sums, found, slot + 1, tl.sum(of_scales, 0), step, 4 * experts * nbs * kbs)
