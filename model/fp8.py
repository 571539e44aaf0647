"""Block FP8 as DeepSeek-V3 trains with it (technical report, section 3.3), in plain torch.

This is the reference that every kernel is held against, and what runs where there is no GPU: it stores real
``float8_e4m3fn`` bytes with their scales and multiplies what they decode to, in FP32.

Activations and gradients are quantised in tiles of 1x128 along the contraction, weights in blocks of 128x128. All
three products of a linear layer are quantised: forward (Fprop), gradient of the input (Dgrad) and of the weight
(Wgrad, whose operands are tiled along the tokens). Scales are FP32, ``amax / 448`` with amax clamped at 1e-4; a value
decodes as ``byte * scale``, the layout of ``weight_scale_inv`` in published checkpoints.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK = 128
E4M3_MAX = 448.0
AMAX_FLOOR = 1e-4
# Tensors, because of a plain number an operator makes one each time, which takes a CPU as long as to divide 128 by it.
_LARGEST = torch.tensor(E4M3_MAX)
_EXPONENT = torch.tensor(0x7F800000, dtype=torch.int32)
SMALL_ROWS = 1024
"""Up to so many rows one grouped call is faster on a CPU than a loop over the experts, whose products are larger."""


class Quantized(NamedTuple):
    """``data`` [..., N, K] float8_e4m3fn and ``scale`` FP32: [..., N, ceil(K/128)] for 1x128 tiles,
    [..., ceil(N/128), ceil(K/128)] for 128x128 blocks."""

    data: Tensor
    scale: Tensor


def quantize_tiles(x: Tensor) -> Quantized:
    """1x128 tiles along the last dimension of ``x`` [..., K], any float dtype."""
    tiles = _pad(x.float(), -1).unflatten(-1, (-1, BLOCK))
    scale = tiles.abs().amax(-1).clamp_min(AMAX_FLOOR) / E4M3_MAX
    data = (tiles / scale.unsqueeze(-1)).to(torch.float8_e4m3fn).flatten(-2)
    return Quantized(data[..., : x.shape[-1]], scale)


def dequantize_tiles(q: Quantized) -> Tensor:
    scale = q.scale.repeat_interleave(BLOCK, -1)[..., : q.data.shape[-1]]
    return q.data.float() * scale


def quantize_blocks(w: Tensor) -> Quantized:
    """128x128 blocks over the last two dimensions of ``w`` [..., N, K]."""
    n, k = w.shape[-2:]
    padded = _pad(_pad(w.float(), -1), -2)
    blocks = padded.unflatten(-1, (-1, BLOCK)).unflatten(-3, (-1, BLOCK))  # [..., n, 128, k, 128]
    scale = blocks.abs().amax((-3, -1)).clamp_min(AMAX_FLOOR) / E4M3_MAX
    data = (blocks / scale[..., :, None, :, None]).to(torch.float8_e4m3fn)
    return Quantized(data.flatten(-2).flatten(-3, -2)[..., :n, :k].contiguous(), scale)


def scale_shape(w: Tensor) -> torch.Size:
    """Of the scales of `quantize_blocks`."""
    return torch.Size((*w.shape[:-2], -(-w.shape[-2] // BLOCK), -(-w.shape[-1] // BLOCK)))


def dequantize_blocks(q: Quantized) -> Tensor:
    n, k = q.data.shape[-2:]
    values = decoded(q.data)
    if n % BLOCK or k % BLOCK:
        return values.mul_(q.scale.repeat_interleave(BLOCK, -1).repeat_interleave(BLOCK, -2)[..., :n, :k])
    values.unflatten(-1, (-1, BLOCK)).unflatten(-3, (-1, BLOCK)).mul_(q.scale[..., :, None, :, None])
    return values


def decoded(data: Tensor) -> Tensor:
    """E4M3 bytes as FP32, which torch converts one number at a time on a CPU. Moved up by 7 digits, sign apart, a byte
    is an FP16 number 2^8 times too small; the two bytes that are no number would be 480."""
    if data.device.type != "cpu":
        return data.float()
    moved = data.view(torch.int8).to(torch.int16).bitwise_left_shift_(7).bitwise_and_(-0x4001)
    values = moved.view(torch.float16).float().mul_(256.0)
    least, most = values.aminmax()
    return values if max(most, -least) <= E4M3_MAX else values.masked_fill_(values.abs() > E4M3_MAX, torch.nan)


def round_tiles(x: Tensor) -> Tensor:
    """What ``x`` becomes by a trip through 1x128 FP8 tiles, in ``x``'s dtype."""
    k = x.shape[-1]
    if k % BLOCK and k > BLOCK:
        return dequantize_tiles(quantize_tiles(x)).to(x.dtype)
    tiles = x.float() if k <= BLOCK else x.float().unflatten(-1, (-1, BLOCK))
    scale = tiles.abs().amax(-1, keepdim=True).clamp_min_(AMAX_FLOOR).div_(_LARGEST)
    rounded = round_e4m3_(tiles / scale).mul_(scale)
    return (rounded if k <= BLOCK else rounded.flatten(-2)).to(x.dtype)


def round_e4m3_(y: Tensor) -> Tensor:
    """The nearest E4M3 value, ties to even, of FP32 values up to 448, in their place: what conversion to bytes and back
    gives, which torch does one number at a time on a CPU.

    A value 2^e m has quanta of 2^(e-3), or 2^-9 below 2^-6. Adding and taking away 1.5 * 2^23 quanta leaves the FP32
    adder no digits but whole quanta.
    """
    binade = y.view(torch.int32).bitwise_and(_EXPONENT).view(torch.float32).clamp_min_(2.0**-6)
    return y.add_(binade, alpha=1.5 * 2.0**20).sub_(binade, alpha=1.5 * 2.0**20)


def round_blocks(w: Tensor) -> Tensor:
    """What ``w`` becomes by a trip through 128x128 FP8 blocks, in ``w``'s dtype."""
    return dequantize_blocks(quantize_blocks(w)).to(w.dtype)


class Product(torch.autograd.Function):
    """``x_e @ w_e^T`` for each expert e: x [M, K] sorted by expert, w [E, N, K], ``counts`` rows an expert. A plain
    linear layer is the case of one expert.

    With ``quantized``, all three products are in FP8 as in the report: forward in 1x128 tiles of x along K, Dgrad in
    1x128 tiles of dy along N, Wgrad with both operands in tiles of 128 tokens within each expert.
    """

    @staticmethod
    def forward(ctx, x: Tensor, w: Tensor, counts: list[int], quantized: bool) -> Tensor:  # type: ignore[no-untyped-def]
        used = round_blocks(w) if quantized else w
        ctx.save_for_backward(x, used)
        ctx.counts, ctx.quantized = counts, quantized
        return grouped_matmul(round_tiles(x) if quantized else x, used, counts)

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Tensor, Tensor, None, None]:  # type: ignore[no-untyped-def]
        x, used = ctx.saved_tensors
        dy = dy.contiguous()
        dx = grouped_matmul(round_tiles(dy) if ctx.quantized else dy, used.mT, ctx.counts)
        dw = torch.empty_like(used)
        for dw_e, dy_e, x_e in zip(dw, _rows(dy, ctx.counts), _rows(x, ctx.counts), strict=True):
            if not len(dy_e):
                dw_e.zero_()
            elif ctx.quantized:
                torch.mm(round_tiles(dy_e.T.contiguous()), round_tiles(x_e.T.contiguous()).T, out=dw_e)
            else:
                torch.mm(dy_e.T, x_e, out=dw_e)
        return dx, dw, None, None


def product(x: Tensor, w: Tensor, counts: list[int], quantized: bool) -> Tensor:
    """`Product`, or its forward alone where no gradient is wanted: x [M, K], w [E, N, K] -> [M, N]."""
    if not torch.is_grad_enabled():
        return grouped_matmul(round_tiles(x), round_blocks(w), counts) if quantized else grouped_matmul(x, w, counts)
    out: Tensor = Product.apply(x, w, counts, quantized)
    return out


def grouped_matmul(x: Tensor, w: Tensor, counts: list[int]) -> Tensor:
    """``x_e @ w_e^T`` for the rows of each expert, without gradient: x [M, K], w [E, N, K] -> [M, N]."""
    if len(counts) > 1 and _one_call_pays(x, w):
        offsets = torch.tensor(list(itertools.accumulate(counts)), dtype=torch.int32, device=x.device)
        return F.grouped_mm(x, w.mT, offs=offsets)
    out = x.new_empty(len(x), w.shape[1])
    for out_e, x_e, w_e in zip(_rows(out, counts), _rows(x, counts), w.unbind(0), strict=True):
        if len(x_e):
            torch.mm(x_e, w_e.T, out=out_e)
    return out


def grouped_rows(x: Tensor, w: Tensor, ends: Tensor) -> Tensor:
    """`grouped_matmul` for the places int32 [E] where the experts' rows end, which the host need not know for one
    call."""
    if _one_call_pays(x, w):
        return F.grouped_mm(x, w.mT, offs=ends)
    return grouped_matmul(x, w, ends.diff(prepend=ends.new_zeros(1)).tolist())


def _one_call_pays(x: Tensor, w: Tensor) -> bool:
    """Whether `F.grouped_mm` takes these operands (rows of whole 16 bytes; BF16 on a GPU) and beats the loop."""
    aligned = w.shape[1] * x.element_size() % 16 == 0 and w.shape[2] * x.element_size() % 16 == 0
    if x.is_cuda:
        return aligned and x.dtype == torch.bfloat16
    return aligned and x.dtype == torch.float32 and len(x) <= SMALL_ROWS


def _rows(x: Tensor, counts: list[int]) -> tuple[Tensor, ...]:
    return torch.split(x, counts)


def _pad(x: Tensor, dim: int) -> Tensor:
    missing = -x.shape[dim] % BLOCK
    if not missing:
        return x
    return F.pad(x, (0, missing) if dim == -1 else (0, 0, 0, missing))
