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
from model.fp8 import Quantized
from model.kernels.launch import launched
from model.kernels.quantize import _largest, _scale

PROGRAMS = 1024
"""That share the rows, or the blocks, of one tensor."""


class Passing(NamedTuple):
    """Words of 4 bytes from ``source`` to ``target`` of the same bytes, or FP32 to a BF16 target of an even length;
    without a target they are read for their digest alone. Both are contiguous, at addresses in 16s."""

    source: Tensor
    target: Tensor | None = None

    @property
    def arrived(self) -> Tensor:
        return self.source if self.target is None else self.target

    @property
    def cast(self) -> bool:
        return self.arrived.dtype == torch.bfloat16 and self.source.dtype == torch.float32


class Quantizing(NamedTuple):
    """``source`` FP32 [E, N, K], K in 16s, in 128x128 blocks: data [E, N, K] and scales [E, ceil(N / 128), ceil(K /
    128)], all contiguous, at addresses
    in 16s."""

    source: Tensor
    target: Quantized


@dataclass(frozen=True)
class Transfer:
    """What one part of the weights takes: words, and blocks. ``sizes`` int64: the bytes of the tensors that arrive, in
    their order: the words' first, then each block's data and scales; the ``longest`` has so many rows of words."""

    tables: tuple[Tensor, ...]
    sizes: Tensor
    longest: int
    factors: tuple[Tensor, Tensor]

    @staticmethod
    def of(words: Sequence[Passing], blocks: Sequence[Quantizing] = ()) -> Transfer:
        """Lays the tables down; waits for nothing."""
        arriving = [w.arrived for w in words] + [t for q in blocks for t in q.target]
        device = arriving[0].device
        lines: list[list[list[int]]] = [[], [], []]
        for slot, w in enumerate(words):
            target = 0 if w.target is None else _address(w.target)
            lines[w.cast].append([slot, _address(w.source), target, w.arrived.nbytes // 4])
        for i, (source, (data, scale)) in enumerate(blocks):
            experts, n, k = source.shape
            lines[2].append(
                [len(words) + 2 * i, _address(source), _address(data), _address(scale), experts, n, k // 16]
            )
        tables = tuple(_on(table, device) for table in lines)
        longest = max(rows(t.nbytes // 4) for t in arriving)
        return Transfer(tables, _on([t.nbytes for t in arriving], device), longest, factors(longest, device))

    def run(self, *, sums: bool = True, programs: int = PROGRAMS) -> Tensor:
        """Digests int64 [tensors, 2] of the kind "sum", or [0, 2] without ``sums``."""
        programs = min(programs, self.longest)
        found = torch.zeros(len(self.sizes) if sums else 1, dtype=torch.int64, device=self.sizes.device)
        words, cast, blocks = self.tables
        given, options = (*self.factors, found), {"ROW": len(self.factors[1]), "SUMS": sums}
        if len(words):
            _words_kernel[(programs, len(words))](words, *given, **options, CAST=False, num_warps=4)
        if len(cast):
            _words_kernel[(programs, len(cast))](cast, *given, **options, CAST=True, num_warps=4)
        if len(blocks):
            _blocks_kernel[(programs, len(blocks))](blocks, *given, **options, num_warps=8)
        return torch.stack([found, self.sizes], 1) if sums else found.new_empty(0, 2)


def word_sums(tensors: Sequence[Tensor], programs: int = PROGRAMS) -> Tensor:
    """The digests of ``tensors``, contiguous and of whole words of 4 bytes, int64 [len(tensors), 2]."""
    return Transfer.of([Passing(t) for t in tensors]).run(programs=programs)


def _address(t: Tensor) -> int:
    """In 16s, which a kernel then knows of it."""
    return t.data_ptr() // 16


def _on(table: Sequence[object], device: torch.device) -> Tensor:
    return torch.tensor(table, dtype=torch.int64).to(device, non_blocking=True)


@triton.jit
def _passed(source, target, row, count, ROW: tl.constexpr, CAST: tl.constexpr, WHOLE: tl.constexpr):
    """A row of words [ROW] from source to target."""
    at = row * ROW + tl.arange(0, ROW)
    inside = WHOLE | (at < count)
    if CAST:
        pair = row * 2 * ROW + tl.arange(0, 2 * ROW)
        there = tl.multiple_of(source.to(tl.pointer_type(tl.float32)) + pair, 16)
        value = tl.load(there, mask=WHOLE | (pair < 2 * count), other=0.0)
        half = value.to(tl.bfloat16).to(tl.uint16, bitcast=True).to(tl.int32)
        low, high = tl.split(tl.reshape(half, [ROW, 2]))
        word = low | high << 16
    else:
        there = tl.multiple_of(source.to(tl.pointer_type(tl.int32)) + at, 16)
        word = tl.load(there, mask=inside, other=0)
    if target != 0:
        tl.store(tl.multiple_of(target.to(tl.pointer_type(tl.int32)) + at, 16), word, mask=inside)
    return word.to(tl.int64)


@launched
@triton.jit
def _words_kernel(table, a, b, found, ROW: tl.constexpr, SUMS: tl.constexpr, CAST: tl.constexpr):
    line = table + 4 * tl.program_id(1)
    source, target = tl.load(line + 1) * 16, tl.load(line + 2) * 16
    count, first = tl.load(line + 3), tl.program_id(0)
    whole = count // ROW
    if first * ROW < count:
        total = tl.zeros([ROW], tl.int64)
        for row in range(first, whole, tl.num_programs(0)):
            word = _passed(source, target, row, count, ROW, CAST, True)
            if SUMS:
                total += word * tl.load(a + row)
        if (whole * ROW < count) & (whole % tl.num_programs(0) == first):
            word = _passed(source, target, whole, count, ROW, CAST, False)
            if SUMS:
                total += word * tl.load(a + whole)
        if SUMS:
            tl.atomic_add(found + tl.load(line), tl.sum(total * tl.load(b + tl.arange(0, ROW))))


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
def _store_words(data, word, expert, row, col, n, k, a, b, SUMS: tl.constexpr):
    """Stores words [R, W] at these rows and columns of an expert; returns their products with the factors."""
    inside = (row < n)[:, None] & (col < k // 4)[None, :]
    at = (expert * n + row)[:, None] * (k // 4) + col[None, :]
    tl.store(tl.multiple_of(data + at, [1, 16]), word, mask=inside)
    products = tl.zeros(word.shape, tl.int64)
    if SUMS:
        # Rows are of words in 4s, so that four neighbours lie in one row of the digest's.
        line, column = tl.max_constancy(at >> 10, [1, 4]), tl.max_contiguous(tl.multiple_of(at & 1023, [1, 4]), [1, 4])
        factor = tl.load(a + line, mask=inside, other=0) * tl.load(
            tl.multiple_of(b + column, [1, 16]), mask=inside, other=0
        )
        products = word.to(tl.int64) * factor
    return products


@launched
@triton.jit
def _blocks_kernel(table, a, b, found, ROW: tl.constexpr, SUMS: tl.constexpr):
    """Blocks of 128x128 as in `model.kernels.quantize`, as four quarters of every fourth row."""
    tl.static_assert(ROW == 1024)
    line = table + 7 * tl.program_id(1)
    w = (tl.load(line + 1) * 16).to(tl.pointer_type(tl.float32))
    data = (tl.load(line + 2) * 16).to(tl.pointer_type(tl.int32))
    scales = (tl.load(line + 3) * 16).to(tl.pointer_type(tl.float32))
    experts, n, k = tl.load(line + 4), tl.load(line + 5), tl.load(line + 6) * 16
    nbs, kbs = tl.cdiv(n, 128), tl.cdiv(k, 128)
    first, last = tl.program_id(0), experts * nbs * kbs
    if first < last:
        total, of_scales = tl.zeros([32, 32], tl.int64), tl.zeros([1], tl.int64)
        for where in range(first, last, tl.num_programs(0)):
            expert, nb, kb = where // (nbs * kbs), where // kbs % nbs, where % kbs
            row, col, words = nb * 128 + 4 * tl.arange(0, 32), kb * 128 + tl.arange(0, 128), kb * 32 + tl.arange(0, 32)
            own = w + expert * n * k
            q0 = _quarter(own, row, col, n, k)
            q1 = _quarter(own, row + 1, col, n, k)
            q2 = _quarter(own, row + 2, col, n, k)
            q3 = _quarter(own, row + 3, col, n, k)
            scale, inverse = _scale(tl.max(_largest(q0, q1, q2, q3), 0), False)
            total += _store_words(data, _four(q0, inverse), expert, row, words, n, k, a, b, SUMS)
            total += _store_words(data, _four(q1, inverse), expert, row + 1, words, n, k, a, b, SUMS)
            total += _store_words(data, _four(q2, inverse), expert, row + 2, words, n, k, a, b, SUMS)
            total += _store_words(data, _four(q3, inverse), expert, row + 3, words, n, k, a, b, SUMS)
            tl.store(scales + where, scale)
            if SUMS:
                word = scale.to(tl.int32, bitcast=True).to(tl.int64)
                of_scales += word * tl.load(a + (where >> 10)) * tl.load(b + (where & 1023))
        if SUMS:
            slot = found + tl.load(line)
            tl.atomic_add(slot, tl.sum(tl.sum(total, 1), 0))
            tl.atomic_add(slot + 1, tl.sum(of_scales, 0))
