"""Rotary positions with YaRN's frequencies (arXiv:2309.00071; DeepSeek-V3 report, section 4.3), pairs interleaved."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from model.config import ModelConfig
from model.dispatch import on_gpu


def frequencies(config: ModelConfig) -> Tensor:
    """Radians a position for each rotated pair, FP32 [qk_rope_head_dim / 2].

    Pairs that turn more than beta_fast times within the original context keep their frequency, those that turn fewer
    than beta_slow times are slowed by the factor, a linear ramp lies between.
    """
    dim = config.qk_rope_head_dim
    base = config.rope_theta ** -(torch.arange(0, dim, 2).float() / dim)

    def pair_turning(turns: float) -> float:
        context = config.rope_original_max_position_embeddings
        return dim * math.log(context / (turns * 2 * math.pi)) / math.log(config.rope_theta) / 2

    low = max(math.floor(pair_turning(config.rope_beta_fast)), 0)
    high = min(math.ceil(pair_turning(config.rope_beta_slow)), dim - 1)
    ramp = ((torch.arange(dim // 2).float() - low) / (max(high - low, 0.001))).clamp(0, 1)
    return base / config.rope_factor * ramp + base * (1 - ramp)


def softmax_scale(config: ModelConfig) -> float:
    """1/sqrt(head dim), times the square of YaRN's attention temperature 0.1 m ln s + 1."""
    mscale = 0.1 * config.rope_mscale * math.log(config.rope_factor) + 1.0 if config.rope_factor > 1 else 1.0
    return float(config.qk_head_dim**-0.5 * mscale**2)


def rotations(positions: Tensor, freqs: Tensor) -> Tensor:
    """positions [...] -> unit complex numbers [..., qk_rope_head_dim / 2]."""
    angles = positions.unsqueeze(-1).float() * freqs
    return torch.polar(torch.ones_like(angles), angles)


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Turns the pairs (x0, x1), (x2, x3), ... of the last dimension; ``turns`` broadcasts against [..., D/2]."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns).flatten(-2).to(x.dtype)


@on_gpu("rotate_tail")
def rotate_tail(x: Tensor, turns: Tensor, start: int) -> Tensor:
    """`rotate` for the dimensions from ``start`` on; those before stay. One copy of x, where cutting it apart and
    joining it again would take several; where no gradient is wanted x itself is turned."""
    if not torch.is_grad_enabled():
        return turn_tail(x, turns, start)
    turned: Tensor = _RotateTail.apply(x, turns, start)
    return turned


class _RotateTail(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, turns: Tensor, start: int) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.turns, ctx.start = turns, start
        return turn_tail(x.clone(memory_format=torch.contiguous_format), turns, start)

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def]
        return turn_tail(dy.clone(memory_format=torch.contiguous_format), ctx.turns.conj(), ctx.start), None, None


def turn_tail(x: Tensor, turns: Tensor, start: int) -> Tensor:
    """`rotate_tail` in place, without gradient."""
    tail = x[..., start:]
    if x.dtype == torch.float32:
        tail.view(torch.complex64).mul_(turns)
    else:
        tail.copy_(rotate(tail, turns))
    return x
