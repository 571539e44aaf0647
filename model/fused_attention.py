"""cuDNN's attention over rows on a GPU, forward and backward: the middle of `model.attention.Attention`, for the
autograd functions of `model.fused` and `model.fused_fp8`, which own every tensor that comes and goes here."""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from model.config import ModelConfig
from model.segments import Segments, _FromRows, _ToRows

aten = torch.ops.aten
PADDED = 2.0
"""Up to so many row places a token, attention reads tokens into rows."""


class Kept(NamedTuple):
    """What the backward pass needs: queries, keys and values in rows [S, heads, longest, D], the output, and what cuDNN
    says of them."""

    q: Tensor
    k: Tensor
    v: Tensor
    out: Tensor
    lse: Tensor
    seed: Tensor
    offset: Tensor


def serves(c: ModelConfig, segments: Segments, device: torch.device) -> bool:
    """Whether cuDNN takes these widths and rows of this length, without too much padding."""
    count, longest, total = len(segments.lengths), segments.longest, sum(segments.lengths)
    if count * longest > PADDED * total:
        return False
    return _has_cudnn(c.num_attention_heads, longest, c.qk_head_dim, c.v_head_dim, device)


def forward(q: Tensor, k: Tensor, v: Tensor, segments: Segments, scale: float) -> tuple[Tensor, Kept]:
    """Turned queries and keys [N, heads, nope + rope], and values [N, heads, v], which may be parts of wider tensors ->
    [N, heads v]."""
    count, longest, heads = len(segments.lengths), segments.longest, q.shape[1]
    even = count * longest == q.shape[0]
    read = (q, k, v) if even else (x.index_select(0, segments.source) for x in (q, k, v))
    rows = [x.view(count, longest, heads, -1).transpose(1, 2) for x in read]
    out, lse, _, _, _, _, seed, offset, _ = aten._scaled_dot_product_cudnn_attention(
        *rows, None, True, 0.0, True, False, scale=scale
    )
    flat = out.transpose(1, 2).reshape(count * longest, -1)
    kept = Kept(rows[0], rows[1], rows[2], out, lse, seed, offset)
    return flat if even else flat.index_select(0, segments.home), kept


def backward(dy: Tensor, kept: Kept, segments: Segments, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """dy [N, heads v] -> the gradients of the turned queries and of keys and values, each [N, heads, D]."""
    count, heads, longest, _ = kept.out.shape
    even = count * longest == dy.shape[0]
    if not even:
        dy = _FromRows.spread(dy, segments.home, count * longest)
    gradients = aten._scaled_dot_product_cudnn_attention_backward(
        dy.view(count, longest, heads, -1).transpose(1, 2), *kept, None, None, None, longest, longest, 0.0, True,
        scale=scale,
    )  # fmt: skip
    d = (x.transpose(1, 2).reshape(count * longest, heads, -1) for x in gradients)
    dq, dk, dv = d if even else (_ToRows.gathered(x, segments) for x in d)
    return dq, dk, dv


@functools.lru_cache(maxsize=1024)
def _has_cudnn(heads: int, longest: int, width: int, values: int, device: torch.device) -> bool:
    q, v = (
        torch.empty(1, longest, heads, d, dtype=torch.bfloat16, device=device).transpose(1, 2).requires_grad_()
        for d in (width, values)
    )
    parameters = torch.backends.cuda.SDPAParams(q, q, v, None, 0.0, True, False)
    return torch.backends.cuda.can_use_cudnn_attention(parameters)
