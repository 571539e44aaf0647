"""Weights on their way: cast, quantised or copied, and digested (`model.digest`) as they pass, many tensors a launch.

A launch goes by a table on the device, a line a program, of addresses and sizes, which is laid down once where tensors
stay in their places. A digest costs no reading: the program that writes a word has it in a register. Nor does it cost
waiting: a program adds its sum to its tensor's and ends. (Programs that also counted themselves, so that the last one
knew it, kept their registers until all that they had written had arrived: 4 % of the time on an H200.)
"""

# Kernels are typed by Triton at each launch.
# mypy: disable-error-code="untyped-decorator, no-untyped-def"

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.digest import MULTIPLIER, ROW, column_factors
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
MIX = tl.constexpr(MULTIPLIER)
mover = partial(launched, shared=10)
"""A kernel that moves weights: past the cache, which is left to the numbers of their digests."""


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


class Line(NamedTuple):
    """What a kernel is told of a tensor, and how many rows or blocks it has."""

    fields: Sequence[int]
    size: int


def table(lines: Sequence[Line]) -> Tensor:
    """int64 [programs, 2 + fields]: a program's first row or block, how many programs share its tensor, and that
    tensor's line."""
    counts = torch.tensor([min(PROGRAMS, cdiv(line.size, LEAST)) for line in lines], dtype=torch.int64)
    line = torch.arange(len(lines)).repeat_interleave(counts)
    first = torch.arange(len(line)) - (counts.cumsum(0) - counts)[line]
    fields = torch.tensor([line.fields for line in lines], dtype=torch.int64)
    return torch.cat([first[:, None], counts[line, None], fields[line]], 1)


class Launch(NamedTuple):
    """Of one kernel, with its `table`, and constants that the others have not."""

    kernel: Any
    grid: tuple[int]
    programs: Tensor
    constants: Mapping[str, int]

    @staticmethod
    def of(kernel: Any, lines: Sequence[Line], device: torch.device, **constants: int) -> Launch:
        programs = table(lines)
        return Launch(kernel, (len(programs),), programs.to(device, non_blocking=True), constants)


@dataclass(frozen=True)
class Transfer:
    """What one part of the weights takes: words as they are, words to be cast, and blocks. Tensors come in the order in
    which they arrive: the words' first, then each block's data and scales. ``digests`` are two int64 [tensors, 2], of
    sums and sizes, which take turns: while programs add up the first one's sums, they clear the other's for the next
    run, which saves a launch. (Hence a CUDA graph holds a `launch` for one of them.)"""

    launches: list[Launch]
    digests: list[Tensor]
    factors: Tensor

    @staticmethod
    def of(words: Sequence[Passing], blocks: Sequence[Quantizing] = ()) -> Transfer:
        """Lays the tables down; waits for nothing."""
        arriving = [w.digested for w in words] + [t for q in blocks for t in q.target]
        device = arriving[0].device
        kinds = [[(i, w) for i, w in enumerate(words) if w.kind == kind] for kind in KINDS]
        launches = [
            Launch.of(_words_kernel, _of_words(some), device, KIND=kind) for kind, some in enumerate(kinds) if some
        ]
        if blocks:
            launches.append(Launch.of(_blocks_kernel, _of_blocks(blocks, len(words)), device))
        empty = torch.tensor([[[0, t.nbytes] for t in arriving]] * 2).to(device, non_blocking=True)
        return Transfer(launches, [*empty], column_factors(device))

    def run(self, *, sums: bool = True) -> Tensor:
        """Digests int64 [tensors, 2] of the kind "sum", which stay until the next run, or [0, 2] without ``sums``."""
        if sums:
            self.turn()
        return self.launch(sums=sums)

    def turn(self) -> int:
        """In front of each `launch` with sums. Names the digests that it will find."""
        self.digests.reverse()
        return self.digests[0].data_ptr()

    def launch(self, *, sums: bool = True) -> Tensor:
        found, cleared = self.digests
        for kernel, grid, programs, constants in self.launches:
            kernel[grid](programs, self.factors, found, cleared, ROW=ROW, SUMS=sums, **constants, num_warps=4)
        return found if sums else found[:0]


def _of_words(words: Sequence[tuple[int, Passing]]) -> list[Line]:
    """With the slot of each in what is found."""
    fields = [[slot, _address(w.source), _address(w.target), w.digested.nbytes // 4] for slot, w in words]
    return [Line(line, cdiv(line[-1], ROW)) for line in fields]


def _of_blocks(blocks: Sequence[Quantizing], slot: int) -> list[Line]:
    """From this slot on, two each."""
    lines = []
    for i, (source, target) in enumerate(blocks):
        experts, n, k = source.shape
        fields = [slot + 2 * i, *map(_address, (source, *target)), experts, n, k // 16]
        lines.append(Line(fields, experts * cdiv(n, BLOCK) * cdiv(k, BLOCK)))
    return lines


def word_sums(tensors: Sequence[Tensor]) -> Tensor:
    """The digests of ``tensors``, contiguous and of whole words of 4 bytes, int64 [len(tensors), 2]."""
    return Transfer.of([Passing(t) for t in tensors]).run()


def _address(t: Tensor | None) -> int:
    """In 16s, which a kernel then knows of it."""
    return 0 if t is None else t.data_ptr() // 16


@triton.jit
def _assigned(programs, FIELDS: tl.constexpr):
    """This program's first row or block, how far it is to its next one, and where its line is."""
    own = programs + (2 + FIELDS) * tl.program_id(0)
    return tl.load(own), tl.load(own + 1), own + 2


@triton.jit
def _add_up(found, cleared, slot, own, first):
    """Adds a program's ``own`` sum to a tensor's, and waits for nothing."""
    tl.atomic_add(found + 2 * slot, own, sem="relaxed")
    if first == 0:
        tl.store(cleared + 2 * slot, 0)


@triton.jit
def _passed(source, target, row, count, ROW: tl.constexpr, KIND: tl.constexpr, WHOLE: tl.constexpr):
    """A row of words [ROW] from source to target; returns those that are digested."""
    at = row * ROW + tl.arange(0, ROW)
    inside = WHOLE | (at < count)
    if KIND == 1:
        pair = row * 2 * ROW + tl.arange(0, 2 * ROW)
        there = tl.multiple_of(source.to(tl.pointer_type(tl.float32)) + pair, 16)
        value = tl.load(there, mask=WHOLE | (pair < 2 * count), other=0.0, cache_modifier=".cg")
        half = value.to(tl.bfloat16).to(tl.uint16, bitcast=True).to(tl.int32)
        low, high = tl.split(tl.reshape(half, [ROW, 2]))
        word = low | high << 16
    else:
        there = tl.multiple_of(source.to(tl.pointer_type(tl.int32)) + at, 16)
        word = tl.load(there, mask=inside, other=0, cache_modifier=".cg")
    if KIND == 2:
        rounded = word.to(tl.float32, bitcast=True).to(tl.bfloat16)
        tl.store(tl.multiple_of(target.to(tl.pointer_type(tl.bfloat16)) + at, 16), rounded, mask=inside)
    elif target != 0:
        tl.store(tl.multiple_of(target.to(tl.pointer_type(tl.int32)) + at, 16), word, mask=inside)
    return word.to(tl.int64)


@triton.jit
def _row_factor(row):
    """A row's number in a digest (`model.digest.row_factors`), int32."""
    mixed = tl.cast(row, tl.uint32) * MIX
    return (mixed ^ (mixed >> 15) | 1).to(tl.int32, bitcast=True)


@mover
@triton.jit
def _words_kernel(programs, b, found, cleared, ROW: tl.constexpr, SUMS: tl.constexpr, KIND: tl.constexpr):
    first, step, line = _assigned(programs, 4)
    source, target, count = tl.load(line + 1) * 16, tl.load(line + 2) * 16, tl.load(line + 3)
    whole = count // ROW
    total = tl.zeros([ROW], tl.int64)
    for row in range(first, whole, step):
        word = _passed(source, target, row, count, ROW, KIND, True)
        if SUMS:
            total += word * _row_factor(row).to(tl.int64)
    if (whole * ROW < count) & (whole % step == first):
        word = _passed(source, target, whole, count, ROW, KIND, False)
        if SUMS:
            total += word * _row_factor(whole).to(tl.int64)
    if SUMS:
        own = tl.sum(total * tl.load(b + tl.arange(0, ROW)).to(tl.int64))
        _add_up(found, cleared, tl.load(line), own, first)


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
    return tl.load(
        tl.multiple_of(w + row[:, None] * k + col[None, :], [1, 16]), mask=inside, other=0.0, cache_modifier=".cg"
    )


@triton.jit
def _store_words(data, word, before, row, block, n, k, b, SUMS: tl.constexpr):
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
        factor = _row_factor((first + four).to(tl.uint32) >> 10)
        sums = tl.sum(tl.reshape(products, [word.shape[0], 8, 4]), 2) * factor.to(tl.int64)
        tl.debug_barrier()  # or what the quarters need is fetched at once, in registers that other programs could use
    return sums


@mover
@triton.jit
def _blocks_kernel(programs, b, found, cleared, ROW: tl.constexpr, SUMS: tl.constexpr):
    """Blocks of 128x128 as in `model.kernels.quantize`, as four quarters of every fourth row, one after another."""
    tl.static_assert(ROW == 1024)
    first, step, line = _assigned(programs, 7)
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
        total += _store_words(there, _four(q0, inverse), before, row, kb, n, k, b, SUMS)
        total += _store_words(there, _four(q1, inverse), before, row + 1, kb, n, k, b, SUMS)
        total += _store_words(there, _four(q2, inverse), before, row + 2, kb, n, k, b, SUMS)
        total += _store_words(there, _four(q3, inverse), before, row + 3, kb, n, k, b, SUMS)
        tl.store(scales + where, scale)
        if SUMS:
            word = scale.to(tl.int32, bitcast=True).to(tl.int64)
            of_scales += word * _row_factor(where >> 10).to(tl.int64) * tl.load(b + (where & 1023)).to(tl.int64)
    if SUMS:
        slot = tl.load(line)
        _add_up(found, cleared, slot, tl.sum(tl.sum(total, 1), 0), first)
        _add_up(found, cleared, slot + 1, tl.sum(of_scales, 0), first)
