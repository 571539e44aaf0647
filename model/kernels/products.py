"""Block-FP8 products on Hopper: `model.fp8.Product` is the reference. One kernel, `model.kernels.grouped`, does
forward, Dgrad and Wgrad, grouped by expert or dense (one expert). Results are within 2.5e-3 in norm of FP64 on the
decoded operands in BF16, of which rounding the result is 1.7e-3, and within 1e-3 in FP32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from model.fp8 import BLOCK, Quantized
from model.kernels import grouped

STAGES, WGRAD_STAGES = 5, 4
"""Depth of the ring of tiles: what fits in shared memory beside the result's staging, which is FP32 in Wgrad."""
GROUP = 8
"""Row tiles that are walked together, so that the tiles in flight share operands in the L2 cache."""


def grouped_matmul(x: Quantized, w: Quantized, ends: Tensor, *, out: Tensor | None = None) -> Tensor:
    """``x_e @ w_e^T`` for each expert e: x [M, K] in 1x128 tiles sorted by expert, w [E, N, K] in 128x128 blocks,
    ``ends`` int32 [E] -> BF16 [M, N]. With the transposed copy of w it is Dgrad. K must be a multiple of 16, N of 8."""
    (m, k), (experts, n, _) = x.data.shape, w.data.shape
    _check(x, w, ends)
    if out is None:
        out = torch.empty(m, n, dtype=torch.bfloat16, device=x.data.device)
    if m:
        _launch(x, Quantized(w.data.view(experts * n, k), w.scale), ends, out, n, wgrad=False)
    return out


def grouped_wgrad(dy: Quantized, x: Quantized, padded: Tensor, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """``dy_e^T @ x_e`` for each expert: dy [N, P] and x [K, P] transposed 128x1 tiles of `quantize_both`, ``padded``
    int32 [E] of the same segments -> [E, N, K] in ``dtype``; zeros for an expert without rows."""
    experts, n, k = len(padded), dy.data.shape[0], x.data.shape[0]
    out = torch.empty(experts, n, k, dtype=dtype, device=dy.data.device)
    _launch(dy, x, padded, out.view(experts * n, k), k, wgrad=True)
    return out


def matmul(x: Quantized, w: Quantized) -> Tensor:
    """``x @ w^T``: x [M, K] in 1x128 tiles, w [N, K] in 128x128 blocks -> BF16 [M, N]."""
    ends = torch.full((1,), len(x.data), dtype=torch.int32, device=x.data.device)
    return grouped_matmul(x, Quantized(w.data.unsqueeze(0), w.scale.unsqueeze(0)), ends)


def _check(x: Quantized, w: Quantized, ends: Tensor) -> None:
    k, n = x.data.shape[1], w.data.shape[1]
    if w.data.shape[2] != k or k % 16 or n % 8:
        raise ValueError(
            f"cannot multiply {tuple(x.data.shape)} by {tuple(w.data.shape)}: K in 16s and N in 8s, equal K"
        )
    if ends.dtype != torch.int32 or len(ends) != len(w.data):
        raise ValueError(f"ends must be int32 [{len(w.data)}], not {ends.dtype} {tuple(ends.shape)}")
    if x.scale.stride(0) != 1 or x.scale.stride(1) % 4:
        raise ValueError("scales of tiles must have their rows contiguous and a stride in 4s, as quantize_tiles gives")


def _launch(a: Quantized, b: Quantized, ends: Tensor, out: Tensor, cols: int, *, wgrad: bool) -> None:
    sms = torch.cuda.get_device_properties(out.device).multi_processor_count
    rows = a.data.shape[0]
    k_blocks = -(-a.data.shape[1] // BLOCK)
    sa = _descriptor(a.scale.T, [1, 64])
    sb = _descriptor(b.scale.T, [1, 128]) if wgrad else _descriptor(a.scale.T, [1, 128])
    grouped._grouped_kernel[(sms,)](
        _descriptor(a.data, [64, BLOCK]), _descriptor(b.data, [BLOCK, BLOCK]), sa, sb,
        a.scale, a.scale.stride(1), b.scale, ends, _descriptor(out, [64, BLOCK]), out, len(ends), rows, cols, k_blocks,
        STAGES=WGRAD_STAGES if wgrad else STAGES, WGRAD=wgrad, BULK=wgrad or len(ends) == 1, GROUP=GROUP, num_warps=4,
    )  # fmt: skip


def _descriptor(x: Tensor, block: list[int]) -> Any:
    kinds = {torch.float8_e4m3fn: gl.float8e4nv, torch.bfloat16: gl.bfloat16, torch.float32: gl.float32}
    layout = gl.NVMMASharedLayout.get_default_for(block, kinds[x.dtype])
    if x.dtype == torch.float32 and block[0] == 1:
        layout = gl.NVMMASharedLayout(swizzle_byte_width=0, element_bitwidth=32, rank=2)
    return TensorDescriptor.from_tensor(x, block, layout)
