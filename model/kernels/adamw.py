"""AdamW's update, of which `model.optimizer` holds the reference. With it a weight's FP8 blocks can be made without
reading the weight from memory once more."""

# Kernels are typed by Triton at each launch.
# mypy: disable-error-code="untyped-decorator, no-untyped-def"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.fp8 import BLOCK
from model.kernels.launch import launched
from model.kernels.quantize import Weights, _store_block
from model.kernels.sizes import cdiv


def adamw(
    p: Tensor, g: Tensor, m: Tensor, v: Tensor, *,
    lr: float, beta1: float, beta2: float, eps: float, decay: float, step: int, scale: float = 1.0,
    blocks: Weights | None = None,
) -> None:  # fmt: skip
    """One AdamW update in place by ``scale`` times ``g``: ``p`` and ``g`` FP32, moments ``m`` and ``v`` of any dtype,
    rounded after use. ``blocks`` become those of the new p, as `quantize_blocks` makes them."""
    rule = lr / (1 - beta1**step), beta1, beta2, (1 - beta2**step) ** -0.5, eps, 1 - lr * decay, scale
    if blocks is None:
        count, size = p.numel(), 4096
        _adamw_kernel[(cdiv(count, size),)](p, g.contiguous(), m, v, count, *rule, BLOCK=size, num_warps=8)
        return
    rows, turned = blocks
    experts, n, k = rows.data.shape
    _adamw_blocks_kernel[(cdiv(k, BLOCK), cdiv(n, BLOCK), experts)](
        p, g.contiguous(), m, v, *rule, rows.data, rows.scale, rows.scale.stride(1),
        turned.data.view(torch.uint32), turned.scale, turned.scale.stride(1), n, k, num_warps=8,
    )  # fmt: skip


@triton.jit
def _update(p, g, m, v, at, mask, rate, beta1, beta2, correction, eps, kept, scale):
    """Of the weights at these places."""
    grad = tl.load(g + at, mask=mask, other=0.0) * scale
    first = tl.load(m + at, mask=mask, other=0.0).to(tl.float32) * beta1 + grad * (1.0 - beta1)
    second = tl.load(v + at, mask=mask, other=0.0).to(tl.float32) * beta2 + grad * grad * (1.0 - beta2)
    weight = tl.load(p + at, mask=mask, other=0.0) * kept
    tl.store(p + at, weight - rate * first / (tl.sqrt(second) * correction + eps), mask=mask)
    tl.store(m + at, first.to(m.dtype.element_ty), mask=mask)
    tl.store(v + at, second.to(v.dtype.element_ty), mask=mask)


@launched
@triton.jit
def _adamw_kernel(p, g, m, v, count, rate, beta1, beta2, correction, eps, kept, scale, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    _update(p, g, m, v, at, at < count, rate, beta1, beta2, correction, eps, kept, scale)


@launched
@triton.jit
def _adamw_blocks_kernel(
    p, g, m, v, rate, beta1, beta2, correction, eps, kept, scale, q, q_scale, q_stride, t, t_scale, t_stride, n, k
):  # fmt: skip
    """One 128x128 block of one expert: its update, 32 rows after 32, and then its codes. The weights are read again for
    these, out of the cache: kept in registers they would leave the processor one program at a time."""
    row, col = tl.program_id(1) * 128 + tl.arange(0, 32), tl.program_id(0) * 128 + tl.arange(0, 128)
    expert = tl.program_id(2).to(tl.int64) * n * k
    for _ in range(4):
        at = expert + row.to(tl.int64)[:, None] * k + col[None, :]
        mask = (row < n)[:, None] & (col < k)[None, :]
        _update(p, g, m, v, at, mask, rate, beta1, beta2, correction, eps, kept, scale)
        row += 32
    tl.debug_barrier()  # a thread reads what another has written
    _store_block(p, q, q_scale, q_stride, t, t_scale, t_stride, n, k, True, False)
