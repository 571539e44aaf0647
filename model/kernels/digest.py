"""The sums that `model.digest` makes on a GPU, of many tensors in one launch."""

# Kernels are typed by Triton at each launch.
# mypy: disable-error-code="untyped-decorator, no-untyped-def"

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.kernels.launch import launched

PROGRAMS = 1024
"""That share the rows of one tensor."""


def word_sums(
    tensors: Sequence[Tensor], sizes: Sequence[int], a: Tensor, b: Tensor, programs: int = PROGRAMS
) -> Tensor:
    """Of each of ``tensors``, contiguous and whole words of 4 bytes, what `model.digest.word_sum` gives, and its number
    of bytes as ``sizes`` says it, int64 [len(tensors), 2]; factors ``a`` of rows and ``b`` [1024] of columns, int64."""
    rows = [[t.data_ptr(), t.nbytes // 4, size] for t, size in zip(tensors, sizes, strict=True)]
    table = torch.tensor(rows, dtype=torch.int64).to(a.device, non_blocking=True)
    sums = torch.zeros(len(tensors), dtype=torch.int64, device=a.device)
    _sum_kernel[(programs, len(tensors))](table, a, b, sums, ROW=len(b), num_warps=4)
    return torch.stack([sums, table[:, 2]], 1)


@launched
@triton.jit
def _sum_kernel(table, a, b, sums, ROW: tl.constexpr):
    which = tl.program_id(1)
    words = tl.load(table + 3 * which).to(tl.pointer_type(tl.int32))
    count = tl.load(table + 3 * which + 1)
    rows = tl.cdiv(count, ROW)
    first = tl.program_id(0)
    if first < rows:
        column = tl.arange(0, ROW)
        total = tl.zeros([ROW], tl.int64)
        for row in range(first, rows, tl.num_programs(0)):
            at = row * ROW + column
            total += tl.load(words + at, mask=at < count, other=0).to(tl.int64) * tl.load(a + row)
        tl.atomic_add(sums + which, tl.sum(total * tl.load(b + column)))
