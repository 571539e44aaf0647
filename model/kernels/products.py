"""Block-FP8 products on Hopper: `model.fp8.Product` is the reference. One kernel, `model.kernels.grouped`, does
forward, Dgrad and Wgrad, grouped by expert or dense (one expert). Results are within 2.5e-3 in norm of FP64 on the
decoded operands in BF16, of which rounding the result is 1.7e-3, and within 1e-3 in FP32.

Two libraries take over where they are faster: DeepGEMM, where it is installed, forward and Dgrad of large experts and
of dense layers over a short contraction; cuBLASLt dense products over a long one and Wgrad of many tiles. ``ours`` asks
for our kernel all the same, or for the library's.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from triton.experimental.gluon import language as gl

from model.fp8 import BLOCK, Quantized
from model.kernels import grouped
from model.kernels.launch import Tiles
from model.kernels.rows import experts_of_rows

STAGES, HALVES_STAGES, WGRAD_STAGES = 5, 3, 4
"""Depth of the ring of tiles: what fits in shared memory beside the result's staging, for tiles of 128 rows, of two
halves, and in Wgrad, whose results are FP32."""
GROUP = 8
"""Row tiles that are walked together, so that the tiles in flight share operands in the L2 cache."""
LONG = 4096
"""Over a longer contraction cuBLASLt is the faster one in forward and Dgrad."""
LARGE = 2**22
"""Weights of a product that DeepGEMM is asked for: it compiles a kernel of its own for each shape, which takes many
seconds, and so a small model's first steps took minutes."""


def grouped_matmul(x: Quantized, w: Quantized, ends: Tensor, *, ours: bool = False) -> Tensor:
    """``x_e @ w_e^T`` for each expert e: x [P, K] in 1x128 tiles, its rows placed as `model.kernels.rows.Places` says
    with their ``ends`` int32 [E], w [E, N, K] in 128x128 blocks -> BF16 [P, N], unwritten past the last end. With the
    transposed copy of w it is Dgrad. K must be a multiple of 16, N of 8."""
    (m, k), (experts, n, _) = x.data.shape, w.data.shape
    _check(x, w, ends)
    out = torch.empty(m, n, dtype=torch.bfloat16, device=x.data.device)
    library = None if ours else library_for(w)
    if m and library is not None:
        library.m_grouped_fp8_gemm_nt_contiguous(
            (x.data, x.scale), (w.data, _packed(w.scale)), out, _experts_of_rows(ends, m)
        )
    elif m:
        _launch(x, Quantized(w.data.view(experts * n, k), w.scale), ends, out, n)
    return out


def grouped_wgrad(dy: Quantized, x: Quantized, ends: Tensor, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """``dy_e^T @ x_e`` for each expert: dy [N, P] and x [K, P] in transposed 128x1 tiles of `quantize_both`, ``ends``
    int32 [E] of the same places -> [E, N, K] in ``dtype``; zeros for an expert without rows."""
    experts, n, k = ends.shape[0], dy.data.shape[0], x.data.shape[0]
    out = torch.empty(experts, n, k, dtype=dtype, device=dy.data.device)
    _launch(dy, x, ends, out.view(experts * n, k), k, wgrad=True)
    return out


def keys_and_values(x: Quantized, w: Quantized, out: Tensor, nope: int) -> None:
    """`matmul` of w [1, heads (nope + v), K] into ``out`` [M, heads, nope + rope + v]: keys but for their last ``rope``
    numbers, which are left as they are, and values. nope and v are multiples of 128."""
    m, heads, size = out.shape
    period = w.data.shape[1] // heads
    _check(x, w, _all(m, out.device))
    if m:
        spread = period, period - nope, size - period
        _launch(x, Quantized(w.data[0], w.scale), _all(m, out.device), out.view(m, -1), w.data.shape[1], spread=spread)


def matmul(x: Quantized, w: Quantized, *, ours: bool | None = None) -> Tensor:
    """``x @ w^T``: x [M, K] in 1x128 tiles, w [1, N, K] in 128x128 blocks -> BF16 [M, N]."""
    (m, _), (_, n, k) = x.data.shape, w.data.shape
    library = library_for(w) if ours is None and k <= LONG else None
    if library is not None and m:
        out = torch.empty(m, n, dtype=torch.bfloat16, device=x.data.device)
        library.fp8_gemm_nt((x.data, x.scale), (w.data[0], _packed(w.scale[0])), out)
        return out
    ours = k <= LONG if ours is None else ours
    if not ours and has_scaled_mm() and m and m % 4 == 0 and n % 16 == 0 and k % BLOCK == 0:
        blocks, padded = -(-n // BLOCK), w.scale.stride(-2)
        return F.scaled_mm(
            x.data, w.data[0].T, x.scale, F.ScalingType.BlockWise1x128,
            w.scale.as_strided((padded, blocks), (1, padded)), F.ScalingType.BlockWise128x128,
            output_dtype=torch.bfloat16,
        )  # fmt: skip
    return grouped_matmul(x, w, _all(m, x.data.device), ours=True)


def wgrad(dy: Quantized, x: Quantized, *, dtype: torch.dtype = torch.float32, ours: bool | None = None) -> Tensor:
    """``dy^T @ x`` of transposed 128x1 tiles [N, P] and [K, P] -> [N, K] in ``dtype``. Where the result has so few
    tiles that processors would wait for others, ours multiplies the tokens in parts and adds those in FP32, which
    cuBLASLt does not."""
    (n, tokens), k, device = dy.data.shape, x.data.shape[0], dy.data.device
    parts = _parts(-(-n // BLOCK) * -(-k // BLOCK), _multiprocessors(device))
    ours = parts > 1 if ours is None else ours
    if not ours and has_scaled_mm() and n % 16 == 0 and k % 16 == 0 and tokens:
        tiles = F.ScalingType.BlockWise1x128
        return F.scaled_mm(dy.data, x.data.T, dy.scale, tiles, x.scale, tiles, output_dtype=dtype)
    if parts > 1:
        return grouped_wgrad(dy, x, _all(tokens, device, parts)).sum(0).to(dtype)
    return grouped_wgrad(dy, x, _all(tokens, device), dtype=dtype)[0]


def library_for(w: Quantized) -> ModuleType | None:
    """DeepGEMM, where it is there and worth its compiler."""
    return deep_gemm() if w.data.numel() >= LARGE else None


@functools.cache
def deep_gemm() -> ModuleType | None:
    """DeepGEMM as its own package or as vLLM carries it, or None."""
    for name in ("deep_gemm", "vllm.third_party.deep_gemm"):
        if importlib.util.find_spec(name.split(".", maxsplit=1)[0]) is not None:
            try:
                return importlib.import_module(name)
            except ImportError:
                continue
    return None


@functools.cache
def has_scaled_mm() -> bool:
    """Whether torch reaches cuBLASLt's block-FP8 product on this chip."""
    return hasattr(F, "ScalingType") and torch.cuda.get_device_capability() == (9, 0)


def _packed(scale: Tensor) -> Tensor:
    """With the strides of a packed tensor even where there is one row, of which `contiguous` leaves what they are."""
    return scale.contiguous().view(-1).view(scale.shape)


@functools.lru_cache(maxsize=64)
def _experts_of_rows(ends: Tensor, rows: int) -> Tensor:
    """Kept: a layer asks twice forward and twice backward."""
    return experts_of_rows(ends, rows)


@functools.lru_cache(maxsize=64)
def _all(rows: int, device: torch.device, parts: int = 1) -> Tensor:
    """The ends of ``parts`` about equal parts of all rows, each but the last a multiple of 128."""
    blocks = -(-rows // BLOCK)
    ends = [min(rows, blocks * (part + 1) // parts * BLOCK) for part in range(parts)]
    return torch.tensor(ends, dtype=torch.int32, device=device)


def _parts(tiles: int, processors: int) -> int:
    """The number, up to 4, of parts with ``tiles`` each that keep the processors busiest; 1 where one part keeps them
    busy for 60 % of the time."""
    busy = {parts: parts * tiles / (-(-parts * tiles // processors) * processors) for parts in (1, 2, 3, 4)}
    return 1 if busy[1] >= 0.6 else max(busy, key=lambda parts: busy[parts])


def _check(x: Quantized, w: Quantized, ends: Tensor) -> None:
    k, n = x.data.shape[1], w.data.shape[1]
    if w.data.shape[2] != k or k % 16 or n % 8:
        raise ValueError(
            f"cannot multiply {tuple(x.data.shape)} by {tuple(w.data.shape)}: K in 16s and N in 8s, equal K"
        )
    if ends.dtype != torch.int32 or ends.shape[0] != w.data.shape[0]:
        raise ValueError(f"ends must be int32 [{len(w.data)}], not {ends.dtype} {tuple(ends.shape)}")
    if x.scale.stride(0) != 1 or x.scale.stride(1) % 4:
        raise ValueError("scales of tiles must have their rows contiguous and a stride in 4s, as quantize_tiles gives")


def _launch(
    a: Quantized, b: Quantized, ends: Tensor, out: Tensor, cols: int, *, wgrad: bool = False,
    spread: tuple[int, int, int] = (BLOCK, 0, 0),
) -> None:  # fmt: skip
    """``spread``: the kernel's period, ahead and gap."""
    rows = a.data.shape[0]
    k_blocks = -(-a.data.shape[1] // BLOCK)
    processors = _multiprocessors(out.device)
    halves = 1 if wgrad else _halves(-(-rows // BLOCK), -(-cols // BLOCK), processors)
    sa = _tiles(a.scale.T, (1, 64))
    sb = _tiles(b.scale.T, (1, 128)) if wgrad else sa
    grouped._grouped_kernel[(processors,)](
        _tiles(a.data, (64, BLOCK)), _tiles(b.data, (BLOCK, BLOCK)), sa, sb,
        b.scale, b.scale.stride(-2), ends, _tiles(out, (64, BLOCK)), out, out.stride(0), ends.shape[0], rows, cols,
        k_blocks, *spread,
        STAGES=WGRAD_STAGES if wgrad else (STAGES, HALVES_STAGES)[halves - 1], WGRAD=wgrad, GROUP=GROUP, HALVES=halves,
        num_warps=4,
    )  # fmt: skip


def _halves(m_tiles: int, n_tiles: int, processors: int) -> int:
    """Two where tiles of 256 rows keep all processors at work as well as those of 128, which take half as long."""
    small, large = -(-m_tiles * n_tiles // processors), -(-(-(-m_tiles // 2) * n_tiles) // processors)
    return 2 if 2 * large <= 1.1 * small else 1


@functools.cache
def _multiprocessors(device: torch.device) -> int:
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def _tiles(x: Tensor, block: tuple[int, int]) -> Tiles:
    return Tiles(x, x.shape, x.stride(), block, _layout(x.dtype, block))


@functools.cache
def _layout(dtype: torch.dtype, block: tuple[int, int]) -> Any:
    kinds = {torch.float8_e4m3fn: gl.float8e4nv, torch.bfloat16: gl.bfloat16, torch.float32: gl.float32}
    if dtype == torch.float32 and block[0] == 1:
        return gl.NVMMASharedLayout(swizzle_byte_width=0, element_bitwidth=32, rank=2)
    return gl.NVMMASharedLayout.get_default_for(list(block), kinds[dtype])
